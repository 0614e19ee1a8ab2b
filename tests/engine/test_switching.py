"""Another style in a running stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.errors import CheckpointError
from engine.generators import ResNetConfig, SRVGGConfig, build
from engine.switching import StyleSwitcher
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
