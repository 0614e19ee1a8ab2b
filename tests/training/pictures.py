"""Small folders of pictures to train on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_picture(path: Path, *, size: tuple[int, int] = (48, 40), seed: int = 0) -> Path:
    """A PNG of smooth colours, `size` being (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))
    return path


def write_folder(folder: Path, count: int, *, size: tuple[int, int] = (48, 40), seed: int = 0) -> Path:
    """`count` of them."""
    for number in range(count):
        write_picture(folder / f"{number:03d}.png", size=size, seed=seed + number)
    return folder


def unaligned_folder(root: Path, count: int = 5, *, size: tuple[int, int] = (48, 40)) -> Path:
    """trainA and trainB."""
    write_folder(root / "trainA", count, size=size, seed=0)
    write_folder(root / "trainB", count + 1, size=size, seed=100)
    return root


def aligned_folder(root: Path, count: int = 5, *, side: int = 40) -> Path:
    """train, A and B side by side."""
    return write_folder(root / "train", count, size=(2 * side, side)).parent
