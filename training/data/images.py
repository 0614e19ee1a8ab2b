"""Image files: listing, reading and writing them, and keeping decoded ones in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from engine.errors import SinkError, SourceError

Image = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] in RGB order."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}


def list_images(folder: Path, *, limit: int | None = None) -> list[Path]:
    """The image files in a folder and its subfolders, by name. Raises SourceError where there are none."""
    if not folder.is_dir():
        raise SourceError(f"no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise SourceError(f"no images in {folder}: {', '.join(sorted(SUFFIXES))} are read")
    return paths[:limit]


def read_image(path: Path) -> Image:
    """Decodes an image as RGB without transparency. Raises SourceError where it can't be read."""
    try:
        decoded = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # a picture larger than OpenCV agrees to
        decoded = None
    if decoded is None:
        raise SourceError(f"{path} can't be read as an image: remove or replace it")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def write_image(path: Path, image: Image) -> None:
    """Writes an image in the format of its suffix; makes its folder. Raises SinkError where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
        raise SinkError(f"can't write {path}: is the disk full?")


class ImageFolder:
    """Images by number; decoded images are kept in memory, up to `cache_bytes`."""

    def __init__(self, paths: Sequence[Path], *, cache_bytes: int = 0) -> None:
        self.paths = list(paths)
        self._room = cache_bytes
        self._kept: dict[int, Image] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        """The decoded image; don't write into it. Raises SourceError where it can't be read."""
        if index in self._kept:
            return self._kept[index]
        image = read_image(self.paths[index])
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._kept[index] = image
        return image
