"""Sinks that aren't files: the preview window, several sinks at once, and none."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from engine.device import host_image
from engine.errors import SinkError
from engine.video.base import Frame, Sink, StopStream
from engine.video.partial_file import unused

_KEY_ESCAPE = 27

# A longer gap in the timestamps is cut to this.
_LONGEST_FRAME_SECONDS = 2.0

# Frames per second are those of the last seconds.
_RATE_SECONDS = 2.0

_STRENGTH_STEP = 0.1


# How often a window that stays looks for a key.
_STAYING_MS = 50


class NullSink(Sink):
    """Takes frames and keeps nothing: for measuring."""

    def write(self, frame: Frame) -> None:
        pass


class Controls(Protocol):
    """What the keys of a window change, and what it says.

    Attributes:
        strength: share of the style, 0 to 1.
        compare: how the source is shown too, one of `comparisons`.
    """

    strength: float
    compare: str | None
    comparisons: tuple[str | None, ...]

    def step_style(self, step: int) -> None:
        """Goes on to the next style (1), or the one before (-1)."""

    def describe(self) -> str:
        """Style and engine in a few words."""


# Key -> what it does, in the order of the help.
HELP = {
    "n p": "next, previous style",
    "+ -": "strength",
    "c": "source as well",
    "m": "mirror",
    "f": "freeze",
    "s": "screenshot",
    "r": "record, and end recording",
    "o": "figures",
    "h": "help",
    "q": "quit",
}


class WindowSink(Sink):
    """Shows frames in a window, no faster than they are meant to be seen; keys change what is shown, see `HELP`.

    Args:
        title: the window's.
        time_base: seconds per unit of the frames' timestamps, to keep a file to its own speed; None shows a frame as
            soon as it comes, as live sources want it.
        controls: of style, strength and comparison; None: there are none.
        record: opens a sink for a recording of what is shown.
        folder: where screenshots and recordings go.
        stays: whether the last frame is still shown when no more come; it is until a key is pressed. None: it is not.

    Attributes:
        warnings: the files that were saved.

    Raises:
        SinkError: no display, or an OpenCV without windows.
    """

    needs_calling_thread = True

    def __init__(
        self,
        title: str,
        *,
        time_base: Fraction | None = None,
        controls: Controls | None = None,
        record: Callable[[Path], Sink] | None = None,
        folder: Path | None = None,
        stays: Callable[[], bool] | None = None,
    ) -> None:
        self._title = title
        self._stays = stays
        self._time_base = time_base
        self._controls = controls
        self._record = record
        self._folder = folder or Path()
        self._saved: list[str] = []
        self._recording: Sink | None = None
        self._is_mirrored = self._is_frozen = self._shows_help = False
        self._shows_figures = True
        self._image: np.ndarray | None = None  # what is shown, without words
        self._times: collections.deque[float] = collections.deque()
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
        if self._image is None or not self._is_frozen:
            image = host_image(frame.image)
            self._image = np.ascontiguousarray(image[:, ::-1]) if self._is_mirrored else image
            if self._recording is not None:
                self._keep(dataclasses.replace(frame, image=self._image))
        try:
            if not self._is_open:
                cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
                cv2.resizeWindow(self._title, frame.image.shape[1], frame.image.shape[0])
                self._is_open = True
            cv2.imshow(self._title, self._with_words(frame))
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
        self._obey(chr(key))

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

    @property
    def warnings(self) -> list[str]:
        return list(self._saved)

    # --- what is shown ---

    def _seconds_early(self, frame: Frame) -> float:
        """Seconds to go on showing the previous frame. Each frame restarts the clock, so that delays don't add up."""
        if self._time_base is None or frame.pts is None or self._shown_pts is None:
            return 0.0
        seconds = float((frame.pts - self._shown_pts) * self._time_base)
        return min(seconds, _LONGEST_FRAME_SECONDS) - (time.perf_counter() - self._shown_at)

    def _with_words(self, frame: Frame) -> np.ndarray:
        assert self._image is not None
        lines = [self._figures(frame)] if self._shows_figures else []
        if self._shows_help:
            lines += [f"{keys}   {meaning}" for keys, meaning in HELP.items()]
        if not lines:
            return self._image
        image = self._image.copy()
        font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.5, image.shape[0] / 800)
        step, edge = round(32 * scale), round(10 * scale)
        width = max(cv2.getTextSize(line, font, scale, 1)[0][0] for line in lines)
        behind = image[: step * len(lines) + edge, : width + 2 * edge]
        behind //= 3  # white is readable on it, whatever the picture is
        for number, line in enumerate(lines, start=1):
            cv2.putText(image, line, (edge, number * step - edge // 2), font, scale, (255,) * 3, 1, cv2.LINE_AA)
        return image

    def _figures(self, frame: Frame) -> str:
        now = time.perf_counter()
        self._times.append(now)
        while self._times[0] < now - _RATE_SECONDS:
            self._times.popleft()
        seconds = now - self._times[0]
        words = [f"{(len(self._times) - 1) / seconds:.0f} fps"] if seconds else []
        if self._is_frozen:
            words.append("frozen")
        elif frame.captured_seconds is not None:
            words.append(f"{1e3 * (now - frame.captured_seconds):.0f} ms old")
        if self._controls is not None:
            words.append(self._controls.describe())
            if self._controls.strength != 1.0:
                words.append(f"strength {self._controls.strength:.2f}")
        if self._recording is not None:
            words.append("recording")
        return "  ".join(words)

    # --- keys ---

    def _obey(self, key: str) -> None:
        controls = self._controls
        if key == "m":
            self._is_mirrored = not self._is_mirrored
        elif key == "f":
            self._is_frozen = not self._is_frozen
        elif key == "o":
            self._shows_figures = not self._shows_figures
        elif key == "h":
            self._shows_help = not self._shows_help
        elif key == "s":
            self._save_picture()
        elif key == "r":
            self._switch_recording()
        elif controls is not None and key in "np":
            controls.step_style(1 if key == "n" else -1)
        elif controls is not None and key in "+-=":
            step = -_STRENGTH_STEP if key == "-" else _STRENGTH_STEP
            controls.strength = round(min(1.0, max(0.0, controls.strength + step)), 2)
        elif controls is not None and key == "c":
            place = controls.comparisons.index(controls.compare)
            controls.compare = controls.comparisons[(place + 1) % len(controls.comparisons)]
            self._end_recording()  # the picture may have another size now

    def _save_picture(self) -> None:
        path = unused(self._folder / f"{_stamp()}.png")
        if self._image is not None and cv2.imwrite(str(path), self._image):
            self._saved.append(f"{path} is saved")
        else:
            self._saved.append(f"{path} can't be written")

    def _switch_recording(self) -> None:
        if self._recording is not None:
            self._end_recording()
        elif self._record is not None:
            try:
                self._recording = self._record(unused(self._folder / f"{_stamp()}.mp4"))
            except SinkError as error:
                self._saved.append(str(error))

    def _keep(self, frame: Frame) -> None:
        assert self._recording is not None
        try:
            self._recording.write(frame)
        except SinkError as error:  # a full disk does not end the show
            self._saved.append(str(error))
            self._recording.abort()
            self._recording = None

    def _end_recording(self) -> None:
        if self._recording is None:
            return
        recording, self._recording = self._recording, None
        with contextlib.suppress(SinkError):  # not one frame came
            self._saved.append(f"{recording.finish()} is saved")

    def _close(self) -> None:
        self._end_recording()
        if self._is_open:
            self._is_open = False
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)


def _stamp() -> str:
    """What a screenshot or recording of this moment is called."""
    return time.strftime("streamgan-%Y%m%d-%H%M%S")


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
        self.may_hang = any(sink.may_hang for sink in sinks)

    def write(self, frame: Frame) -> None:
        for sink in self._sinks:
            sink.write(frame)

    def finish(self, *, is_cut: bool = False) -> Path | None:
        return [sink.finish(is_cut=is_cut) for sink in reversed(self._sinks)][-1]

    def abort(self) -> Path | None:
        return [sink.abort() for sink in reversed(self._sinks)][-1]

    @property
    def missing(self) -> int:
        return sum(sink.missing for sink in self._sinks)

    @property
    def warnings(self) -> list[str]:
        return [line for sink in self._sinks for line in sink.warnings]

    @property
    def hardware(self) -> str:
        return self._sinks[0].hardware
