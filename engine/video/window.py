"""Sinks that aren't files: the preview window, several sinks at once, and none."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2

from engine.device import host_image
from engine.errors import SinkError
from engine.video.base import Frame, Sink, StopStream

_KEY_ESCAPE = 27

# A longer gap in the timestamps is cut to this.
_LONGEST_FRAME_SECONDS = 2.0


# How often a window that stays looks for a key.
_STAYING_MS = 50


class NullSink(Sink):
    """Takes frames and keeps nothing: for measuring."""

    def write(self, frame: Frame) -> None:
        pass


class WindowSink(Sink):
    """Shows frames in a window, no faster than they are meant to be seen.

    Args:
        title: the window's.
        time_base: seconds per unit of the frames' timestamps, to keep a file to its own speed; None shows a frame as
            soon as it comes, as live sources want it.
        on_next: what the key n does.
        stays: whether the last frame is still shown when no more come; it is until a key is pressed. None: it is not.

    Raises:
        SinkError: no display, or an OpenCV without windows.
    """

    needs_calling_thread = True

    def __init__(
        self,
        title: str,
        *,
        time_base: Fraction | None = None,
        on_next: Callable[[], None] | None = None,
        stays: Callable[[], bool] | None = None,
    ) -> None:
        self._title = title
        self._on_next = on_next
        self._stays = stays
        self._time_base = time_base
        self._shown_at = 0.0
        self._shown_pts: int | None = None
        if sys.platform.startswith("linux"):
            _check_display()
            # The Qt inside opencv-python complains about fonts on stderr whenever it opens a window.
            os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
        self._is_open = False

    def write(self, frame: Frame) -> None:
        """Shows a frame.

        Raises:
            StopStream: the user pressed q or Esc, or closed the window.
        """
        try:
            if not self._is_open:
                cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
                cv2.resizeWindow(self._title, frame.image.shape[1], frame.image.shape[0])
                self._is_open = True
            cv2.imshow(self._title, host_image(frame.image))
            key = cv2.waitKey(max(1, round(1e3 * self._seconds_early(frame)))) & 0xFF
            self._shown_at, self._shown_pts = time.perf_counter(), frame.pts
            closed = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error as error:
            raise SinkError(
                "--show: this OpenCV can't open a window (no display, or opencv-python-headless is installed); "
                "pip install opencv-python, or write a file with -o"
            ) from error
        if closed or key in (ord("q"), _KEY_ESCAPE):
            raise StopStream("the window was closed")
        if key == ord("n") and self._on_next is not None:
            self._on_next()

    def _seconds_early(self, frame: Frame) -> float:
        """Seconds to go on showing the previous frame. Each frame restarts the clock, so that delays don't add up."""
        if self._time_base is None or frame.pts is None or self._shown_pts is None:
            return 0.0
        seconds = float((frame.pts - self._shown_pts) * self._time_base)
        return min(seconds, _LONGEST_FRAME_SECONDS) - (time.perf_counter() - self._shown_at)

    def finish(self, *, is_cut: bool = False) -> Path | None:
        while self._is_open and self._stays is not None and self._stays():
            key = cv2.waitKey(_STAYING_MS)
            if key >= 0 or cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
                break
        self._close()
        return None

    def abort(self) -> Path | None:
        self._close()
        return None

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)


def _check_display() -> None:
    """Raises SinkError where no X server answers: Qt would end the whole process."""
    display = os.environ.get("DISPLAY")
    if not display and not os.environ.get("WAYLAND_DISPLAY"):
        raise SinkError("--show: there is no display (DISPLAY is not set); write a file with -o instead")
    match = re.fullmatch(r"(?:unix)?:(\d+)(?:\.\d+)?", display or "")
    if match is None:
        return  # a remote display, or Wayland only
    paths = [f"/tmp/.X11-unix/X{match[1]}", f"\0/tmp/.X11-unix/X{match[1]}"]
    if not any(_answers(path) for path in paths):
        raise SinkError(f"--show: the display {display} does not answer; write a file with -o instead")


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(path) == 0


class TeeSink(Sink):
    """Gives every frame to several sinks, the first of which names the output."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self.needs_calling_thread = any(sink.needs_calling_thread for sink in sinks)

    def write(self, frame: Frame) -> None:
        for sink in self._sinks:
            sink.write(frame)

    def finish(self, *, is_cut: bool = False) -> Path | None:
        return [sink.finish(is_cut=is_cut) for sink in reversed(self._sinks)][-1]

    def abort(self) -> Path | None:
        return [sink.abort() for sink in reversed(self._sinks)][-1]

    @property
    def warnings(self) -> list[str]:
        return [line for sink in self._sinks for line in sink.warnings]

    @property
    def hardware(self) -> str:
        return self._sinks[0].hardware
