"""How close a picture is to another, beside `engine.parity.psnr_db`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from engine.parity import psnr_db
from training.data.images import Image

_BORDER = 16  # pixels, where a network's padding shows


def ssim(a: Image, b: Image) -> float:
    """Structural similarity over the RGB channels, Gaussian window 11x11 of 1.5 pixels (Wang et al., 2004)."""

    def blur(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return cv2.GaussianBlur(image, (11, 11), 1.5).astype(np.float64)

    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * (2.0 * covariance + c2) / (variance_x + variance_y + c2)))


def mean_quality(pictures: Sequence[Image], targets: Sequence[Image]) -> dict[str, float]:
    """Mean PSNR in dB, equal pictures counting as 99, and mean SSIM of pictures against their targets."""
    pairs = list(zip(pictures, targets, strict=True))
    return {
        "psnr": float(np.mean([min(99.0, psnr_db(*pair)) for pair in pairs])),
        "ssim": float(np.mean([ssim(*pair) for pair in pairs])),
    }


def pan_error(paint: Callable[[Image], Image], picture: Image) -> float:
    """How much texture sticks to the frame when the camera pans: 0 if the painting moves with the picture.

    Mean squared difference, of values from 0 to 1, between the painting of a moved picture and the moved painting: the
    warping error (Lai et al., arXiv:1808.00449) under motion that is known exactly. The picture moves by 1 to 3 pixels;
    a border of 16 pixels is left out.
    """
    errors = []
    for x, y in ((1, 0), (0, 2), (3, 1)):
        height, width = picture.shape[0] - 4, picture.shape[1] - 4
        still = paint(np.ascontiguousarray(picture[:height, :width])).astype(np.float64)
        moved = paint(np.ascontiguousarray(picture[y : y + height, x : x + width])).astype(np.float64)
        inner = np.s_[_BORDER : height - _BORDER - y, _BORDER : width - _BORDER - x]
        errors.append(np.mean((moved[inner] - still[y:, x:][inner]) ** 2) / 255.0**2)
    return float(np.mean(errors))
