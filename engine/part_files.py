"""One part of a video: what an encoder made of frames, from a key frame on, in a file with a manifest beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from engine.files import written_beside

PACKETS, MANIFEST = ".packets", ".json"
"""Suffixes of the two files."""

# pts, dts, whether it is a key frame, size of the payload that follows.
_HEADER = struct.Struct("<qq?I")


class PartPacket(NamedTuple):
    """What an encoder gave: timestamps in its unit, and the payload."""

    pts: int
    dts: int
    is_keyframe: bool
    payload: bytes


@dataclasses.dataclass(frozen=True)
class Part:
    """A complete part.

    Attributes:
        first: number of its first frame in the source.
        end: number of the frame behind its last one.
        timestamps: what `TimestampDigest` makes of its frames' timestamps.
        sha256: of the file of its packets.
    """

    first: int
    end: int
    timestamps: str
    sha256: str
    path: Path = dataclasses.field(compare=False)

    def packets(self) -> Iterator[PartPacket]:
        """In the encoder's order."""
        with self.path.open("rb") as file:
            while header := file.read(_HEADER.size):
                pts, dts, is_keyframe, size = _HEADER.unpack(header)
                yield PartPacket(pts, dts, is_keyframe, file.read(size))


class TimestampDigest:
    """Tells sequences of timestamps apart, whatever their length."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()

    def add(self, pts: int) -> None:
        self.count += 1
        self._digest.update(b"%d," % pts)

    def __str__(self) -> str:
        return self._digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class MadePart:
    """A part that was made elsewhere.

    Attributes:
        first, end, timestamps, sha256: as of `Part`.
        picture: (height, width) of its frames.
        payload: the file of its packets.
        has_notes: there is something to be said of the source's pictures.
    """

    first: int
    end: int
    timestamps: str
    sha256: str
    picture: tuple[int, int]
    payload: bytes = dataclasses.field(repr=False)
    has_notes: bool = False


class PartRecorder:
    """Writes the packets of a part that begins with frame `first` to a file."""

    def __init__(self, first: int, file: IO[bytes]) -> None:
        self._first = first
        self._file = file
        self._digest = hashlib.sha256()
        self._timestamps = TimestampDigest()

    @property
    def frame_count(self) -> int:
        return self._timestamps.count

    def add_frame(self, pts: int) -> None:
        """A frame whose packet will come."""
        self._timestamps.add(pts)

    def add_packet(self, packet: PartPacket) -> None:
        """A packet, in the encoder's order."""
        header = _HEADER.pack(packet.pts, packet.dts, packet.is_keyframe, len(packet.payload))
        for data in (header, packet.payload):
            self._file.write(data)
            self._digest.update(data)

    def part(self, path: Path) -> Part:
        """What was written, to this path."""
        end = self._first + self.frame_count
        return Part(self._first, end, str(self._timestamps), self._digest.hexdigest(), path)

    def made(self, picture: tuple[int, int], payload: bytes) -> MadePart:
        """What was written, `payload`, of frames of this (height, width)."""
        part = self.part(Path())
        return MadePart(part.first, part.end, part.timestamps, part.sha256, picture, payload)


class PartWriter(PartRecorder):
    """Writes a part into a folder. It is there once `complete` has returned."""

    def __init__(self, folder: Path, first: int) -> None:
        self._path = folder / f"{first:09d}{PACKETS}"
        super().__init__(first, self._path.open("wb"))

    def complete(self) -> Part:
        """Forces it to the disk, its manifest last."""
        part = self.part(self._path)
        _sync(self._file)
        _write_manifest(part)
        return part

    def discard(self) -> None:
        """Removes what there is of it."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)


def write_part(folder: Path, made: MadePart) -> Part:
    """Writes a part that was made elsewhere into a folder; its manifest last."""
    part = Part(made.first, made.end, made.timestamps, made.sha256, folder / f"{made.first:09d}{PACKETS}")
    with part.path.open("wb") as file:
        file.write(made.payload)
        _sync(file)
    _write_manifest(part)
    return part


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes a JSON file, which replaces the one before once it is on the disk."""
    with written_beside(path) as part, part.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())


def _sync(file: IO[bytes]) -> None:
    """Closes a file once it is on the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _write_manifest(part: Part) -> None:
    manifest = {"first": part.first, "end": part.end, "timestamps": part.timestamps, "sha256": part.sha256}
    write_json(part.path.with_suffix(MANIFEST), manifest)
