"""The preview window, several sinks at once, and none."""

from __future__ import annotations

import dataclasses
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.errors import SinkError
from engine.video import Frame, NullSink, StopStream, TeeSink, WindowSink, open_sink, open_source, window
from tests.media import make_video

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

    def imshow(self, *_: object) -> None:
        self.shown += 1

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


def test_the_key_n_asks_for_the_next_style(screen: Screen) -> None:
    asked: list[int] = []
    sink = WindowSink("clip", on_next=lambda: asked.append(screen.shown))
    sink.write(FRAME)
    screen.key = ord("n")
    sink.write(FRAME)
    screen.key = -1
    sink.write(FRAME)
    assert asked == [2]


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
