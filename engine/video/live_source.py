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
from engine.video.base import Frame, Media, Source, SourceInfo
from engine.video.file_source import FileSource

# Unit of timestamps taken from the capture clock: the one of MPEG, which every container can hold.
CAPTURE_TIME_BASE = Fraction(1, 90000)

# A camera that gives no picture this long is unplugged, in use, or asleep.
SILENCE_SECONDS = 10.0


class LiveSource(Source):
    """Frames in real time. A thread reads them; all that it reads while the pipeline is busy is dropped but the newest.

    Args:
        info: description, with `live` set.
        read: waits for the next frame; returns None at the end, raises SourceError where the stream breaks.
        release: frees the device or connection.
        media: the file that an output's other tracks come from.
        is_endless: the stream has no end of its own, so its end is reported.
        silence_seconds: without a frame for so long, the stream has ended.

    Attributes:
        notes: further warnings.
    """

    def __init__(
        self,
        info: SourceInfo,
        read: Callable[[], Frame | None],
        release: Callable[[], None],
        *,
        media: Media | None = None,
        is_endless: bool = True,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.info = info
        self.media = media
        self._read, self._release = read, release
        self._is_endless = is_endless
        self._silence_seconds = silence_seconds
        self._newest: Frame | None = None
        self._dropped = 0
        self.notes: list[str] = []
        self._trouble: str | None = None
        self._has_ended = False
        self._is_released = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read_on, name="capture", daemon=True)

    def __iter__(self) -> Iterator[Frame]:
        self._reader.start()
        try:
            while (frame := self._take()) is not None:
                yield frame
        finally:
            self.close()

    def close(self) -> None:
        """Ends the iteration and frees the device; may be called from any thread."""
        with self._changed:
            self._dropped += self._newest is not None
            self._has_ended, self._newest = True, None
            self._changed.notify_all()
        if self._reader.ident is not None:
            self._reader.join(2.0)
        # Releasing a device in the middle of a read crashes some drivers: one that hangs is left to the process's end.
        if not self._is_released and not self._reader.is_alive():
            self._is_released = True
            with contextlib.suppress(Exception):
                self._release()

    @property
    def dropped(self) -> int:
        """Frames that came and were not taken; after `close` it changes no more."""
        return self._dropped

    @property
    def warnings(self) -> list[str]:
        """Frames dropped to stay live, and why the stream ended if nobody asked it to."""
        lines = [f"{self.info.name}: {note}" for note in self.notes]
        if self._dropped:
            lines.append(f"{self.info.name}: {self._dropped} frames dropped to stay live")
        if self._trouble is not None:
            lines.append(f"{self.info.name}: {self._trouble}; what came before is kept")
        return lines

    def _take(self) -> Frame | None:
        """Waits for a frame that wasn't taken yet; None at the end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._newest is not None or self._has_ended, self._silence_seconds):
                self._trouble = f"no picture for {self._silence_seconds:g} s"
            frame, self._newest = self._newest, None
            return frame

    def _read_on(self) -> None:
        reason = "the stream ended by itself"
        try:
            while not self._has_ended:
                frame = self._read()
                with self._changed:
                    if frame is None or self._has_ended:
                        self._dropped += frame is not None
                        break
                    self._dropped += self._newest is not None
                    self._newest = frame
                    self._changed.notify_all()
        except SourceError as error:
            reason = str(error)
        finally:
            with self._changed:
                if self._is_endless and not self._has_ended:
                    self._trouble = reason
                self._has_ended = True
                self._changed.notify_all()


def live_stream(source: FileSource) -> LiveSource:
    """Makes a live network source drop the pictures that the pipeline has no time for. Its sound is kept."""
    frames = iter(source)
    return LiveSource(source.info, lambda: next(frames, None), source.close, media=source.media, is_endless=False)


def open_camera(
    spec: str,
    *,
    size: tuple[int, int] | None = None,
    capture: Any = None,
    silence_seconds: float = SILENCE_SECONDS,
) -> LiveSource:
    """Opens a webcam through OpenCV.

    Where it changes the size of its pictures, they are brought to that of the first one, with black bars where the
    shape differs.

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
    sizes = [(info.width, info.height)]

    def read() -> Frame | None:
        arrived, picture = capture.read()
        if not arrived or picture is None:
            raise SourceError("the camera gives no more pictures (unplugged?)")
        now = time.perf_counter()
        size = picture.shape[1], picture.shape[0]
        if size != sizes[-1]:
            sizes.append(size)
            source.notes[:] = [_describe_sizes(sizes)]
        picture = fitted(_as_bgr(picture), info.width, info.height)
        return Frame(picture, pts=round((now - started) / CAPTURE_TIME_BASE), captured_seconds=now)

    source = LiveSource(info, read, capture.release, silence_seconds=silence_seconds)
    return source


def fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture, uint8 [H, W, 3], in another size, with black bars where its shape differs; itself if it has it."""
    if image.shape[:2] == (height, width):
        return image
    factor = min(width / image.shape[1], height / image.shape[0])
    inner = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    image = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    right, bottom = width - inner[0] - left, height - inner[1] - top
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT)


def _describe_sizes(sizes: list[tuple[int, int]]) -> str:
    first, last = (f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))
    changes = len(sizes) - 1
    times = "once" if changes == 1 else f"{changes} times"
    return f"the camera changed its size {times}, to {last} at last; the pictures keep {first}"


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
