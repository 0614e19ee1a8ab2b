"""Colour matrices that swscale doesn't know: luma and chroma to RGB signals, by the formulas of ITU-T H.273."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.video.color import LUMA_WEIGHTS, TRANSFER_HLG, TRANSFER_PQ, UNSPECIFIED, Color
from engine.video.tonemap import nits_to_pq, pq_to_nits

# H.273, table 4. What is named here and not in `CONVERTED` is read as an untagged video, with a note.
MATRIX_NAMES = {
    0: "GBR",
    8: "YCgCo",
    10: "BT.2020 constant luminance",
    11: "Y'D'zD'x (SMPTE ST 2085)",
    12: "chromaticity-derived",
    13: "chromaticity-derived constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
CONVERTED = (8, 10, 12, 13, 14)

# Primaries of H.273, table 2, with their white: x and y of red, green, blue and white.
_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65),
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}

# ITU-R BT.2100: linear BT.2020 to LMS, and LMS signals to ICtCp.
_RGB_TO_LMS = np.array([[1688, 2146, 262], [683, 2951, 462], [99, 309, 3688]]) / 4096
_LMS_TO_ICTCP = {
    TRANSFER_PQ: np.array([[2048, 2048, 0], [6610, -13613, 7003], [17933, -17390, -543]]) / 4096,
    TRANSFER_HLG: np.array([[2048, 2048, 0], [3625, -7465, 3840], [9500, -9212, -288]]) / 4096,
}

Curve = Callable[[np.ndarray], np.ndarray]


def rgb_of(ycc: np.ndarray, color: Color) -> np.ndarray:
    """RGB signals [..., 3] in 0..1 of luma in 0..1 and chroma in -0.5..0.5 [..., 3].

    The matrix is one of `CONVERTED`. The signals have the source's transfer; those of ICtCp are PQ, or HLG.
    """
    y, cb, cr = ycc[..., 0], ycc[..., 1], ycc[..., 2]
    if color.matrix == 8:
        rgb = np.stack([y - cb + cr, y + cb, y - cb - cr], -1)
    elif color.matrix == 12:
        red, blue = luma_weights(color)
        r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
        rgb = np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1)
    elif color.matrix == 14:
        rgb = _of_ictcp(ycc, TRANSFER_HLG if color.transfer == TRANSFER_HLG else TRANSFER_PQ)
    else:
        rgb = _of_constant_luminance(y, cb, cr, color)
    return np.clip(rgb, 0, 1)


def luma_weights(color: Color) -> tuple[float, float]:
    """Shares of red and blue in luma: for derived matrices, from the primaries (H.273, equations 32 to 37)."""
    if color.matrix == 10:
        return LUMA_WEIGHTS[9]
    red, green, blue, white = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in _chromaticities(color.primaries))
    shares = np.linalg.solve(np.stack([red, green, blue], -1), white)
    return float(shares[0]), float(shares[2])


def _chromaticities(primaries: int) -> tuple[tuple[float, float], ...]:
    return _PRIMARIES.get(primaries, _PRIMARIES[1])


def _of_constant_luminance(y: np.ndarray, cb: np.ndarray, cr: np.ndarray, color: Color) -> np.ndarray:
    """H.273, equations 58 to 69: luma is that of linear light, and chroma has another scale on each side of grey."""
    red, blue = luma_weights(color)
    to_light, to_signal = _curves(color.transfer)

    def channel(chroma: np.ndarray, weight: float) -> np.ndarray:
        below = 2 * to_signal(np.asarray(1 - weight))
        above = 2 * (1 - to_signal(np.asarray(weight)))
        return np.clip(y + chroma * np.where(chroma <= 0, below, above), 0, 1)

    b, r = channel(cb, blue), channel(cr, red)
    light = (to_light(y) - red * to_light(r) - blue * to_light(b)) / (1 - red - blue)
    return np.stack([r, to_signal(np.clip(light, 0, 1)), b], -1)


def _of_ictcp(ycc: np.ndarray, transfer: int) -> np.ndarray:
    to_light, to_signal = _curves(transfer)
    lms = to_light(np.clip(ycc @ np.linalg.inv(_LMS_TO_ICTCP[transfer]).T, 0, 1))
    return to_signal(np.clip(lms @ np.linalg.inv(_RGB_TO_LMS).T, 0, 1))


def _curves(transfer: int) -> tuple[Curve, Curve]:
    """Signal to linear light and back, both in 0..1."""
    if transfer == TRANSFER_PQ:
        return lambda signal: pq_to_nits(signal) / 10000, lambda light: nits_to_pq(light * 10000)
    if transfer == TRANSFER_HLG:
        return _hlg_to_light, _light_to_hlg
    return _bt709_to_light, _light_to_bt709


def _bt709_to_light(signal: np.ndarray) -> np.ndarray:
    """ITU-R BT.709 and BT.2020."""
    return np.where(signal < 0.0812429, signal / 4.5, ((np.maximum(signal, 0) + 0.0992968) / 1.0992968) ** (1 / 0.45))


def _light_to_bt709(light: np.ndarray) -> np.ndarray:
    return np.where(light < 0.0180540, light * 4.5, 1.0992968 * np.maximum(light, 0) ** 0.45 - 0.0992968)


_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073


def _hlg_to_light(signal: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100, of the scene."""
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12)


def _light_to_hlg(light: np.ndarray) -> np.ndarray:
    bright = _HLG_A * np.log(np.maximum(12 * light - _HLG_B, 1e-12)) + _HLG_C
    return np.where(light <= 1 / 12, np.sqrt(3 * np.maximum(light, 0)), bright)


def name_of(matrix: int) -> str:
    """A matrix in words for a note."""
    return MATRIX_NAMES.get(matrix, f"number {matrix}")


def is_unknown(matrix: int) -> bool:
    """True for a matrix that a file names and that is not converted."""
    return matrix not in (UNSPECIFIED, *CONVERTED, *LUMA_WEIGHTS)
