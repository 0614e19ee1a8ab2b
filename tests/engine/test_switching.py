"""Another style in a running stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from engine.errors import CheckpointError
from engine.generators import ResNetConfig, SRVGGConfig, build
from engine.runners.base import RunnerInfo
from engine.switching import StyleSwitcher, shrunk
from engine.translator import Translator

FRAME = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def make(style: str) -> Translator:
    if style == "missing":
        raise CheckpointError("missing: no such file")
    torch.manual_seed(len(style))
    generator = build(
        SRVGGConfig(width=8, convolutions=1, scale=2) if style == "larger" else ResNetConfig(width=8, blocks=1)
    )
    return Translator(generator.eval(), device="cpu")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_the_next_style_comes_between_two_frames() -> None:
    may_be_made = threading.Event()

    def make_slowly(style: str) -> Translator:
        if style == "second":
            may_be_made.wait(60)
        return make(style)

    switcher = StyleSwitcher(["one", "second", "the third"], make_slowly)
    expected = {style: make(style)(FRAME) for style in switcher.styles}
    assert np.array_equal(switcher(FRAME), expected["one"])
    switcher.step_style()
    switcher.step_style()  # once more while it is made ready changes nothing
    for _ in range(5):
        assert np.array_equal(switcher(FRAME), expected["one"])
    may_be_made.set()
    wait_for(lambda: bool(switcher(FRAME).any()) and switcher.style == "second")
    assert np.array_equal(switcher(FRAME), expected["second"])
    assert switcher.engine is not None
    for style in ("the third", "one", "second"):
        switcher.step_style()
        wait_for(lambda style=style: bool(switcher(FRAME).any()) and switcher.style == style)  # type: ignore[misc]
        assert np.array_equal(switcher(FRAME), expected[style])


@pytest.mark.parametrize(
    ("style", "message"), [("missing", "missing: no such file"), ("larger", "it makes frames 2 times as large")]
)
def test_a_style_that_does_not_fit_is_one_line_and_the_stream_goes_on(
    style: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    switcher = StyleSwitcher(["one", style], make)
    before = switcher(FRAME)
    switcher.step_style()
    wait_for(lambda: bool(caplog.messages))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the style stays one: ")
    assert message in caplog.messages[0]
    assert np.array_equal(switcher(FRAME), before)
    assert switcher.style == "one"


def test_the_first_style_has_to_be_there() -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        StyleSwitcher(["missing", "one"], make)


def test_frames_are_made_smaller_to_hold_a_rate_and_larger_again() -> None:
    """The result keeps its size; the stream goes on while a size is made ready, in the engine of whole frames."""
    made: list[RunnerInfo | None] = []
    may_be_made = threading.Event()

    def make_slowly(style: str, like: RunnerInfo | None = None) -> Translator:
        if like is not None:
            may_be_made.wait(60)
        made.append(like)
        return make(style)

    large = cv2.resize(FRAME, (320, 240), interpolation=cv2.INTER_CUBIC)
    switcher = StyleSwitcher(["one", "second"], make_slowly, target_fps=10)
    whole = switcher(large)
    engine = switcher.engine_for(large)
    for _ in range(12):
        switcher.pace(0.2)
    assert switcher.is_preparing
    for _ in range(5):
        assert np.array_equal(switcher(large), whole)
        switcher.pace(0.2)
    may_be_made.set()
    wait_for(lambda: switcher(large) is not None and switcher.scale < 1)
    assert made == [None, engine]
    width, height = switcher.internal_size or (0, 0)
    assert (width, height) == (192, 144)
    small = make("one")(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA))
    assert np.array_equal(switcher(large), cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC))
    assert switcher(large[None]).shape == (1, 240, 320, 3)

    switcher.step_style()  # in the same size
    wait_for(lambda: switcher(large) is not None and switcher.style == "second")
    assert switcher.internal_size == (192, 144)

    assert switcher._pacer is not None
    switcher._pacer._may_rise = 0.0
    switcher._pacer._known.clear()
    for _ in range(20):
        for _ in range(12):
            switcher.pace(0.001)
        wait_for(lambda: not switcher.is_preparing)
        assert switcher(large).shape == (240, 320, 3)
        if switcher.scale == 1.0:
            break
    assert np.array_equal(switcher(large), make("second")(large))


def test_a_size_that_can_not_be_made_ready_is_one_line_and_the_stream_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(style: str, like: RunnerInfo | None = None) -> Translator:
        if like is not None:
            raise CheckpointError("no memory")
        return make(style)

    switcher = StyleSwitcher(["one"], fail, target_fps=10)
    large = cv2.resize(FRAME, (320, 240))
    whole = switcher(large)
    switcher.engine_for(large)
    for _ in range(100):
        switcher.pace(0.2)
        wait_for(lambda: not switcher.is_preparing)
    assert np.array_equal(switcher(large), whole)
    assert caplog.messages == ["the size stays: no memory"]


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((360, 640), 0.5, (180, 320)),
        ((361, 641), 0.5, (180, 320)),
        ((60, 640), 0.25, (60, 160)),
        ((8, 8), 0.25, (8, 8)),
    ],
)
def test_smaller_sizes(size: tuple[int, int], scale: float, expected: tuple[int, int]) -> None:
    assert shrunk(np.zeros((*size, 3), np.uint8), scale).shape[:2] == expected


def test_the_state_is_that_of_the_next_frame() -> None:
    switcher = StyleSwitcher(["one", "second"], make)
    switcher(FRAME)
    assert switcher.state == ("one", 1.0)
    switcher.to("second")
    wait_for(lambda: switcher.state == ("second", 1.0))
    assert switcher.style == "one"
