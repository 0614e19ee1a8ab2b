"""What the keys of the window change: composition and style."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.compose import Composition

if TYPE_CHECKING:
    from engine.switching import StyleSwitcher


class WindowControls(Composition):
    """What the keys of the window change: see `engine.video.window.Controls`.

    Args:
        strength, compare: in the beginning.
        translator: whose style the keys change.
        output: what is written too, so the picture must keep its size; None: nothing.
    """

    def __init__(self, strength: float, compare: str | None, translator: StyleSwitcher, output: Path | None) -> None:
        super().__init__(strength, compare)
        offered = (compare, None, "split", "toggle" if output is not None else "side")
        self.comparisons: tuple[str | None, ...] = tuple(dict.fromkeys(offered))
        self._translator = translator

    def step_style(self, step: int) -> None:
        """Goes on to another style."""
        self._translator.step_style(step)

    def describe(self) -> str:
        """Style and engine in a few words."""
        waiting = "..." if self._translator.is_preparing else ""
        return f"{Path(self._translator.style).stem}{waiting}  {self._translator.engine or ''}".rstrip()
