"""Rotation and mirroring that a file asks its player for."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

# The display matrix's first four numbers are 16.16 fixed point; this near to zero is zero.
_ZERO = 1 << 10


@dataclasses.dataclass(frozen=True)
class Orientation:
    """Makes a stored picture upright: transpose first, then the flips.

    Attributes:
        transpose: swap rows and columns.
        flip_horizontal, flip_vertical: mirror left-right, top-bottom.
        is_exact: False where the file asks for an angle that is not a multiple of 90 degrees, which is left out.
    """

    transpose: bool = False
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_exact: bool = True

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the upright picture."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Returns the upright picture, contiguous; the same array where nothing is to do."""
        if self.transpose:
            image = cv2.transpose(image)
        code = {(True, True): -1, (True, False): 1, (False, True): 0}.get((self.flip_horizontal, self.flip_vertical))
        return image if code is None else cv2.flip(image, code)


def orientation_of(display_matrix: bytes) -> Orientation:
    """Orientation from a display matrix: 9 native int32, row by row; (x, y) -> (a x + c y, b x + d y), y downwards."""
    a, b, _, c, d = np.frombuffer(display_matrix, np.int32, 5).tolist()
    if max(abs(b), abs(c)) < _ZERO < min(abs(a), abs(d)):
        return Orientation(flip_horizontal=a < 0, flip_vertical=d < 0)
    if max(abs(a), abs(d)) < _ZERO < min(abs(b), abs(c)):
        return Orientation(transpose=True, flip_horizontal=c < 0, flip_vertical=b < 0)
    return Orientation(is_exact=False)
