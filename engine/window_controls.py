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
        """Style and engine in a few words, and the size that is translated where frames are made smaller."""
        translator = self._translator
        words = Path(translator.style).stem + ("..." if translator.is_preparing else ""), str(translator.engine or "")
        size = translator.internal_size if translator.scale != 1.0 else None
        return "  ".join(filter(None, [*words, f"at {size[0]}x{size[1]}" if size else ""]))
