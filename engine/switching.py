"""Several styles in one running stream: the next one is made ready while the current one goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import BackendError, EngineError
from engine.runners.base import Measurement, RunnerInfo

if TYPE_CHECKING:
    from engine.translator import Translator

logger = logging.getLogger("streamgan")


class StyleSwitcher:
    """Translates frames as `engine.Translator` does, in one of several styles.

    Args:
        styles: names or checkpoint files; the first one begins.
        make: the translator of a style; called in a thread of its own for all but the first.

    Raises:
        EngineError: the first style can't be loaded.
    """

    def __init__(self, styles: Sequence[str], make: Callable[[str], Translator]) -> None:
        self.styles = tuple(styles)
        self.style = self.styles[0]
        self._make = make
        self._current = make(self.style)
        self._ready = {self.style: self._current}
        self._last_frame: Any = None
        self._next: tuple[str, Translator] | None = None  # set by the thread, taken between two frames
        self._wanted = ""  # the style to make ready next, the latest one that was asked for
        self._changed = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, frames: Any) -> Any:
        """As `Translator.__call__`, in the style that is current when it is called."""
        return self.submit(frames)()

    def submit(self, frames: Any) -> Callable[[], Any]:
        """As `Translator.submit`, in the style that is current when it is called."""
        if self._next is not None:
            (self.style, self._current), self._next = self._next, None
        self._last_frame = frames if frames.ndim == 3 else frames[-1]
        return self._current.submit(frames)

    def step_style(self, step: int = 1) -> None:
        """Goes on to a style after the current one, or before it, as soon as it is ready; from any thread."""
        if not self.is_preparing:
            self.to(self.styles[(self.styles.index(self.style) + step) % len(self.styles)])

    def to(self, style: str) -> None:
        """Goes on to one of the styles as soon as it is ready; from any thread. The latest call counts."""
        with self._changed:
            self._wanted = style
            if not self.is_preparing:
                self._thread = threading.Thread(target=self._prepare_all, name="prepare style", daemon=True)
                self._thread.start()

    @property
    def is_preparing(self) -> bool:
        """Whether a style is being made ready."""
        return self._thread is not None

    def _prepare_all(self) -> None:
        while True:
            with self._changed:
                style, self._wanted = self._wanted, ""
                if not style:
                    self._thread = None
                    return
            self._prepare(style)

    def _prepare(self, style: str) -> None:
        try:
            if style not in self._ready:
                made = self._make(style)
                if made.scale != self._current.scale:
                    raise BackendError(f"it makes frames {made.scale} times as large, the others {self._current.scale}")
                self._ready[style] = made
            if self._last_frame is not None:
                self._ready[style].engine_for(self._last_frame)
        except EngineError as error:
            logger.warning("the style stays %s: %s: %s", self.style, style, error)
            return
        self._next = style, self._ready[style]

    @property
    def frames_under_way(self) -> int:
        """As `Translator.frames_under_way`."""
        return self._current.frames_under_way

    def engine_for(self, frame: Any) -> RunnerInfo:
        """As `Translator.engine_for`."""
        return self._current.engine_for(frame)

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
