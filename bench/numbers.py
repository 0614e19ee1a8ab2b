"""Numbers in the pictures of a camera: a row of black and white squares along the upper edge."""

from __future__ import annotations

import numpy as np

BITS = 8
SQUARES = BITS + 2  # and a black and a white one


def mark(image: np.ndarray, number: int) -> None:
    """Draws a number in Gray's code: where a picture is a mixture of two in turn, one of them is read."""
    code = number ^ number >> 1
    bits = [0, 1, *(code >> place & 1 for place in reversed(range(BITS)))]
    side = image.shape[1] / SQUARES
    for place, bit in enumerate(bits):
        image[: round(side), round(place * side) : round((place + 1) * side)] = 255 * bit


def number_of(row: np.ndarray) -> int | None:
    """The number in a row of pixels through the squares, uint8 [W, channels]; None where there is none."""
    side = row.shape[0] / SQUARES
    black, white, *levels = (int(row[int((place + 0.5) * side), :3].sum()) for place in range(SQUARES))
    if white - black < 60:
        return None
    code = 0
    for level in levels:
        code = 2 * code + (level > (black + white) / 2)
    number = code
    while code := code >> 1:
        number ^= code
    return number
