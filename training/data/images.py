"""Image files: listing, reading and writing them, and keeping decoded ones in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from engine.errors import SinkError, SourceError

Image = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] in RGB order, or [H, W, 4] with alpha."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


def list_images(folder: Path, *, limit: int | None = None) -> list[Path]:
    """The image files in a folder and its subfolders, by name; hidden ones are left out.

    Raises:
        SourceError: there are none.
    """
    if not folder.is_dir():
        raise SourceError(f"no folder {folder}")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not paths:
        raise SourceError(f"no images in {folder}: {', '.join(sorted(SUFFIXES))} are read")
    return paths[:limit]


def read_image(path: Path, *, channels: int = 3) -> Image:
    """Decodes an image as uint8 [H, W, channels]. Raises SourceError where it can't be read.

    Args:
        channels: 3 for RGB without transparency; 4 for RGB and alpha, which is 255 where the file has none.
    """
    try:
        decoded = cv2.imread(str(path), cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_UNCHANGED)
    except cv2.error:  # a picture larger than OpenCV agrees to
        decoded = None
    if decoded is None:
        raise SourceError(f"{path} can't be read as an image: remove or replace it")
    if channels == 4:
        if decoded.ndim != 3 or decoded.shape[2] != 4:
            return np.dstack((read_image(path), np.full(decoded.shape[:2], 255, np.uint8)))
        if decoded.dtype != np.uint8:
            decoded = (decoded // 257).astype(np.uint8)
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGBA), dtype=np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def write_image(path: Path, image: Image) -> None:
    """Writes an image in the format of its suffix; makes its folder. Raises SinkError where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise SinkError(f"can't write {path}: is the disk full?")


class ImageFolder:
    """Images by number; decoded images are kept in memory, up to `cache_bytes`."""

    def __init__(self, paths: Sequence[Path], *, cache_bytes: int = 0, channels: int = 3) -> None:
        self.paths = list(paths)
        self._room = cache_bytes
        self._channels = channels
        self._kept: dict[int, Image] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        """The decoded image; don't write into it. Raises SourceError where it can't be read."""
        if index in self._kept:
            return self._kept[index]
        image = read_image(self.paths[index], channels=self._channels)
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._kept[index] = image
        return image
