"""What is shown of a frame: its translation alone, blended with the source, or both to compare them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

COMPARISONS = ("split", "side", "toggle")

_TOGGLE_SECONDS = 2
_LINE = 235  # grey of the line between the halves

Compose = Callable[[np.ndarray, np.ndarray, Fraction], np.ndarray]
"""(source, translation, seconds since the beginning) -> picture; all uint8 [H, W, 3]."""


class Composition:
    """Makes the picture of a frame and its translation; its attributes may change at any time.

    A source that is smaller than its translation (super-resolution) is enlarged, bicubic.

    Attributes:
        strength: share of the translation, 0 to 1; the rest is the source.
        compare: "split": the left half is the source's; "side": source and result beside each other; "toggle": two
            seconds of the one, two of the other; None: the result alone.
    """

    def __init__(self, strength: float = 1.0, compare: str | None = None) -> None:
        self.strength, self.compare = strength, compare

    def __call__(self, source: np.ndarray, translated: np.ndarray, seconds: Fraction) -> np.ndarray:
        """As `Compose`."""
        import cv2

        strength, compare = self.strength, self.compare
        if strength == 1.0 and compare is None:
            return translated
        height, width = translated.shape[:2]
        if source.shape[:2] != (height, width):
            source = cv2.resize(source, (width, height), interpolation=cv2.INTER_CUBIC)
        if strength != 1.0:
            translated = cv2.addWeighted(translated, strength, source, 1.0 - strength, 0.0)
        if compare == "side":
            return np.hstack([source, translated])
        if compare == "toggle":
            return source if seconds // _TOGGLE_SECONDS % 2 == 0 else translated
        if compare == "split":
            translated = translated.copy()
            translated[:, : width // 2] = source[:, : width // 2]
            translated[:, width // 2] = _LINE
        return translated


def composer(strength: float = 1.0, compare: str | None = None) -> Compose | None:
    """A `Composition`, or None where that is the translation itself."""
    return None if strength == 1.0 and compare is None else Composition(strength, compare)
