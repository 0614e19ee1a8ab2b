"""Live sources: a webcam or a network stream, of which the newest frame wins and the rest are counted."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from engine.errors import SourceError
from engine.video.base import Frame, Source, SourceInfo

# Unit of timestamps taken from the capture clock: the one of MPEG, which every container can hold.
CAPTURE_TIME_BASE = Fraction(1, 90000)

# A camera that gives no picture this long is unplugged, in use, or asleep.
SILENCE_SECONDS = 10.0


class NewestFrame:
    """Runs a blocking reader in a thread and hands out its newest frame; older ones not taken in time are dropped.

    Args:
        read: returns the next frame, None at the end; raises SourceError where the stream breaks.
    """

    def __init__(self, read: Callable[[], Frame | None]) -> None:
        self.dropped = 0
        self.error: str | None = None
        self._read = read
        self._frame: Frame | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the handing out; the reader's thread ends when its current read returns."""
        with self._changed:
            self._ended = True
            self._frame = None
            self._changed.notify_all()

    def join(self, timeout_seconds: float) -> bool:
        """Waits for the reader's thread; False if it is still inside a read."""
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def take(self, timeout_seconds: float) -> Frame | None:
        """Waits for a frame that wasn't taken yet; None at the end.

        Raises:
            SourceError: nothing came in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout_seconds):
                raise SourceError(f"no picture for {timeout_seconds:g} s")
            frame, self._frame = self._frame, None
            return frame

    def _run(self) -> None:
        try:
            while not self._ended:
                frame = self._read()
                with self._changed:
                    if frame is None or self._ended:
                        break
                    self.dropped += self._frame is not None
                    self._frame = frame
                    self._changed.notify_all()
        except SourceError as error:
            self.error = str(error)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


class LiveSource:
    """Frames in real time. What was captured while the pipeline was busy is dropped, except for the newest.

    Args:
        info: description, with `live` set.
        read: see `NewestFrame`.
        release: frees the device or connection.
        is_endless: the stream has no end of its own, so its end is reported.
    """

    def __init__(
        self,
        info: SourceInfo,
        read: Callable[[], Frame | None],
        release: Callable[[], None],
        *,
        is_endless: bool = True,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.info = info
        self._newest = NewestFrame(read)
        self._release = release
        self._is_endless = is_endless
        self._silence_seconds = silence_seconds
        self._closed = threading.Event()
        self._trouble: str | None = None
        self._released = False

    def __iter__(self) -> Iterator[Frame]:
        self._newest.start()
        try:
            while not self._closed.is_set():
                try:
                    frame = self._newest.take(self._silence_seconds)
                except SourceError as error:
                    self._trouble = str(error)
                    return
                if frame is None:
                    if self._is_endless and not self._closed.is_set():
                        self._trouble = self._newest.error or "the stream ended by itself"
                    return
                yield frame
        finally:
            self.close()

    def close(self) -> None:
        """Ends the iteration and frees the device; may be called from any thread."""
        self._closed.set()
        self._newest.stop()
        # Releasing a device in the middle of a read crashes some drivers: one that hangs is left to the process's end.
        if not self._released and self._newest.join(2.0):
            self._released = True
            with contextlib.suppress(Exception):
                self._release()

    @property
    def warnings(self) -> list[str]:
        """Frames dropped to stay live, and why the stream ended if nobody asked it to."""
        lines = []
        if self._newest.dropped:
            lines.append(f"{self.info.name}: {self._newest.dropped} frames dropped to stay live")
        if self._trouble is not None:
            lines.append(f"{self.info.name}: {self._trouble}; what came before is kept")
        return lines


def live_stream(source: Source) -> LiveSource:
    """Makes a live network source drop what the pipeline has no time for. `source` must yield frames as they arrive."""
    frames = iter(source)

    def read() -> Frame | None:
        return next(frames, None)

    live = LiveSource(source.info, read, source.close, is_endless=False)
    return live


def open_camera(
    spec: str,
    *,
    size: tuple[int, int] | None = None,
    capture: Any = None,
    silence_seconds: float = SILENCE_SECONDS,
) -> LiveSource:
    """Opens a webcam through OpenCV.

    Args:
        spec: index ("0") or Linux device ("/dev/video0").
        size: width and height to ask for; the camera gives its nearest.
        silence_seconds: a camera that gives no picture this long has ended.
        capture: an object with `cv2.VideoCapture`'s read, get and release, for tests and unusual devices.

    Raises:
        SourceError: no such camera, it is in use, or it gives no picture.
    """
    name = f"webcam {spec}" if spec.isdecimal() else spec
    if capture is None:
        capture = _open_capture(spec, name, size)
    opened, image = capture.read()
    if not opened or image is None:
        capture.release()
        raise SourceError(f"{name}: opens but gives no picture; is another program using it?")
    rate = capture.get(cv2.CAP_PROP_FPS)
    info = SourceInfo(
        name=name,
        width=image.shape[1],
        height=image.shape[0],
        frame_rate=Fraction(rate).limit_denominator(1001) if 1 <= rate <= 1000 else Fraction(30),
        time_base=CAPTURE_TIME_BASE,
        live=True,
    )
    started = time.perf_counter()

    def read() -> Frame | None:
        arrived, picture = capture.read()
        if not arrived or picture is None:
            raise SourceError("the camera gives no more pictures (unplugged?)")
        now = time.perf_counter()
        return Frame(_as_bgr(picture), pts=round((now - started) / CAPTURE_TIME_BASE), captured_seconds=now)

    return LiveSource(info, read, capture.release, silence_seconds=silence_seconds)


def _open_capture(spec: str, name: str, size: tuple[int, int] | None) -> Any:
    device = f"/dev/video{spec}" if spec.isdecimal() else spec
    on_linux = sys.platform.startswith("linux")
    if on_linux and not os.path.exists(device):
        present = sorted(entry for entry in os.listdir("/dev") if entry.startswith("video"))
        there = f"there are {' '.join(present)}" if present else "no camera is connected"
        raise SourceError(f"{name}: no such camera ({there}); plug it in, or give a video file")
    if on_linux and not os.access(device, os.R_OK | os.W_OK):
        raise SourceError(f"{name}: no permission for {device}; add your user to the group video")
    log_level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(int(spec) if spec.isdecimal() else spec)
    finally:
        cv2.utils.logging.setLogLevel(log_level)
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{name}: can't be opened; no camera is there, or another program is using it")
    if size is not None:
        # Most cameras reach their larger sizes in motion JPEG only.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return capture


def _as_bgr(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image
