"""What csrc/steady.h computes, written again with numpy, pixel by pixel of the same whole numbers."""

from __future__ import annotations

import math

import numpy as np

Blended = tuple[np.ndarray, int, int]


def steadied(
    fresh: np.ndarray,
    history: np.ndarray,
    flow_x: np.ndarray,
    flow_y: np.ndarray,
    weight: np.ndarray,
    gain: int,
    squared_limit: float,
) -> Blended:
    """As `engine._native.Steadier.run`."""
    height, width = fresh.shape[:2]
    now = fresh.astype(np.int64)
    shift_x, shift_y, share = (
        _enlarged(values.astype(np.int64), (height, width)) for values in (flow_x, flow_y, weight)
    )
    share = share[..., None]
    ys, xs = np.mgrid[:height, :width]
    moved = _between(history.astype(np.int64), xs * 256 + shift_x, ys * 256 + shift_y)
    correction = (share * (moved - 16 * now) + 128) >> 8
    mean_square = float(((correction**2) >> 8).sum()) / fresh.size
    if mean_square > 16 * squared_limit:
        return fresh.copy(), 0, 0
    blended = 16 * now + ((_factor(squared_limit, mean_square) * correction + 128) >> 8)
    padded = np.pad(blended, ((1, 1), (1, 1), (0, 0)), mode="edge")
    edge = 4 * blended - padded[:-2, 1:-1] - padded[2:, 1:-1] - padded[1:-1, :-2] - padded[1:-1, 2:]
    sharp = blended + ((((gain * share) >> 8) * edge + 512) >> 10)
    out = np.clip((sharp + 8) >> 4, 0, 255)
    rest = _factor(squared_limit, float(((out - now) ** 2).sum()) / fresh.size)
    if rest < 256:
        out = now + np.trunc((out - now) * rest / 256).astype(np.int64)
    return out.astype(np.uint8), _detail(now), _detail(out)


def _places(size: int, map_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Between which two of a map's values the pixels lie, and how many 256ths on."""
    position = np.clip((2 * np.arange(size) + 1) * map_size * 128 // size - 128, 0, (map_size - 1) * 256)
    first = np.minimum(position >> 8, map_size - 2)
    return first, position - 256 * first


def _mixed(a: np.ndarray, b: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    return np.asarray((a * (256 - fraction) + b * fraction + 128) >> 8)


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, down = _places(size[0], values.shape[0])
    columns, right = _places(size[1], values.shape[1])
    tall = _mixed(values[rows], values[rows + 1], down[:, None])
    return _mixed(tall[:, columns], tall[:, columns + 1], right)


def _between(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A picture's values at places in 256ths, 16 times as large."""
    height, width = picture.shape[:2]
    x, y = np.clip(x, 0, (width - 1) * 256), np.clip(y, 0, (height - 1) * 256)
    left, top = np.clip(x >> 8, 0, width - 2), np.clip(y >> 8, 0, height - 2)
    right, down = (x - 256 * left)[..., None], (y - 256 * top)[..., None]
    columns = [
        (picture[top, column] * (256 - down) + picture[top + 1, column] * down + 8) >> 4 for column in (left, left + 1)
    ]
    return columns[0] + (((columns[1] - columns[0]) * right + 128) >> 8)


def _factor(limit: float, mean_square: float) -> int:
    return 256 if mean_square <= limit else int(256 * math.sqrt(limit / mean_square))


def _detail(picture: np.ndarray) -> int:
    light = picture @ np.array([1, 5, 2])
    edge = 4 * light[1:-1, 1:-1] - light[:-2, 1:-1] - light[2:, 1:-1] - light[1:-1, :-2] - light[1:-1, 2:]
    return int((edge[::3] ** 2).sum())
