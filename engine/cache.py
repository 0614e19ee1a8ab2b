"""Compiled engines that are kept on disk: `python -m engine.cache list|clear`.

An entry is a folder with the files of one engine and `entry.json`, which says what the engine is of, who made it and
what its files' SHA-256 sums are. The folder's name is the hash of the first two, so that an engine of other weights,
another frame size, another version or another machine is simply not found. Entries are written beside their place
and renamed, which makes several processes that build at once, or one that is killed half-way, harmless. Engines hold
machine code: the cache is for its owner alone, and no file is opened whose sum differs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.command_line import command_name, errors_in_one_line
from engine.errors import BackendError, EngineError
from engine.files import PART, sha256, written_beside

logger = logging.getLogger("streamgan")

LIMIT_GIB = 4.0
"""The cache is kept below this; STREAMGAN_CACHE_GIB sets another."""

_ENTRY = "entry.json"
_FORMAT = 1
# A build that was killed leaves its folder; nothing builds for so long.
_ABANDONED_SECONDS = 6 * 3600.0

Fields = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One engine of the cache.

    Attributes:
        folder: holds its files.
        of: what it is an engine of: generator, frame size, precision, backend.
        made_by: the versions and the machine that it was made by and for.
        main: name of the file that its backend loads.
        files: SHA-256 of each file, by name.
        facts: what the backend said of it.
        size_bytes: of all its files.
        used: when it was last used, seconds since the epoch.
    """

    folder: Path
    of: dict[str, str]
    made_by: dict[str, str]
    main: str
    files: dict[str, str]
    facts: dict[str, Any]
    size_bytes: int
    used: float


def default_folder() -> Path:
    """Where engines are kept: STREAMGAN_CACHE, or `streamgan/engines` in the user's cache folder."""
    if chosen := os.environ.get("STREAMGAN_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "streamgan" / "engines"


class EngineCache:
    """The engines in one folder.

    Args:
        folder: `default_folder()` unless given; made with the mode 0700.
        limit_bytes: entries used longest ago are removed beyond it.
    """

    def __init__(self, folder: Path | None = None, *, limit_bytes: int | None = None) -> None:
        self.folder = folder or default_folder()
        self.limit_bytes = _limit_bytes() if limit_bytes is None else limit_bytes

    def find(self, of: Fields, made_by: Fields) -> Entry | None:
        """The entry of this key, its files' sums checked; None, with a line about the reason if there is one to tell.

        A damaged entry is removed.
        """
        folder = self.folder / _key(of, made_by)
        try:
            self._require_private()
            entry = _read(folder)
            verify(folder, entry.files)
        except (FileNotFoundError, NotADirectoryError):
            self._tell_of_stale(of, made_by)
            return None
        except (EngineError, OSError) as error:
            logger.warning("the cached %s engine is built again: %s", of.get("backend", ""), error)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(folder / _ENTRY)
        return entry

    def has(self, of: Fields, made_by: Fields) -> bool:
        """Whether there is an entry of this key; it is not looked into."""
        return (self.folder / _key(of, made_by) / _ENTRY).is_file()

    def remove(self, entry: Entry) -> None:
        """Removes an entry, whether it is still there or not."""
        shutil.rmtree(entry.folder, ignore_errors=True)

    def add(self, of: Fields, made_by: Fields, name: str, write: Callable[[Path], dict[str, Any]]) -> Entry:
        """Adds the engine that `write` puts at the path it is given, called `name`; returns the entry.

        What another process has put there meanwhile stays.

        Raises:
            BackendError: it can't be kept: full disk, read-only or foreign folder; or what `write` raises.
        """
        final = self.folder / _key(of, made_by)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._require_private()
            self._remove_abandoned()
            with tempfile.TemporaryDirectory(prefix=f"{final.name}.", suffix=PART, dir=self.folder) as folder:
                part = Path(folder)
                facts = write(part / name)
                files = {path.name: sha256(path) for path in sorted(part.iterdir())}
                description = {
                    "format": _FORMAT,
                    "of": dict(of),
                    "made_by": dict(made_by),
                    "main": name,
                    "files": files,
                    "facts": facts,
                }
                (part / _ENTRY).write_text(json.dumps(description, indent=2) + "\n")
                try:
                    part.rename(final)
                except OSError:
                    if not (final / _ENTRY).exists():  # not the race that another process has won
                        shutil.rmtree(final, ignore_errors=True)
                        part.rename(final)
            entry = _read(final)
        except OSError as error:
            raise BackendError(f"the engine can't be kept in {self.folder}: {error.strerror or error}") from error
        self._evict(keep=entry)
        return entry

    def entries(self) -> list[Entry]:
        """All that can be read, the last used first."""
        found = []
        for path in self._folders():
            with contextlib.suppress(EngineError, OSError):
                found.append(_read(path))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> tuple[int, int]:
        """Removes everything; returns the number of engines and their bytes."""
        entries = self.entries()
        for path in [*self._folders(), *self._parts(), *self.folder.glob("*.json"), *self.folder.glob("timing-*.bin")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return len(entries), sum(entry.size_bytes for entry in entries)

    # --- small facts that are kept beside the engines ---

    def note(self, of: Fields, made_by: Fields) -> Any | None:
        """The JSON value that `keep_note` kept under this key; None if there is none or it is damaged."""
        try:
            self._require_private()
            return json.loads((self.folder / f"{_key(of, made_by)}.json").read_text())
        except (OSError, ValueError, EngineError):
            return None

    def keep_note(self, of: Fields, made_by: Fields, value: Any) -> None:
        """Keeps a JSON value under this key; that it can't be kept is no error."""
        path = self.folder / f"{_key(of, made_by)}.json"
        with contextlib.suppress(OSError, EngineError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._require_private()
            with written_beside(path) as part:
                part.write_text(json.dumps(value))

    # --- the folder ---

    def _require_private(self) -> None:
        """Raises BackendError if others can write to the folder: what lies in it is run."""
        found = self.folder.stat()
        if found.st_uid != os.getuid():
            raise BackendError(f"{self.folder} belongs to another user: set STREAMGAN_CACHE to a folder of yours")
        if stat.S_IMODE(found.st_mode) & 0o077:
            self.folder.chmod(0o700)

    def _folders(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from (path for path in self.folder.iterdir() if path.is_dir() and path.suffix != PART)

    def _parts(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from self.folder.glob(f"*{PART}")

    def _remove_abandoned(self) -> None:
        for path in self._parts():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _evict(self, *, keep: Entry) -> None:
        entries = self.entries()
        total = sum(entry.size_bytes for entry in entries)
        for entry in reversed(entries):
            if total <= self.limit_bytes:
                return
            if entry.folder != keep.folder:
                self.remove(entry)
                total -= entry.size_bytes

    def _tell_of_stale(self, of: Fields, made_by: Fields) -> None:
        """One line if there is an engine of the same that something else has made."""
        for entry in self.entries():
            if entry.of == dict(of):
                differing = [name for name in made_by if entry.made_by.get(name) != made_by[name]]
                changes = ", ".join(f"{name} {entry.made_by.get(name, 'unknown')}" for name in differing)
                logger.warning("the cached %s engine was made by %s: it is built again", of.get("backend", ""), changes)
                return


def verify(folder: Path, files: Mapping[str, str]) -> None:
    """Raises BackendError unless the files in `folder` have these SHA-256 sums."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise BackendError(f"{path} is missing")
        if sha256(path) != expected:
            raise BackendError(f"{path} is damaged: its SHA-256 differs from the one noted when it was written")


def _read(folder: Path) -> Entry:
    """The entry in `folder`; its files aren't looked into.

    Raises:
        FileNotFoundError: there is none.
        BackendError: its description is damaged.
    """
    path = folder / _ENTRY
    text = path.read_text(errors="replace")
    try:
        values = json.loads(text)
        if values["format"] != _FORMAT:
            raise ValueError
        files, main = dict(values["files"]), str(values["main"])
        if main not in files or any(Path(name).name != name for name in files):
            raise ValueError
        return Entry(
            folder=folder,
            of=dict(values["of"]),
            made_by=dict(values["made_by"]),
            main=main,
            files=files,
            facts=dict(values["facts"]),
            size_bytes=sum((folder / name).stat().st_size for name in files if (folder / name).is_file()),
            used=path.stat().st_mtime,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f"{path} is damaged or of another version") from error


def _key(of: Fields, made_by: Fields) -> str:
    text = json.dumps([_FORMAT, dict(of), dict(made_by)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _limit_bytes() -> int:
    text = os.environ.get("STREAMGAN_CACHE_GIB", str(LIMIT_GIB))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0.0 <= limit < 1e6:
        raise BackendError(f"STREAMGAN_CACHE_GIB is {text!r}: a number of GiB is accepted")
    return int(limit * 2**30)


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=command_name("engine.cache"), description="The compiled engines kept on disk."
    )
    parser.add_argument("command", choices=("list", "clear"))
    options = parser.parse_args(arguments)
    cache = EngineCache()
    if options.command == "list":
        _list(cache)
    else:
        count, size = cache.clear()
        print(f"{count} engine(s) removed, {size / 2**20:.1f} MiB, from {cache.folder}")
    return 0


def _list(cache: EngineCache) -> None:
    entries = cache.entries()
    for entry in entries:
        used = datetime.datetime.fromtimestamp(entry.used).isoformat(sep=" ", timespec="minutes")
        what = "  ".join(
            entry.of.get(name) or str(entry.facts.get(name, ""))
            for name in ("backend", "precision", "size", "architecture")
        )
        print(f"{what}  weights {entry.of.get('generator', '')[:12]}  {entry.size_bytes / 2**20:.1f} MiB  used {used}")
    total = sum(entry.size_bytes for entry in entries)
    limit = cache.limit_bytes / 2**30
    print(f"{len(entries)} engine(s), {total / 2**20:.1f} MiB of at most {limit:g} GiB, in {cache.folder}")


if __name__ == "__main__":
    sys.exit(main())
