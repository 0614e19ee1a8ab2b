"""Live sessions: one thread translates the newest frame of each in turn, so that no queue grows."""

from __future__ import annotations

import collections
import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.compose import Composition
from engine.errors import EngineError
from engine.switching import StyleSwitcher
from engine.translator import Translator
from engine.video.color import ToBgr, color_of

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

logger = logging.getLogger("streamgan")

# A status covers the frames of the last seconds.
_STATUS_SECONDS = 2.0

_COUNTS = ("received", "shown", "dropped")

# The codecs of WebRTC need even sides.
_EVEN = 2


class BusyError(EngineError):
    """There are as many sessions as the machine takes."""


@dataclasses.dataclass(frozen=True)
class Translated:
    """A translated frame on its way to those who watch.

    Attributes:
        image: uint8 [H, W, 3] BGR.
        pts: the source's timestamp, in units of 1/90000 s.
        arrived: `time.perf_counter()` when the frame was there.
    """

    image: np.ndarray
    pts: int
    arrived: float


class Session:
    """One source that is translated live.

    Every frame that arrives is counted once: `received == shown + dropped + under_way`.

    Args:
        switcher: translates in the session's style.
        most_pixels: larger frames are scaled down to so many.

    Attributes:
        token: names it to its owner; `watch_token` to those who may only watch.
        composition: has the share of the style, `strength`.
        failure: why no more frames are translated; "" while they are.
        received, shown, dropped: frames so far. Dropped: a newer one came before its turn.
    """

    def __init__(self, switcher: StyleSwitcher, *, most_pixels: int, wake: Callable[[], None]) -> None:
        self.token, self.watch_token = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.composition = Composition()
        self.failure = ""
        self.received = self.shown = self.dropped = 0
        self.switcher = switcher
        self.deliver: Callable[[Translated], None] = lambda translated: None
        self.size = (0, 0)  # of the translated frames: width, height
        self._most_pixels = most_pixels
        self._wake = wake
        self._newest: tuple[VideoFrame, float] | None = None
        self._form: Any = None  # of the frames that `_to_bgr` takes
        self._to_bgr: Any = None
        self._is_closed = False
        self._lock = threading.Lock()
        self._latest: collections.deque[tuple[float, float]] = collections.deque()  # when shown, and how old then

    def put(self, frame: VideoFrame) -> None:
        """Takes a frame that has just arrived; from any thread."""
        with self._lock:
            self.received += 1
            self.dropped += self._newest is not None or self._is_closed
            if not self._is_closed:
                self._newest = frame, time.perf_counter()
        self._wake()

    def close(self) -> None:
        """Takes no more frames."""
        with self._lock:
            self._is_closed = True
            self.dropped += self._newest is not None
            self._newest = None

    @property
    def is_waiting(self) -> bool:
        """Whether a frame waits for its turn."""
        return self._newest is not None

    @property
    def under_way(self) -> int:
        """Frames that wait, or are being translated or encoded: at most one of each."""
        with self._lock:
            return self.received - self.shown - self.dropped

    def translate(self) -> None:
        """Translates the frame that waits, and delivers it; in the machine's thread."""
        with self._lock:
            newest, self._newest = self._newest, None
        if newest is None:
            return
        frame, arrived = newest
        try:
            image = self._image(frame)
            translated = self.switcher(image)
        except Exception as error:  # one session's fault must not end the others'
            self.failure = (
                str(error) if isinstance(error, EngineError) else f"unexpected {type(error).__name__}: {error}"
            )
            logger.warning("a session ended: %s", self.failure)
            self.note_dropped()
            return
        translated = self.composition(image, translated, Fraction(0))
        self.size = translated.shape[1], translated.shape[0]
        self.deliver(Translated(np.asarray(translated), frame.pts or 0, arrived))

    def _image(self, frame: VideoFrame) -> np.ndarray:
        """A frame as uint8 [H, W, 3] BGR with even sides, scaled down to the most pixels that are translated."""
        color, key = color_of(frame), (frame.width, frame.height, frame.format.name)
        if (color, key) != self._form:
            scale = min(1.0, (self._most_pixels / (frame.width * frame.height)) ** 0.5)
            width, height = (max(_EVEN, round(side * scale / _EVEN) * _EVEN) for side in key[:2])
            self._form, self._to_bgr = (color, key), ToBgr(color, width, height)
        return self._to_bgr(frame)

    def note_shown(self, translated: Translated) -> None:
        """The frame is sent to those who watch."""
        now = time.perf_counter()
        with self._lock:
            self.shown += 1
            self._latest.append((now, now - translated.arrived))

    def note_dropped(self) -> None:
        """A newer frame was translated before this one was sent."""
        with self._lock:
            self.dropped += 1

    def status(self) -> dict[str, Any]:
        """What the page shows: rates in frames per second, times in ms, counts since the beginning."""
        now = time.perf_counter()
        with self._lock:
            while self._latest and self._latest[0][0] < now - _STATUS_SECONDS:
                self._latest.popleft()
            ages = sorted(age for _, age in self._latest)
            seconds = now - self._latest[0][0] if len(self._latest) > 1 else 0
        return {
            "fps": round((len(ages) - 1) / seconds, 1) if seconds else 0.0,
            "server_ms": round(1e3 * ages[len(ages) // 2], 1) if ages else None,
            "style": Path(self.switcher.style).stem,
            "preparing": self.switcher.is_preparing,
            "engine": str(self.switcher.engine or ""),
            "size": list(self.size),
            "received": self.received,
            "shown": self.shown,
            "dropped": self.dropped,
            "failure": self.failure,
        }


class Machine:
    """Translates for all sessions in one thread: generators compute with all cores, and a second one would wait.

    Args:
        styles: names or checkpoint files; the first is the default.
        most_sessions: how many may be open at the same time.
        most_pixels: larger frames are scaled down to so many.
        options: further arguments of `engine.Translator`.
    """

    def __init__(self, styles: Sequence[str], *, most_sessions: int, most_pixels: int, **options: Any) -> None:
        self.styles = tuple(styles)
        self.sessions: dict[str, Session] = {}
        self._closing: list[Session] = []  # ended, with frames that are still under way
        self._closed = collections.Counter[str]()
        self._most_sessions, self._most_pixels = most_sessions, most_pixels
        self._options = options
        self._translators: dict[str, Translator] = {}
        self._making = threading.Lock()
        self._changed = threading.Condition()
        self._has_ended = False
        self._tasks: collections.deque[Callable[[], None]] = collections.deque()
        self._thread = threading.Thread(target=self._run, name="translate", daemon=True)
        self._thread.start()

    def open(self) -> Session:
        """A new session in the default style.

        Raises:
            BusyError: there are too many.
        """
        if len(self.sessions) >= self._most_sessions:
            raise BusyError(f"{len(self.sessions)} sessions are open, and this machine takes no more; try again later")
        self._settle()
        session = Session(StyleSwitcher(self.styles, self.translator), most_pixels=self._most_pixels, wake=self._notify)
        self.sessions[session.token] = session
        return session

    def close(self, session: Session) -> None:
        """Ends a session; one that is closed already stays closed."""
        if self.sessions.pop(session.token, None) is not None:
            session.close()
            self._closing.append(session)

    def totals(self) -> dict[str, int]:
        """Frames received, shown and dropped in all sessions so far."""
        self._settle()
        there = [*self._closing, *self.sessions.values()]
        return {name: self._closed[name] + sum(getattr(one, name) for one in there) for name in _COUNTS}

    def _settle(self) -> None:
        """Forgets sessions that have ended, but for their counts."""
        done = [session for session in self._closing if not session.under_way]
        for session in done:
            self._closing.remove(session)
            self._closed.update({name: getattr(session, name) for name in _COUNTS})

    def translator(self, style: str) -> Translator:
        """The translator of a style, the same one for all sessions."""
        with self._making:
            if style not in self._translators:
                # Not as `live`: that would measure other backends for seconds before the first frame of each size.
                self._translators[style] = Translator(style, **self._options)
            return self._translators[style]

    def call(self, task: Callable[[], None]) -> None:
        """Runs something in the machine's thread, between two frames."""
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    def stop(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._has_ended = True
            self._changed.notify()
        self._thread.join(10)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        turns = 0
        while True:
            with self._changed:
                waiting: list[Session] = []
                while not (self._has_ended or self._tasks or waiting):
                    waiting = [session for session in list(self.sessions.values()) if session.is_waiting]
                    if not waiting:
                        self._changed.wait()
                if self._has_ended:
                    return
                task = self._tasks.popleft() if self._tasks else None
            if task is not None:
                task()
                continue
            turns += 1
            waiting[turns % len(waiting)].translate()
