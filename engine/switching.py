"""Several styles and sizes in one running stream: the next one is made ready while the current one goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.device import host_image
from engine.errors import BackendError, EngineError
from engine.pacing import Pacer
from engine.runners.base import Measurement, RunnerInfo

if TYPE_CHECKING:
    from engine.translator import Translator

logger = logging.getLogger("streamgan")

# No side of a frame is made smaller than this.
_LEAST_SIDE = 64

# Sides of smaller frames are multiples of this, as most generators want them.
_MULTIPLE = 4


class StyleSwitcher:
    """Translates frames as `engine.Translator` does, in one of several styles.

    Args:
        styles: names or checkpoint files; the first one begins.
        make: the translator of a style; called in a thread of its own for all but the first. For frames made smaller it
            is given, as a second argument, the engine that whole frames run in.
        target_fps: frames are made smaller for the generator as far as it takes to hold this rate, see `pace`, and
            their translations are enlarged again. None: they never are.

    Attributes:
        style: the current one.
        scale: of the sides of the frames that the generator gets, 1 or less.
        internal_size: width and height of those frames; None before the first.

    Raises:
        EngineError: the first style can't be loaded.
    """

    def __init__(
        self, styles: Sequence[str], make: Callable[..., Translator], *, target_fps: float | None = None
    ) -> None:
        self.styles = tuple(styles)
        self.style, self.scale = self.styles[0], 1.0
        self.internal_size: tuple[int, int] | None = None
        self._make = make
        self._pacer = Pacer(target_fps) if target_fps else None
        self._current = make(self.style)
        self._ready = {(self.style, self.scale): self._current}
        self._engine_of_whole: RunnerInfo | None = None
        self._last_frame: Any = None
        self._next: tuple[str, float, Translator] | None = None  # set by the thread, taken between two frames
        self._goal = self.style, self.scale  # the latest that was asked for
        self._is_stale = False  # the goal is another one than the thread's
        self._changed = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, frames: Any) -> Any:
        """As `Translator.__call__`, in the style that is current when it is called."""
        return self.submit(frames)()

    def submit(self, frames: Any) -> Callable[[], Any]:
        """As `Translator.submit`, in the style that is current when it is called."""
        if self._next is not None:
            (self.style, self.scale, self._current), self._next = self._next, None
        self._last_frame = frames if frames.ndim == 3 else frames[-1]
        small = shrunk(frames, self.scale)
        self.internal_size = small.shape[-2], small.shape[-3]
        waiting = self._current.submit(small)
        if small is frames:
            return waiting
        height, width = (side * self._current.scale for side in frames.shape[-3:-1])
        return lambda: _resized(waiting(), width, height, cv2.INTER_CUBIC)

    def pace(self, seconds: float) -> None:
        """Takes the time of a frame, and changes the scale where that is due; between two frames."""
        if self._pacer is None or self.is_preparing or self._next is not None:
            return
        scale = self._pacer.note(seconds)
        if scale != self.scale:
            self._go(scale=scale)

    def step_style(self, step: int = 1) -> None:
        """Goes on to a style after the current one, or before it, as soon as it is ready; from any thread."""
        if not self.is_preparing:
            self.to(self.styles[(self.styles.index(self.style) + step) % len(self.styles)])

    def to(self, style: str) -> None:
        """Goes on to one of the styles as soon as it is ready; from any thread. The latest call counts."""
        self._go(style=style)

    @property
    def is_preparing(self) -> bool:
        """Whether a style or size is being made ready."""
        return self._thread is not None

    @property
    def state(self) -> tuple[str, float]:
        """Style and scale of the next frame."""
        coming = self._next
        return coming[:2] if coming is not None else (self.style, self.scale)

    def _go(self, *, style: str | None = None, scale: float | None = None) -> None:
        with self._changed:
            self._goal = style or self._goal[0], scale or self._goal[1]
            self._is_stale = True
            if not self.is_preparing:
                self._thread = threading.Thread(target=self._prepare_all, name="prepare style", daemon=True)
                self._thread.start()

    def _prepare_all(self) -> None:
        while True:
            with self._changed:
                if not self._is_stale:
                    self._thread = None
                    return
                self._is_stale = False
                goal = self._goal
            if not self._prepare(*goal):
                with self._changed:
                    if not self._is_stale:
                        self._goal = self.state
            if self._pacer is not None:
                self._pacer.go_on(self.state[1])

    def _prepare(self, style: str, scale: float) -> bool:
        """Makes a style ready for frames of a scale; False if that can't be done."""
        try:
            if (style, scale) not in self._ready:
                made = self._make(style) if scale == 1.0 else self._make(style, self._engine_of_whole)
                if made.scale != self._current.scale:
                    raise BackendError(f"it makes frames {made.scale} times as large, the others {self._current.scale}")
                self._ready[style, scale] = made
            if self._last_frame is not None:
                frame = shrunk(self._last_frame, scale)
                engine = self._ready[style, scale].engine_for(frame)
                if scale != self.scale and engine.is_stand_in:
                    return False  # a black frame chooses no engine: another one will
        except EngineError as error:
            if scale == self.scale:
                logger.warning("the style stays %s: %s: %s", self.style, style, error)
            else:
                self._pacer = None
                logger.warning("the size stays: %s", error)
            return False
        self._next = style, scale, self._ready[style, scale]
        return True

    @property
    def frames_under_way(self) -> int:
        """As `Translator.frames_under_way`."""
        return self._current.frames_under_way

    def engine_for(self, frame: Any) -> RunnerInfo:
        """As `Translator.engine_for`."""
        engine = self._current.engine_for(shrunk(frame, self.scale))
        if self.scale == 1.0 and not engine.is_stand_in:
            self._engine_of_whole = engine
        return engine

    def choose_batch(self, frame: Any) -> int:
        """As `Translator.choose_batch`."""
        return self._current.choose_batch(frame)

    @property
    def engine(self) -> RunnerInfo | None:
        """As `Translator.engine`."""
        return self._current.engine

    @property
    def uniform_frames(self) -> int:
        """As of `Translator`, of all styles."""
        return sum(translator.uniform_frames for translator in list(self._ready.values()))

    @property
    def choice(self) -> list[Measurement]:
        """As `Translator.choice`."""
        return self._current.choice


def shrunk(frames: Any, scale: float) -> Any:
    """A frame [H, W, 3], or a batch of them, for the generator: itself at scale 1, else an array."""
    if scale == 1.0:
        return frames
    height, width = (
        min(side, max(_LEAST_SIDE, round(side * scale / _MULTIPLE) * _MULTIPLE)) for side in frames.shape[-3:-1]
    )
    return frames if (height, width) == frames.shape[-3:-1] else _resized(frames, width, height, cv2.INTER_AREA)


def _resized(frames: Any, width: int, height: int, interpolation: int) -> np.ndarray:
    """uint8 [H, W, 3] or [N, H, W, 3] in another size."""
    frames = host_image(frames)
    if frames.ndim == 3:
        return cv2.resize(frames, (width, height), interpolation=interpolation)
    return np.stack([cv2.resize(frame, (width, height), interpolation=interpolation) for frame in frames])
