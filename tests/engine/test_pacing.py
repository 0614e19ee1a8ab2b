"""The size that holds a rate: it is found, kept, and left again where the machine changes; it does not alternate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.pacing import SCALES, Pacer


class Machine:
    """Frames take their time, which passes on a clock of its own."""

    def __init__(self, target_fps: float) -> None:
        self.now = 0.0
        self.pacer = Pacer(target_fps, clock=lambda: self.now)
        self.scale = 1.0
        self.changes = 0

    def run(self, seconds: float, frame_seconds: Callable[[float], float]) -> float:
        """Returns the frames per second of the last second."""
        end, rate = self.now + seconds, 0.0
        while self.now < end:
            taken = frame_seconds(self.scale)
            self.now += taken
            rate = 1 / taken
            scale = self.pacer.note(taken)
            if scale != self.scale:
                self.scale = scale
                self.changes += 1
                self.pacer.go_on(scale)
        return rate


@pytest.mark.parametrize("full_ms", [5, 20, 34, 50, 90, 200])
@pytest.mark.parametrize("fixed_ms", [0, 5])
@pytest.mark.parametrize("target", [15, 30, 60])
def test_the_largest_size_that_holds_the_rate_is_found_and_kept(full_ms: int, fixed_ms: int, target: int) -> None:
    machine = Machine(target)

    def frame_seconds(scale: float) -> float:
        return (fixed_ms + full_ms * scale**2) / 1e3

    machine.run(60, frame_seconds)
    before = machine.changes
    rate = machine.run(1200, frame_seconds)
    held = [scale for scale in SCALES if frame_seconds(scale) <= 1 / target]
    if not held:
        assert machine.scale == SCALES[-1]
        return
    assert rate >= target
    assert machine.scale >= SCALES[min(SCALES.index(held[0]) + 1, len(SCALES) - 1)]
    # What a size takes is forgotten, and tried again ever more rarely.
    assert machine.changes - before <= 2 * 9


def test_it_goes_up_again_when_the_machine_is_free() -> None:
    machine = Machine(30)
    machine.run(20, lambda scale: 0.100 * scale**2)
    assert machine.scale < 0.6
    machine.run(300, lambda scale: 0.020 * scale**2)
    assert machine.scale == 1.0


def test_a_slow_frame_now_and_then_changes_nothing() -> None:
    machine = Machine(30)
    times = iter(range(10**6))
    machine.run(120, lambda scale: 0.5 if next(times) % 10 == 0 else 0.02)
    assert machine.scale == 1.0


def test_times_around_the_limit_do_not_make_it_alternate() -> None:
    machine = Machine(30)
    times = iter(range(10**6))
    machine.run(600, lambda scale: (1 / 30) * scale**2 * (0.97 if next(times) // 100 % 2 else 1.03))
    assert 1 <= machine.changes <= 12


def test_a_size_that_was_too_slow_is_tried_again_ever_more_rarely() -> None:
    """By its area alone the larger size should be fast enough, again and again."""
    machine = Machine(30)

    def frame_seconds(scale: float) -> float:
        return 0.02 if scale <= 0.5 else 0.05

    machine.run(100, frame_seconds)
    assert machine.changes <= 6
    machine.run(1100, frame_seconds)
    assert machine.changes <= 20
