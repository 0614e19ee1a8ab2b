"""Single images and sequences of images, read and written by OpenCV."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from engine.device import host_image
from engine.errors import SinkError, SourceError
from engine.video.base import Frame, Sink, Source, SourceInfo
from engine.video.partial_file import PartialFile, check_writable

# Suffix -> parameters of cv2.imencode: good quality, quick.
WRITTEN_SUFFIXES = {
    ".png": [cv2.IMWRITE_PNG_COMPRESSION, 3],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
}


def read_image(path: Path) -> np.ndarray:
    """Reads an image as uint8 BGR, upright by its EXIF orientation; 16 bits become 8, transparency is dropped.

    Raises:
        SourceError: missing, empty or not an image that OpenCV can decode.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"{path}: can't be read ({error.strerror})") from error
    if not data.size:
        raise SourceError(f"{path}: the file is empty (0 bytes)")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"{path}: can't be decoded ({error.err})") from error
    if image is None:
        raise SourceError(f"{path}: not an image that can be decoded, or a damaged one")
    return image


def has_alpha(path: Path) -> bool:
    """True if a PNG or WebP says in its header that it has transparency."""
    with path.open("rb") as file:
        head = file.read(32)
    if head.startswith(b"\x89PNG"):
        return len(head) > 25 and head[25] in (4, 6)
    return head[:4] == b"RIFF" and head[12:16] == b"VP8X" and bool(head[20] & 0x10)


def told_apart(paths: list[Path], suffix: str = ".png") -> list[str]:
    """A name for each image, such that no two are written to one file: its own, or `a.bmp.png`, or `a-2.png`.

    `suffix` is that of images whose own format isn't written. Names that differ only in case count as one.
    """

    def written(name: Path) -> str:
        return (name.name if name.suffix.lower() in WRITTEN_SUFFIXES else f"{name.stem}{suffix}").casefold()

    own = {path.name.casefold() for path in paths if path.suffix.lower() in WRITTEN_SUFFIXES}
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = Path(path.name), 1
        keeps_format = path.suffix.lower() in WRITTEN_SUFFIXES
        if not keeps_format and written(name) in own | taken:
            name = Path(path.name + suffix)
        stem = name.stem
        while written(name) in taken or (written(name) in own and not (keeps_format and number == 1)):
            number += 1
            name = Path(f"{stem}-{number}{name.suffix}")
        taken.add(written(name))
        names.append(name.name)
    return names


class ImageSource(Source):
    """Images as frames, each with its file's name. The first readable one gives the size that `info` states.

    Images of a sequence may differ in size; a sink that needs one size says so.

    Raises:
        SourceError: not one of the images can be read.
    """

    def __init__(self, name: str, paths: list[Path]) -> None:
        self._name = name
        self._paths = list(paths)
        self._names = dict(zip(paths, told_apart(paths), strict=True))
        self._unreadable: list[str] = []
        self._transparent = 0
        self._closed = threading.Event()
        first = self._first()
        height, width = first.shape[:2]
        self.info = SourceInfo(name=name, width=width, height=height, frame_count=len(self._paths))
        self.paths = tuple(paths)

    def __iter__(self) -> Iterator[Frame]:
        for path in self._paths:
            if self._closed.is_set():
                return
            image = self._read(path)
            if image is not None:
                yield Frame(image=image, name=self._names[path])

    def close(self) -> None:
        """Ends the iteration at its next image."""
        self._closed.set()

    @property
    def missing(self) -> int:
        return len(self._unreadable)

    @property
    def warnings(self) -> list[str]:
        """Each image that was skipped, and how many have lost their transparency."""
        lines = [f"skipped: {reason}" for reason in self._unreadable]
        if self._transparent:
            lines.append(f"{self._name}: transparency of {self._transparent} images is dropped")
        return lines

    def _first(self) -> np.ndarray:
        """Reads up to the first readable image; unreadable ones before it are counted once and left out."""
        while self._paths:
            image = self._read(self._paths[0])
            if image is not None:
                self._transparent = 0
                return image
            del self._paths[0]
        if len(self._unreadable) == 1:
            raise SourceError(self._unreadable[0])
        raise SourceError(f"{self._name}: none of {len(self._unreadable)} images can be read; {self._unreadable[0]}")

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            image = read_image(path)
        except SourceError as error:
            self._unreadable.append(str(error))
            return None
        self._transparent += has_alpha(path)
        return image


class EncodeError(SinkError):
    """The image is nothing that its format can hold, such as a WebP of more than 16,383 pixels a side."""


def write_image(path: Path, image: np.ndarray, *, overwrite: bool) -> Path:
    """Writes an image; it appears under its name only when it is complete.

    Raises:
        SinkError: unknown suffix, or the file can't be written.
    """
    parameters = _parameters(path)
    partial = PartialFile(path, overwrite=overwrite)
    try:
        encoded, data = cv2.imencode(path.suffix, image, parameters)
    except cv2.error as error:
        raise EncodeError(f"{path}: {image.shape[1]}x{image.shape[0]} can't be encoded ({error.err})") from error
    if not encoded:
        raise EncodeError(f"{path}: {image.shape[1]}x{image.shape[0]} can't be encoded")
    try:
        partial.write(data.tobytes())
    except OSError as error:
        partial.remove()
        raise SinkError(f"{path}: can't be written ({error.strerror})") from error
    return partial.complete()


def _parameters(path: Path) -> list[int]:
    parameters = WRITTEN_SUFFIXES.get(path.suffix.lower())
    if parameters is None:
        raise SinkError(
            f"{path}: images are written as {' '.join(WRITTEN_SUFFIXES)}, not {path.suffix or 'without suffix'}"
        )
    return parameters


class ImageSink(Sink):
    """Writes one image file.

    Raises:
        SinkError: unknown suffix, or `path` can't be written.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        _parameters(path)
        check_writable(path, overwrite=overwrite)
        self._path = path
        self._overwrite = overwrite
        self._written: Path | None = None

    def write(self, frame: Frame) -> None:
        """Writes the image; there is room for one only."""
        if self._written is not None:
            raise SinkError(f"{self._path}: one image file can't hold several frames; name a folder or a video file")
        self._written = write_image(self._path, host_image(frame.image), overwrite=self._overwrite)

    def finish(self, *, is_cut: bool = False) -> Path | None:
        if self._written is None:
            raise SinkError(f"{self._path}: not written, because the source gave no frame")
        return self._written

    def abort(self) -> Path | None:
        return self._written


class ImageFolderSink(Sink):
    """Writes every frame as a file of its own, under its source file's name, or numbered (frame_000001.png).

    Args:
        folder: made if it is missing (its parent must exist).
        suffix: image format for numbered files and for names whose own format can't be written.
        pattern: file name with a number in it, such as frame_%06d.png; None keeps the names.
        overwrite: replace files that exist.
    """

    def __init__(
        self, folder: Path, *, suffix: str = ".png", pattern: str | None = None, overwrite: bool = False
    ) -> None:
        if folder.exists() and not folder.is_dir():
            raise SinkError(f"{folder}: is a file; name a folder for the images")
        if not folder.absolute().parent.is_dir():
            raise SinkError(f"{folder}: the folder {folder.parent} does not exist; create it first")
        existing = folder if folder.is_dir() else folder.absolute().parent
        if not os.access(existing, os.W_OK | os.X_OK):
            raise SinkError(f"{folder}: no permission to write in the folder {existing}")
        self._folder = folder
        self._suffix = suffix
        self._pattern = pattern
        self._overwrite = overwrite
        self._count = 0
        self._failed: list[str] = []

    def write(self, frame: Frame) -> None:
        """Writes a frame's file. One that can't be encoded, or whose name is a folder's, is left out and named."""
        self._folder.mkdir(exist_ok=True)
        self._count += 1
        path = self._folder / self._name(frame)
        if path.is_dir():
            self._failed.append(f"{path}: is a folder")
            return
        try:
            write_image(path, host_image(frame.image), overwrite=self._overwrite)
        except EncodeError as error:
            self._failed.append(str(error))

    @property
    def missing(self) -> int:
        return len(self._failed)

    @property
    def warnings(self) -> list[str]:
        """Each file that is not written."""
        return [f"not written: {reason}" for reason in self._failed]

    def finish(self, *, is_cut: bool = False) -> Path | None:
        if self._failed and len(self._failed) == self._count:
            raise SinkError(self._failed[0])
        if not self._count:
            raise SinkError(f"{self._folder}: nothing written, because the source gave no frame")
        return self._folder

    def abort(self) -> Path | None:
        """Keeps what is written: every file in the folder is complete."""
        return self._folder if self._count else None

    def _name(self, frame: Frame) -> str:
        if self._pattern is not None:
            return self._pattern % self._count
        if not frame.name:
            return f"frame_{self._count:06d}{self._suffix}"
        name = Path(frame.name)
        return name.name if name.suffix.lower() in WRITTEN_SUFFIXES else f"{name.stem}{self._suffix}"
