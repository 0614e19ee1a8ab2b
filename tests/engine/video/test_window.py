"""The preview window, several sinks at once, and none."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.errors import SinkError
from engine.video import (
    FileSink,
    Frame,
    NullSink,
    SourceInfo,
    StopStream,
    TeeSink,
    WindowSink,
    open_sink,
    open_source,
    window,
)
from tests.media import make_video, read

FRAME = Frame(np.zeros((8, 8, 3), np.uint8), pts=0)


class Screen:
    """Takes the place of OpenCV's windows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown = 0
        self.delays_ms: list[int] = []
        self.key = -1
        self.visible = 1.0
        self.destroyed = False
        monkeypatch.setattr(window, "_check_display", lambda: None)
        monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "resizeWindow", lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", self.imshow)
        monkeypatch.setattr(cv2, "waitKey", self.wait_key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: self.visible)
        monkeypatch.setattr(cv2, "destroyWindow", self.destroy)

    def wait_key(self, delay_ms: int) -> int:
        self.delays_ms.append(delay_ms)
        return self.key

    def imshow(self, title: str, image: np.ndarray) -> None:
        self.shown += 1
        self.image = image

    def destroy(self, *_: object) -> None:
        self.destroyed = True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(monkeypatch)


def test_window_shows_and_closes(screen: Screen) -> None:
    sink = WindowSink("clip")
    sink.write(FRAME)
    sink.write(FRAME)
    assert screen.shown == 2
    assert sink.finish() is None
    assert screen.destroyed


@pytest.mark.parametrize(("time_base", "least", "most"), [(Fraction(1, 1000), 300, 500), (None, 1, 1)])
def test_a_file_is_shown_at_its_own_speed(screen: Screen, time_base: Fraction | None, least: int, most: int) -> None:
    sink = WindowSink("clip", time_base=time_base)
    for pts in (0, 500, 1_000_000):
        sink.write(dataclasses.replace(FRAME, pts=pts))
    first, second, after_a_gap = screen.delays_ms
    assert first == 1
    assert least <= second <= most
    assert after_a_gap <= 2000


class Controls:
    """Notes what the window asks for."""

    def __init__(self) -> None:
        self.strength = 1.0
        self.compare: str | None = None
        self.comparisons = (None, "split")
        self.steps: list[int] = []

    def step_style(self, step: int) -> None:
        self.steps.append(step)

    def describe(self) -> str:
        return "style  engine"


def press(sink: WindowSink, screen: Screen, keys: str, frame: Frame = FRAME) -> None:
    """Each key while a frame is shown, and a frame more."""
    for key in keys:
        screen.key = ord(key)
        sink.write(frame)
    screen.key = -1
    sink.write(frame)


def test_keys_change_style_strength_and_comparison(screen: Screen) -> None:
    controls = Controls()
    sink = WindowSink("clip", controls=controls)
    press(sink, screen, "np")
    assert controls.steps == [1, -1]
    press(sink, screen, "--+")
    assert controls.strength == 0.9
    press(sink, screen, "c")
    assert controls.compare == "split"
    press(sink, screen, "c")
    assert controls.compare is None
    press(sink, screen, "x" + "-" * 20)
    assert controls.strength == 0.0


def test_the_figures_say_how_old_the_picture_is(screen: Screen) -> None:
    big = np.zeros((180, 320, 3), np.uint8)
    sink = WindowSink("clip", controls=Controls())
    frame = Frame(big, pts=0, captured_seconds=time.perf_counter() - 0.2)
    sink.write(frame)
    sink.write(frame)
    words = sink._figures(frame)
    assert re.fullmatch(r"\d+ fps  2\d\d ms old  style  engine", words), words
    assert screen.image.any()
    assert not big.any()  # it is drawn into a copy
    press(sink, screen, "o", frame)
    assert not screen.image.any()
    press(sink, screen, "h", frame)
    assert screen.image.any()


def test_mirror_and_freeze(screen: Screen) -> None:
    first, second = (np.full((4, 6, 3), value, np.uint8) for value in (10, 20))
    first[:, 0] = 200
    sink = WindowSink("clip")
    press(sink, screen, "om", Frame(first, pts=0))
    assert screen.image[0, -1, 0] == 200
    press(sink, screen, "f", Frame(first, pts=1))
    sink.write(Frame(second, pts=2))
    assert screen.image[0, -1, 0] == 200
    press(sink, screen, "f", Frame(second, pts=3))
    assert np.all(screen.image == 20)


def test_screenshot_and_recording(screen: Screen, tmp_path: Path) -> None:
    source = open_source(str(make_video(tmp_path / "in.mp4")))
    folder = tmp_path / "saved"
    folder.mkdir()
    record = functools.partial(FileSink, info=source.info)
    sink = WindowSink("clip", record=record, folder=folder)
    frames = list(source)
    sink.write(frames[0])
    for key, frame in zip("s r    r ", frames[1:], strict=True):
        screen.key = ord(key)
        sink.write(frame)
    sink.finish()
    film, picture = sorted(folder.iterdir(), key=lambda path: path.suffix)
    assert (film.suffix, picture.suffix) == (".mp4", ".png")
    assert np.array_equal(cv2.imread(str(picture)), frames[1].image)
    assert len(read(film).times) == 5
    assert sink.warnings == [f"{picture} is saved", f"{film} is saved"]


def test_a_recording_that_can_not_be_written_does_not_end_the_show(screen: Screen, tmp_path: Path) -> None:
    sink = WindowSink(
        "clip", record=functools.partial(FileSink, info=SourceInfo("x", 8, 8)), folder=tmp_path / "missing"
    )
    press(sink, screen, "rs")
    assert len(sink.warnings) == 2
    assert screen.shown == 3


@pytest.mark.parametrize("key", [ord("q"), 27])
def test_a_key_ends_it(screen: Screen, key: int) -> None:
    screen.key = key
    with pytest.raises(StopStream):
        WindowSink("clip").write(FRAME)


def test_closing_the_window_ends_it(screen: Screen) -> None:
    screen.visible = 0.0
    with pytest.raises(StopStream):
        WindowSink("clip").write(FRAME)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DISPLAY is X11's")
def test_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SinkError, match="no display"):
        WindowSink("clip")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="DISPLAY is X11's")
def test_a_display_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":4711")
    with pytest.raises(SinkError, match="does not answer"):
        WindowSink("clip")


def test_headless_opencv(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", fail)
    with pytest.raises(SinkError, match="headless") as caught:
        WindowSink("clip").write(FRAME)
    assert "\n" not in str(caught.value)


def test_file_and_window(screen: Screen, tmp_path: Path) -> None:
    source = open_source(str(make_video(tmp_path / "in.mp4")))
    sink = open_sink(str(tmp_path / "out.mp4"), source, show=True)
    assert isinstance(sink, TeeSink)
    for frame in source:
        sink.write(frame)
    assert sink.finish() == tmp_path / "out.mp4"
    assert screen.shown == 10
    assert screen.destroyed


def test_nothing(tmp_path: Path) -> None:
    sink = open_sink(None, open_source(str(make_video(tmp_path / "in.mp4"))))
    assert isinstance(sink, NullSink)
    sink.write(FRAME)
    assert sink.finish() is None
    assert sink.warnings == []
