"""A file that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import itertools
import os
import re
import resource
import shutil
from pathlib import Path
from typing import Any

from engine.errors import SinkError
from engine.files import PART, part_of

# File systems take names of 255 bytes; what is put around them while they are written needs some of that.
_LONGEST_NAME_BYTES = 230

# The largest file of FAT file systems.
_FAT_BYTES = (1 << 32) - 1

FULL_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full for this user (a quota)",
    errno.EFBIG: "files may not be larger here",
}
"""Errors of what has no room left."""


class PartialFile(io.RawIOBase):
    """The hidden file beside `path` that is written first, and its two ends: complete or partial.

    It is opened once, at the first write, so a folder that is renamed or removed meanwhile loses nothing.

    Attributes:
        path: the final name.
        part: the hidden name.
        failure: why the disk could not write where the file was, which is in another place now; "" otherwise.
        full: why there is no room left but what `reserve` has kept; "" while there is.

    Raises:
        SinkError: the folder is missing or read-only, or `path` exists and `overwrite` is False.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        check_writable(path, overwrite=overwrite)
        self._begin(path, part_of(path), overwrite)

    def another(self) -> PartialFile:
        """A second hidden file in the same folder, for the same name."""
        file = PartialFile.__new__(PartialFile)
        file._begin(self.path, part_of(self.path.with_name(f"{self.path.name}.late")), self._overwrite)
        file._folder = os.dup(self._folder)
        return file

    def _begin(self, path: Path, part: Path, overwrite: bool) -> None:
        self.path = path
        self.part = part
        self.name = os.fsencode(self.part).decode("utf-8", "replace")  # for FFmpeg, which opens nothing by it
        self.full = ""
        self._overwrite = overwrite
        self._position = 0
        self._file = self._folder = -1  # descriptors
        self._reserve: io.FileIO | None = None
        self._reserved = 0
        self.failure = ""
        self._largest = self._limit = 1 << 62

    # --- a file for a muxer ---

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Writes all of `data`.

        Raises:
            OSError: not even the room that is kept is enough, or the disk fails.
        """
        if self._file < 0:
            self._open()
        left = memoryview(data)
        while left:
            try:
                written = os.pwrite(self._file, left, self._position)
            except OSError as error:
                if error.errno not in FULL_ERRORS:
                    self._move(error)
                    continue
                if self._reserve is None:
                    raise
                self.full = FULL_ERRORS[error.errno]
                self._reserve.close()
                self._reserve = None
                continue
            left = left[written:]
            self._position += written
        if self._position > self._limit:
            self.full = FULL_ERRORS[errno.EFBIG]
        return len(data)

    def reserve(self, size: int) -> None:
        """Keeps room to close the file with: at least `size` bytes, or half of the largest file that there may be.

        It is a file of its own, for disks and quotas, and a lower limit, where files have a largest size.

        Raises:
            OSError: there is no such room.
        """
        if self._file < 0:
            self._open()
        if size <= self._reserved:
            return
        self._reserved = size = min(2 * size, self._largest // 2)
        self._limit = self._largest - size
        if self._reserve is None:
            self._reserve = open(self._open_nameless(), "r+b", buffering=0)  # noqa: SIM115
        try:
            os.posix_fallocate(self._reserve.fileno(), 0, size)
        except OSError as error:
            if error.errno in FULL_ERRORS:
                raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size()}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def reader(self) -> io.BufferedReader:
        """What is written so far, for reading."""
        return io.BufferedReader(Reader(self))

    def fileno(self) -> int:
        return self._file

    # --- its ends ---

    def complete(self) -> Path:
        """Forces the data to disk, then gives the file its final name, or the next free one if it has been taken.

        Raises:
            SinkError: it can't; the file is still there, to be kept or removed.
        """
        return self._rename(self.path.name, replaces=self._overwrite, is_partial=False)

    def keep_partial(self) -> Path:
        """Names the unfinished file so: `clip.mp4` becomes `clip.partial.mp4`, or the next name that is free."""
        return self._rename(f"{self.path.stem}.partial{self.path.suffix}", replaces=False, is_partial=True)

    def remove(self) -> None:
        """Removes what was written."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.part.name, dir_fd=self._folder)
        self._release()

    def _open(self) -> None:
        if self._folder < 0:
            self._folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        self._make()
        self._largest = self._limit = _largest_file(self.path.parent)

    def _make(self) -> None:
        self._file = os.open(self.part.name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666, dir_fd=self._folder)
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _open_nameless(self) -> int:
        """A file in the folder that goes with this process. It never has a name, or only the hidden one of a part."""
        with contextlib.suppress(OSError):  # file systems that know no such files
            return os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600, dir_fd=self._folder)
        name = part_of(self.path.with_name(f"{self.path.name}.room")).name
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=self._folder)
        os.unlink(name, dir_fd=self._folder)
        return file

    def _move(self, error: OSError) -> None:
        """Goes on in a copy of the file, once: the disk can't write where this one is."""
        if self.failure:
            raise error
        self.failure = os.strerror(error.errno or errno.EIO)
        failed = self._file
        os.unlink(self.part.name, dir_fd=self._folder)
        self._make()
        with os.fdopen(failed, "rb") as source, open(self._file, "wb", closefd=False) as copy:
            source.seek(0)
            shutil.copyfileobj(source, copy, 1 << 20)

    def _size(self) -> int:
        return os.fstat(self._file).st_size if self._file >= 0 else 0

    def _rename(self, name: str, *, replaces: bool, is_partial: bool) -> Path:
        try:
            try:
                os.fsync(self._file)
            except OSError:
                if not is_partial:
                    raise
            folder = self._folder_now()
            target = folder / name if replaces else unused(folder / name)
            if self._is_there():
                os.replace(self.part.name, target.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            else:
                self._copy_to(target)
        except OSError as error:
            raise SinkError(f"{self.path.with_name(name)}: can't be given its name ({error.strerror})") from error
        self._release()
        return target

    def _folder_now(self) -> Path:
        """The folder, which may have been renamed; or made again, if it has been removed."""
        here = self.path.parent
        if not self._is_there():
            here.mkdir(parents=True, exist_ok=True)
            return here
        if here.is_dir() and os.path.samestat(here.stat(), os.fstat(self._folder)):
            return here
        return Path(os.readlink(f"/proc/self/fd/{self._folder}"))

    def _is_there(self) -> bool:
        try:
            there = os.stat(self.part.name, dir_fd=self._folder)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._file))

    def _copy_to(self, target: Path) -> None:
        part = target.with_name(self.part.name)
        with self.reader() as written, part.open("wb") as copy:
            shutil.copyfileobj(written, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(part, target)

    def _release(self) -> None:
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        for descriptor in (self._file, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._folder = -1


class Reader(io.RawIOBase):
    """Reads an open file at a position of its own."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._file.fileno()).st_size}[
            whence
        ]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = os.preadv(self._file.fileno(), [buffer], self._position)
        self._position += count
        return count


def sweep(folder: Path) -> list[Path]:
    """Removes hidden files in `folder` that processes which no longer run have left unfinished; returns them."""
    removed = []
    for part in folder.glob(f".*{PART}"):
        match = re.search(rf"\.(\d+){re.escape(PART)}$", part.name)
        if match is None or _runs(int(match[1])):
            continue
        with contextlib.suppress(OSError):
            file = os.open(part, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a process on another machine may hold it
                part.unlink()
                removed.append(part)
            finally:
                os.close(file)
    return removed


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _largest_file(folder: Path) -> int:
    """Bytes that a file in `folder` may have."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    largest = 1 << 62 if limit == resource.RLIM_INFINITY else limit
    return min(largest, _FAT_BYTES) if _file_system(folder) in ("vfat", "msdos") else largest


def _file_system(folder: Path) -> str:
    """The name of the file system that a folder is on; "" where Linux's list of mounts isn't there."""
    place, found = f"{folder.resolve()}/", ("", "")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            _, mounted, kind = line.split()[:3]
            if place.startswith(f"{mounted.rstrip('/')}/") and len(mounted) >= len(found[0]):
                found = (mounted, kind)
    return found[1]


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
