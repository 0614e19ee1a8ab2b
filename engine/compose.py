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


def composer(strength: float = 1.0, compare: str | None = None) -> Compose | None:
    """What makes the picture of a frame and its translation; None where that is the translation itself.

    Args:
        strength: share of the translation, 0 to 1; the rest is the source.
        compare: "split": the left half is the source's; "side": source and result beside each other; "toggle": two
            seconds of the one, two of the other.

    A source that is smaller than its translation (super-resolution) is enlarged, bicubic.
    """
    if strength == 1.0 and compare is None:
        return None

    def compose(source: np.ndarray, translated: np.ndarray, seconds: Fraction) -> np.ndarray:
        import cv2

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

    return compose
