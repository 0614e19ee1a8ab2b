"""A file that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from engine.errors import SinkError
from engine.files import part_of

# File systems take names of 255 bytes; what is put around them while they are written needs some of that.
_LONGEST_NAME_BYTES = 230


class PartialFile:
    """The hidden file beside `path` that is written first, and its two ends: complete or partial.

    Raises:
        SinkError: the folder is missing or read-only, or `path` exists and `overwrite` is False.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        check_writable(path, overwrite=overwrite)
        self._overwrite = overwrite
        self.path = path
        self.part = part_of(path)

    def complete(self) -> Path:
        """Forces the data to disk, then gives the file its final name, or the next free one if it has been taken."""
        return self._rename(self.path if self._overwrite else unused(self.path))

    def keep_partial(self) -> Path:
        """Names the unfinished file so: `clip.mp4` becomes `clip.partial.mp4`, or the next name that is free."""
        return self._rename(unused(self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")))

    def remove(self) -> None:
        """Removes what was written."""
        with contextlib.suppress(OSError):
            self.part.unlink(missing_ok=True)

    def _rename(self, target: Path) -> Path:
        try:
            with self.part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(self.part, target)
        except OSError as error:
            raise SinkError(f"{target}: can't be given its name ({error.strerror})") from error
        return target


def unused(path: Path) -> Path:
    """`path`, or the first of `NAME-2.EXT`, `NAME-3.EXT` ... that does not exist."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Raises SinkError where `path` can't be made."""
    if len(os.fsencode(path.name)) > _LONGEST_NAME_BYTES:
        raise SinkError(f"{path.name[:40]}...: the name is too long, at most {_LONGEST_NAME_BYTES} bytes")
    if path.is_dir():
        raise SinkError(f"{path}: is a folder; name a file in it, such as {path / 'out.mp4'}")
    if (path.exists() or path.is_symlink()) and not overwrite:
        raise SinkError(f"{path}: exists already; give another name with -o, or --overwrite to replace it")
    folder = path.parent
    if not folder.is_dir():
        raise SinkError(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SinkError(f"{path}: no permission to write in the folder {folder}")
