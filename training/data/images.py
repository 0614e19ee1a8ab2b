"""Image files of a folder, decoded, and kept in memory as far as they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from engine.errors import SourceError

Image = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] in RGB order."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


def list_images(folder: Path, *, limit: int | None = None) -> list[Path]:
    """The image files in a folder and the folders in it, in the order of their names.

    Raises:
        SourceError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise SourceError(f"no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise SourceError(f"no images in {folder}: {', '.join(sorted(SUFFIXES))} are read")
    return paths[:limit]


def read_image(path: Path) -> Image:
    """Decodes an image; grey ones become RGB, transparency is dropped.

    Raises:
        SourceError: it can't be read.
    """
    try:
        decoded = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # a picture larger than OpenCV agrees to
        decoded = None
    if decoded is None:
        raise SourceError(f"{path} can't be read as an image: remove or replace it")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


class ImageFolder:
    """Images by number.

    Args:
        paths: the files.
        cache_bytes: decoded images are kept in memory up to so many bytes.
    """

    def __init__(self, paths: Sequence[Path], *, cache_bytes: int = 0) -> None:
        self.paths = list(paths)
        self._room = cache_bytes
        self._kept: dict[int, Image] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        """The decoded image, uint8 [H, W, 3] in RGB order; not to be written into.

        Raises:
            SourceError: it can't be read.
        """
        if index in self._kept:
            return self._kept[index]
        image = read_image(self.paths[index])
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._kept[index] = image
        return image
