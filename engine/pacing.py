"""Which size to translate at, so that a rate of frames is held."""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable

SCALES = tuple(2 ** (-step / 4) for step in range(9))
"""Of a frame's sides, from the largest: each step takes 0.71 of the pixels of the one before."""

# A size has to fit with this share of the time to spare; one that takes all the time is left.
_ROOM = 0.1

# Frames to judge a size by: at least so many, and those of about a second.
_LEAST_FRAMES = 12

# What a size took is known for so long; then the machine may have other work.
_KNOWN_SECONDS = 60.0

# After a larger size was too slow, the next attempt waits so long, then twice as long, and so on.
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0

# A larger size that is left within this time was an attempt that failed.
_ATTEMPT_SECONDS = 10.0


class Pacer:
    """Chooses one of `SCALES` from the times that frames take.

    It goes down as far as it takes to have a tenth of the time to spare, and up by one step at most, where that will
    probably leave a tenth, too. Between the two nothing changes. What a size took is remembered, and attempts that
    fail become rarer, so sizes do not alternate.

    Args:
        target_fps: frames per second to hold, more than 0.
        clock: seconds.
    """

    def __init__(self, target_fps: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = 1 / target_fps
        self._clock = clock
        self._step = 0
        self._seconds: collections.deque[float] = collections.deque(maxlen=max(_LEAST_FRAMES, round(target_fps)))
        self._known: dict[int, tuple[float, float]] = {}  # step -> seconds of a frame, and when that was
        self._wait = _FIRST_WAIT
        self._may_rise, self._rose = 0.0, -_ATTEMPT_SECONDS

    def note(self, seconds: float) -> float:
        """Takes the time of a frame in the scale that is current; returns the scale to go on with."""
        self._seconds.append(seconds)
        if len(self._seconds) < _LEAST_FRAMES:
            return SCALES[self._step]
        now, frame_seconds = self._clock(), statistics.median(self._seconds)
        self._known[self._step] = frame_seconds, now
        if frame_seconds > self._budget:
            self._fall(now)
        elif self._step and now >= self._may_rise and self._fits(self._step - 1, now):
            self._rose = now
            self._go(self._step - 1)
        return SCALES[self._step]

    def go_on(self, scale: float) -> None:
        """Frames are translated in this scale from now on, whatever was asked for."""
        self._go(SCALES.index(scale))

    def _fall(self, now: float) -> None:
        if self._step == len(SCALES) - 1:
            return
        if now - self._rose < _ATTEMPT_SECONDS:
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
        self._may_rise = now + self._wait
        smaller = range(self._step + 1, len(SCALES))
        self._go(next((step for step in smaller if self._fits(step, now)), smaller[-1]))

    def _fits(self, step: int, now: float) -> bool:
        """Whether frames of this scale probably leave time to spare."""
        seconds, noted = self._known.get(step, (0.0, -_KNOWN_SECONDS))
        if now - noted >= _KNOWN_SECONDS:
            seconds = self._known[self._step][0] * (SCALES[step] / SCALES[self._step]) ** 2
        return seconds <= (1 - _ROOM) * self._budget

    def _go(self, step: int) -> None:
        self._step = step
        self._seconds.clear()
