"""Parts of a video that is being made, kept until it is complete: what an interrupted job need not do again.

A part is what the encoder made of some frames, from a key frame on: its packets in one file, and a manifest beside it
that is written last, so a part is complete or not there. The next run of the same job reads the source from its
beginning as ever, but neither translates nor encodes the frames of a part: it takes the packets from there.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from engine.errors import SinkError
from engine.files import sha256
from engine.part_files import MANIFEST, PACKETS, MadePart, Part, PartWriter, write_json, write_part

logger = logging.getLogger("streamgan")

SECONDS = 10.0
"""Length of a part; a quarter less where the picture changes, a quarter more where it doesn't."""

TOLERANCE = 0.25
"""Share of its length by which a part may be shorter or longer."""

WORTH_KEEPING_SECONDS = 60.0
"""A job that is expected to take less is not kept in parts."""

_FORMAT = 1
_JOB, _LOCK = "job.json", "lock"


class Parts:
    """The parts of one output, in the folder `NAME.parts` beside it.

    Args:
        output: the video that they are parts of.
        job: what its frames depend on, JSON values under the names that a user knows them by.
        frame_count: how many frames are expected; None: unknown.
        seconds: length of a part; None: `SECONDS`, and a job that is expected to be short is not kept in parts.
        restart: parts of an earlier run are removed.
        keep: they stay when the output is complete.

    Attributes:
        seconds: length of a part.
        picture: (height, width) of the frames, known once there is a part.
        is_active: whether frames are kept in parts.
        is_counted: the numbers of frames are known from decoding only, not from the source's packets.

    Raises:
        SinkError: parts are there that belong to another job, or another process works on it.
    """

    def __init__(
        self,
        output: Path,
        job: Mapping[str, Any],
        *,
        frame_count: int | None,
        seconds: float | None = None,
        restart: bool = False,
        keep: bool = False,
    ) -> None:
        self.folder = folder_of(output)
        self.seconds = seconds or SECONDS
        self.picture: tuple[int, int] | None = None
        self.is_active = self.is_counted = False
        self._output = output
        self._job = json.loads(json.dumps(job))
        self._frame_count = frame_count
        self._always = seconds is not None
        self._keep = keep
        self._engine: str | None = None
        self._lock: IO[bytes] | None = None
        self._parts: list[Part] = []  # by their first frames
        if self.folder.exists():
            self._acquire()
            try:
                if restart:
                    self._begin_again()
                else:
                    self._read()
            except BaseException:
                self.close()
                raise

    # --- what is there ---

    @property
    def frame_count(self) -> int:
        """How many frames are there from earlier runs."""
        return sum(part.end - part.first for part in self._parts)

    @property
    def engine(self) -> str | None:
        """What translated the frames; None as long as that is unknown."""
        return self._engine

    def keeps(self, number: int) -> bool:
        """Whether a frame of the source is in a part; the first is 0."""
        return self.holding(number) is not None

    def holding(self, number: int) -> Part | None:
        """The part that a frame is in."""
        place = bisect.bisect_right(self._parts, number, key=lambda part: part.first) - 1
        part = self._parts[place] if place >= 0 else None
        return part if part is not None and number < part.end else None

    def choose_engine(self, engine: str, frame_seconds: float) -> None:
        """Says what translates the frames from now on, which decides whether the job is kept in parts.

        Raises:
            SinkError: the parts that are there were made by another engine.
        """
        if self.is_active or self._parts:
            if self._engine not in (None, engine):
                backend, precision = str(self._engine).split()[:2]
                raise SinkError(
                    f"{self._output}: its frames are of {self._engine}, those of {engine} differ: "
                    f"add --backend {backend} --precision {precision}, or begin anew with --restart"
                )
            self.is_active, self._engine = True, engine
            return
        expected = (self._frame_count or 0) * frame_seconds
        if self._always or expected >= WORTH_KEEPING_SECONDS:
            self.is_active, self._engine = True, engine

    # --- a part more ---

    def missing(self, frame_count: int) -> list[tuple[int, int]]:
        """The frames of a source that has so many, which are in no part: (first, end) of each gap."""
        firsts = [0, *(part.end for part in self._parts)]
        ends = [*(part.first for part in self._parts), frame_count]
        return [(first, end) for first, end in zip(firsts, ends, strict=True) if first < min(end, frame_count)]

    def begin(self, first: int, picture: tuple[int, int]) -> PartWriter:
        """A part of frames from this one on, (height, width) each."""
        self._describe(picture)
        return PartWriter(self.folder, first)

    def add(self, made: MadePart) -> None:
        """Takes a part that was made elsewhere.

        Raises:
            SinkError: it can't be written, or was damaged on its way.
        """
        if hashlib.sha256(made.payload).hexdigest() != made.sha256:
            raise SinkError(f"{self._output}: frames {made.first} to {made.end - 1} were damaged on their way here")
        try:
            self._describe(made.picture)
            part = write_part(self.folder, made)
        except OSError as error:
            raise SinkError(f"can't keep parts in {self.folder}: {error.strerror}") from error
        bisect.insort(self._parts, part, key=lambda other: other.first)

    def drop(self, *, is_counted: bool) -> None:
        """Removes all of them, and says whether the numbers of frames are known from decoding only."""
        if self._lock is not None:
            self._begin_again()
        self._parts, self.is_counted = [], is_counted

    def _describe(self, picture: tuple[int, int]) -> None:
        """Says what the parts are of, where that is not known yet."""
        if self._lock is None:
            self.folder.mkdir(exist_ok=True)
            self._acquire()
        if self.picture != picture or not (self.folder / _JOB).exists():
            self.picture = picture
            about = {"format": _FORMAT, "frames": self._frame_count, "picture": picture, "engine": self._engine}
            write_json(self.folder / _JOB, {**about, "is_counted": self.is_counted, "job": self._job})

    # --- the end ---

    def remove(self) -> None:
        """The output is complete."""
        if self._lock is not None and not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Lets other processes work on them."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # --- reading the folder ---

    def _acquire(self) -> None:
        try:
            self._lock = (self.folder / _LOCK).open("ab")
        except OSError as error:
            raise SinkError(f"can't keep parts in {self.folder}: {error.strerror}") from error
        if not _locked(self._lock):
            self.close()
            raise SinkError(
                f"{self._output}: another process is working on it ({self.folder} is in use); name another output"
            )

    def _begin_again(self) -> None:
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                path.unlink()

    def _read(self) -> None:
        about = _read_json(self.folder / _JOB)
        if about is None or about.get("format") != _FORMAT or not isinstance(about.get("job"), dict):
            if any(self.folder.glob(f"*{MANIFEST}")):
                logger.warning(
                    "%s: its description is damaged or of another version: all frames are done again", self.folder
                )
            self._begin_again()
            return
        self._refuse(about["job"], self._job)
        self._engine, self.picture = about["engine"], tuple(about["picture"])
        self.is_counted = bool(about.get("is_counted"))
        for part in self._complete_parts():
            if not self._parts or part.first >= self._parts[-1].end:
                self._parts.append(part)
        known = {part.path.stem for part in self._parts}
        for path in self.folder.glob("[0-9]*"):
            if path.stem not in known:
                path.unlink()
        if self._parts:
            logger.warning("%s: %d frames are there from an earlier run", self._output, self.frame_count)

    def _complete_parts(self) -> Iterator[Part]:
        for manifest in sorted(self.folder.glob(f"[0-9]*{MANIFEST}")):
            path = manifest.with_suffix(PACKETS)
            try:
                found = _read_json(manifest) or {}
                first, end = int(found["first"]), int(found["end"])
                part = Part(first, end, str(found["timestamps"]), str(found["sha256"]), path)
                if first < end and sha256(path) == part.sha256:
                    yield part
                    continue
            except (OSError, KeyError, TypeError, ValueError):
                pass
            logger.warning("%s is damaged: its frames are done again", manifest)

    def _refuse(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raises SinkError where the job isn't the one that the parts belong to."""
        changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if changed:
            name = changed[0]
            raise SinkError(
                f"{self._output}: it was begun with another {name} ({_short(before.get(name))}, now "
                f"{_short(now.get(name))}): go on with that one, or begin anew with --restart"
            )


def identity_of(source: Path) -> str:
    """Tells files apart, whatever their names: size, and SHA-256 of the first and the last MiB."""
    size, digest = source.stat().st_size, hashlib.sha256()
    with source.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read(1 << 20))
    return f"{digest.hexdigest()} {size} bytes"


def folder_of(output: Path) -> Path:
    """Where the parts of an output are."""
    return output.with_name(f"{output.name}.parts")


def describe(output: Path) -> list[str]:
    """Lines on how far the job of this output is.

    Raises:
        SinkError: there is no such job.
    """
    folder = folder_of(output)
    about = _read_json(folder / _JOB)
    if about is None:
        done = "it is complete" if output.exists() else "nothing of it is there"
        raise SinkError(f"{output}: no unfinished job ({done}); jobs of over a minute are kept in {folder.name}")
    manifests = [_read_json(path) or {} for path in sorted(folder.glob(f"[0-9]*{MANIFEST}"))]
    frames = sum(manifest.get("end", 0) - manifest.get("first", 0) for manifest in manifests)
    total = about.get("frames")
    of_all = f" of {total} ({frames / total:.0%})" if total else ""
    height, width = about["picture"]
    return [
        f"{output}: {frames}{of_all} frames are done, in {len(manifests)} parts; {_activity(folder)}",
        f"  {width}x{height}, {about.get('engine')}",
        *(f"  {name}: {_short(value)}" for name, value in about["job"].items() if value is not None),
    ]


def _activity(folder: Path) -> str:
    with contextlib.suppress(OSError), (folder / _LOCK).open("ab") as lock:
        if not _locked(lock):
            return "a process is working on it"
    return "no process is working on it: the same command goes on"


def _locked(file: IO[bytes]) -> bool:
    """Locks a file until it is closed; False if another process has. File systems without locks lock nothing."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) > 40 else text


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
