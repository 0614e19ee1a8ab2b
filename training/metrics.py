"""How close a picture is to another, beside `engine.precision.psnr_db`."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] in RGB order."""


def ssim(a: Picture, b: Picture) -> float:
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
