"""Live sources: a webcam or a network stream, of which the newest frame wins and the rest are counted."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import cv2
import numpy as np

from engine.errors import SourceError
from engine.video.base import Frame, Media, Source, SourceInfo

# Unit of timestamps taken from the capture clock: the one of MPEG, which every container can hold.
CAPTURE_TIME_BASE = Fraction(1, 90000)

# A camera that gives no picture this long is unplugged, in use, or asleep.
SILENCE_SECONDS = 10.0

# Waits before a source that went away is opened again.
RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)

logger = logging.getLogger("streamgan")


class Connection(NamedTuple):
    """A device or stream that is open.

    Attributes:
        read: waits for the next frame; returns None at the end, raises SourceError where the stream breaks.
        release: frees it.
    """

    read: Callable[[], Frame | None]
    release: Callable[[], None]


class LiveSource(Source):
    """Frames in real time. A thread reads them; all that it reads while the pipeline is busy is dropped but the newest.

    Args:
        info: description, with `live` set.
        connection: where they come from.
        reopen: opens the device or stream again when it has gone away; raises SourceError where it can't. None: its end
            is the end.
        patience_seconds: how long that is tried.
        media: the file that an output's other tracks come from.
        is_endless: the stream has no end of its own, so its end is reported.
        silence_seconds: without a frame for so long, the stream has gone away.

    Attributes:
        notes: further warnings.
        interruptions: how often it went away and came back.
    """

    def __init__(
        self,
        info: SourceInfo,
        connection: Connection,
        *,
        reopen: Callable[[], Connection] | None = None,
        patience_seconds: float = 0.0,
        media: Media | None = None,
        is_endless: bool = True,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.info = info
        self.media = media
        self.notes: list[str] = []
        self.interruptions = 0
        self._connection = connection
        self._reopen = reopen if patience_seconds > 0 else None
        self._patience_seconds = patience_seconds
        self._is_endless = is_endless
        self._silence_seconds = silence_seconds
        self._newest: Frame | None = None
        self._dropped = 0
        self._trouble: str | None = None
        self._has_ended = False
        self._is_away = False
        self._changed = threading.Condition()
        self._reader = self._thread(connection)

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
        if self._reader.ident is None:
            _release(self._connection)
        elif self._reader is not threading.current_thread():
            self._reader.join(2.0)  # which then has released it; one that hangs in a read is left to the process's end

    @property
    def dropped(self) -> int:
        """Frames that came and were not taken; after `close` it changes no more."""
        return self._dropped

    @property
    def warnings(self) -> list[str]:
        """Frames dropped to stay live, interruptions, and why the stream ended if nobody asked it to."""
        lines = [f"{self.info.name}: {note}" for note in self.notes]
        if self.interruptions:
            times = "once" if self.interruptions == 1 else f"{self.interruptions} times"
            lines.append(f"{self.info.name}: went away {times} and came back")
        if self._dropped:
            lines.append(f"{self.info.name}: {self._dropped} frames dropped to stay live")
        if self._trouble is not None:
            lines.append(f"{self.info.name}: {self._trouble}; what came before is kept")
        return lines

    def _take(self) -> Frame | None:
        """Waits for a frame that wasn't taken yet; None at the end."""
        with self._changed:
            is_there = lambda: self._newest is not None or self._has_ended  # noqa: E731
            while not self._changed.wait_for(is_there, self._silence_seconds):
                reason = f"no picture for {self._silence_seconds:g} s"
                if self._reopen is None:
                    self._trouble = reason
                    break
                if not self._is_away:  # its thread hangs in a read: another one takes over
                    self._reader = self._thread(None, reason)
                    self._reader.start()
            frame, self._newest = self._newest, None
            return frame

    # --- the thread that reads ---

    def _thread(self, connection: Connection | None, reason: str = "") -> threading.Thread:
        return threading.Thread(target=self._run, args=(connection, reason), name="capture", daemon=True)

    def _run(self, connection: Connection | None, reason: str) -> None:
        """Reads from one connection after the other; `connection` is None where the one before hangs."""
        while True:
            if connection is not None:
                reason = self._read_from(connection)
                _release(connection)
            with self._changed:
                if self._has_ended or self._reader is not threading.current_thread():
                    return
            connection = self._connected_again(reason) if self._reopen is not None else None
            if connection is None:
                break
        with self._changed:
            if not self._has_ended and (self._is_endless or self._reopen is not None):
                self._trouble = reason
            self._has_ended = True
            self._changed.notify_all()

    def _read_from(self, connection: Connection) -> str:
        """Hands on frames until the stream goes away or is not wanted any more; returns why."""
        try:
            while True:
                frame = connection.read()
                with self._changed:
                    is_wanted = not self._has_ended and self._reader is threading.current_thread()
                    if frame is None or not is_wanted:
                        self._dropped += frame is not None
                        return "the stream ended by itself"
                    self._dropped += self._newest is not None
                    self._newest = frame
                    self._changed.notify_all()
        except SourceError as error:
            return str(error)

    def _connected_again(self, reason: str) -> Connection | None:
        """Tries to open the stream again, after growing waits; None if that takes too long, or nobody wants it."""
        assert self._reopen is not None
        name, lost = self.info.name, time.monotonic()
        logger.warning("%s: %s; trying again for %g s", name, reason, self._patience_seconds)
        self._is_away = True
        for wait in itertools.chain(RETRY_SECONDS, itertools.repeat(RETRY_SECONDS[-1])):
            with self._changed:
                left = lost + self._patience_seconds - time.monotonic()
                if left <= 0 or self._changed.wait_for(lambda: self._has_ended, min(wait, left)):
                    return None
            try:
                connection = self._reopen()
            except SourceError as error:
                logger.info("%s: not yet: %s", name, error)
                continue
            logger.warning("%s: is back after %.1f s", name, time.monotonic() - lost)
            self._is_away = False
            self.interruptions += 1
            return connection
        return None


def _release(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        connection.release()


def open_camera(
    spec: str,
    *,
    size: tuple[int, int] | None = None,
    capture: Any = None,
    silence_seconds: float = SILENCE_SECONDS,
    patience_seconds: float = 0.0,
) -> LiveSource:
    """Opens a webcam through OpenCV.

    Where it changes the size of its pictures, they are brought to that of the first one, with black bars where the
    shape differs.

    Args:
        spec: index ("0") or Linux device ("/dev/video0").
        size: width and height to ask for; the camera gives its nearest.
        silence_seconds: a camera that gives no picture this long has gone away.
        patience_seconds: how long to wait for a camera that has gone away.
        capture: an object with `cv2.VideoCapture`'s read, get and release, for tests and unusual devices; or a function
            that opens one.

    Raises:
        SourceError: no such camera, it is in use, or it gives no picture.
    """
    name = f"webcam {spec}" if spec.isdecimal() else spec
    open_again = capture if callable(capture) else (lambda: capture) if capture else None
    open_again = open_again or (lambda: _open_capture(spec, name, size))

    def opened() -> tuple[Any, np.ndarray]:
        capture = open_again()
        arrived, image = capture.read()
        if not arrived or image is None:
            capture.release()
            raise SourceError(f"{name}: opens but gives no picture; is another program using it?")
        return capture, image

    capture, image = opened()
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

    def connection(capture: Any) -> Connection:
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

        return Connection(read, capture.release)

    source = LiveSource(
        info,
        connection(capture),
        reopen=lambda: connection(opened()[0]),
        patience_seconds=patience_seconds,
        silence_seconds=silence_seconds,
    )
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
