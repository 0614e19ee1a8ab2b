"""MPEG transport streams whose streams change on the way. PyAV knows those of the beginning only.

Each packet of 188 bytes names its stream by a number, the PID. Tables among them say which there are: the PAT lists the
programs, and each program's PMT lists its streams.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from typing import IO, Any, NamedTuple

PACKET_BYTES = 188
SYNC = 0x47
PAT_PID, NULL_PID = 0, 0x1FFF

# Types of video in a PMT: MPEG-1, 2 and 4, H.264, H.265, H.266, AVS, Dirac, VC-1.
VIDEO_TYPES = (0x01, 0x02, 0x10, 0x1B, 0x24, 0x33, 0x42, 0xD1, 0xEA)
AAC_TYPE = 0x0F

# Descriptors that say what a stream is: registration, teletext, subtitles, AC-3, E-AC-3, DTS, AAC; and its language.
FORMAT_TAGS = (0x05, 0x56, 0x59, 0x6A, 0x7A, 0x7B, 0x7C)
LANGUAGE_TAG = 0x0A

READ_BYTES = 1 << 15

# PyAV may have read so much without having looked at it.
UNSEEN_BYTES = 4 * READ_BYTES

LARGEST_TABLE_PACKETS = 8

# Each byte with its bits in the opposite order.
_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def packet_form(head: bytes) -> tuple[int, int] | None:
    """Where the first packet of a transport stream begins, and how many bytes it has with what is around it."""
    for start, size in ((0, 188), (4, 192), (0, 204)):
        if len(head) > start + 2 * size and all(head[start + i * size] == SYNC for i in range(3)):
            return start, size
    return None


class Kind(NamedTuple):
    """What a PMT says of a stream."""

    type: int
    formats: tuple[int, ...]
    language: bytes

    def is_like(self, other: Kind | None) -> bool:
        """Whether it is the same but for the language."""
        return other is not None and self[:2] == other[:2]


class Transport:
    """The bytes of a transport stream as a file for PyAV.

    Where the tables change, a stream of the same kind as one that ends gets that one's PID, so PyAV sees one stream.
    Other streams that appear once PyAV knows its own are kept in a file, and PyAV sees nothing of them.

    Args:
        raw: the file or pipe.
        form: see `packet_form`.

    Attributes:
        late: what is kept, as a transport stream; None if that is nothing.
        lost: PIDs of pictures that have ended where one began that can't follow it.
    """

    def __init__(self, raw: Any, form: tuple[int, int]) -> None:
        self.late: IO[bytes] | None = None
        self.lost: set[int] = set()
        self.name = getattr(raw, "name", "")
        self._raw = raw
        self._phase, self._size = form
        self._position = self._seen = 0  # what PyAV reads next; what comes next of what is in `_process`
        self._ready = self._begun = self._latest = b""  # for PyAV; of a packet; what PyAV may not have looked at
        self._is_looking = False
        self._packets: dict[int, bytes] = {}  # PID of a table -> the packets in which it is coming
        self._tables: dict[int, bytes] = {}  # PID of a table -> the packets of the latest whole one
        self._pmts: dict[int, int] = {}  # program -> PID of its PMT
        self._programs: dict[int, dict[int, Kind]] = {}  # program -> PIDs of its streams
        self._known: dict[int, Kind] = {}  # the streams that there have been so far, by their first PIDs
        self._is_open = False
        self._counters: dict[int, int] = {}  # PID -> the number of its latest packet
        self._headers: dict[int, tuple[int, int]] = {}  # PID -> what AAC says of itself
        self._waiting: dict[int, int] = {}  # PID -> the one that it may get
        self._renamed: dict[int, tuple[int, int]] = {}  # PID -> the one that it has got, and what its numbers move by
        self._late: set[int] = set()  # those that PyAV doesn't see
        self._has_tables = False  # whether `late` has the newest ones

    def follow(self, pids: set[int]) -> None:
        """Says which streams PyAV has found; from here on it sees no others."""
        self._is_open = True
        self._late |= self._known.keys() - pids
        unseen = self._process(self._latest, self._seen - len(self._latest))
        self._ready = unseen[len(unseen) - len(self._ready) :]

    def source_place(self, late_place: int) -> int:
        """Where in the source something of `late` was."""
        assert self.late is not None
        late_place -= late_place % (PACKET_BYTES + 4)
        return int.from_bytes(os.pread(self.late.fileno(), 4, late_place), "big") * self._size

    # --- a file for PyAV ---

    def seekable(self) -> bool:
        return hasattr(self._raw, "seek")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._ready = self._begun = self._latest = b""
        self._position = self._raw.seek(offset, whence)
        self._is_looking = self._position > self._seen
        self._seen = min(self._seen, self._position)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._raw.close()

    def read(self, size: int) -> bytes:
        if self._is_looking:  # PyAV looks at the end, while it opens the file
            data: bytes = self._raw.read(size)
        else:
            if not self._ready:
                self._read_on()
            data, self._ready = self._ready[:size], self._ready[size:]
        self._position += len(data)
        return data

    def _read_on(self) -> None:
        """Reads packets that nobody has seen yet, whole ones but at the end."""
        data = self._begun
        while len(data) < self._size and (more := self._raw.read(READ_BYTES)):
            data += more
        begun = (self._seen + len(data) - self._phase) % self._size if len(data) >= self._size else 0
        data, self._begun = data[: len(data) - begun], data[len(data) - begun :]
        self._ready = self._process(data, self._seen)
        self._seen += len(data)
        if not self._is_open:
            self._latest = (self._latest + self._ready)[-UNSEEN_BYTES:]

    # --- packets ---

    def _process(self, read: bytes, position: int) -> bytes:
        """Looks at packets; returns what PyAV is to see."""
        data = bytearray(read)
        place = (self._phase - position) % self._size
        while place + PACKET_BYTES <= len(data):
            if data[place] != SYNC:  # bytes are missing or too many
                place = data.find(SYNC, place + 1)
                if place < 0:
                    break
                if data[place + self._size : place + self._size + 1] in (b"", bytes([SYNC])):
                    self._phase = (position + place) % self._size
                continue
            pid = (data[place + 1] & 0x1F) << 8 | data[place + 2]
            if pid in self._waiting and data[place + 1] & 0x40:
                self._decide(pid, data[place : place + PACKET_BYTES])
            if pid in self._renamed:
                pid, shift = self._renamed[pid]
                data[place + 3] = data[place + 3] & 0xF0 | (data[place + 3] + shift) & 0xF
                _set_pid(data, place, pid)
            if pid in self._waiting:  # the end of something whose beginning was not seen
                _set_pid(data, place, NULL_PID)
            elif pid in self._known:
                self._counters[pid] = data[place + 3]
                if self._known[pid].type == AAC_TYPE and data[place + 1] & 0x40:
                    header = _aac_header(data[place : place + PACKET_BYTES])
                    self._headers[pid] = header or self._headers.get(pid, (0, 0))
                if pid in self._late:
                    if self._known[pid].type not in VIDEO_TYPES:
                        self._keep(data[place : place + PACKET_BYTES], position + place)
                    _set_pid(data, place, NULL_PID)
            elif pid == PAT_PID or pid in self._pmts.values():
                self._learn(pid, bytes(data[place : place + PACKET_BYTES]))
                if self._is_open:
                    _set_pid(data, place, NULL_PID)
            place += self._size
        return bytes(data)

    def _decide(self, pid: int, packet: bytes | bytearray) -> None:
        """A stream begins that may follow another one: AAC only if its rate and channels are the same."""
        first = self._waiting.pop(pid)
        header = _aac_header(packet) if self._known[first].type == AAC_TYPE else None
        if header in (None, self._headers.get(first)):
            self._renamed[pid] = first, self._counters.get(first, 0) + 1 - packet[3]
        else:
            self._add(pid, self._known[first])

    def _keep(self, packet: bytes | bytearray, position: int) -> None:
        """Adds a packet to the late ones; in the four bytes before it, where a disc has a time, is its place."""
        if self.late is None:
            self.late = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this
        place = (position // self._size).to_bytes(4, "big")
        if not self._has_tables:
            tables = b"".join(self._tables.values())
            packets = [tables[i : i + PACKET_BYTES] for i in range(0, len(tables), PACKET_BYTES)]
            self.late.write(b"".join(place + table for table in packets))
            self._has_tables = True
        self.late.write(place + packet)

    # --- tables ---

    def _learn(self, pid: int, packet: bytes) -> None:
        """Puts a table together from packets, and reads it when it is whole."""
        begins = packet[1] & 0x40
        packets = self._packets[pid] = (b"" if begins else self._packets.get(pid, b"")) + packet
        if len(packets) > LARGEST_TABLE_PACKETS * PACKET_BYTES:
            return
        section = b"".join(_payload(packets[i : i + PACKET_BYTES]) for i in range(0, len(packets), PACKET_BYTES))
        section = section[1 + section[0] :] if section else b""
        end = 3 + (_int(section, 1) & 0xFFF)
        if end < 12 or len(section) < end or not section[5] & 1 or not _is_intact(section[:end]):
            return
        if pid == PAT_PID and section[0] == 0:
            pmts = {_int(section, i): _int(section, i + 2) & NULL_PID for i in range(8, end - 7, 4)}
            pmts.pop(0, None)  # the network's table
            programs = {program: streams for program, streams in self._programs.items() if program in pmts}
            is_new, self._pmts, self._programs = pmts != self._pmts, pmts, programs
        elif pid != PAT_PID and section[0] == 2:
            program, streams = _int(section, 3), _streams(section[:end])
            is_new = self._programs.get(program) != streams
            self._programs[program] = streams
        else:
            return
        self._tables[pid] = packets
        if is_new:
            self._has_tables = False
            self._compare()

    def _compare(self) -> None:
        """Decides what becomes of streams that the tables have in addition."""
        now = {pid: kind for streams in self._programs.values() for pid, kind in streams.items()}
        taken = {self._renamed[pid][0] for pid in now if pid in self._renamed}
        taken |= {self._waiting[pid] for pid in now if pid in self._waiting}
        ended = [pid for pid, kind in self._known.items() if pid not in taken and not kind.is_like(now.get(pid))]
        for pid, kind in now.items():
            if pid in self._renamed or pid in self._waiting or kind.is_like(self._known.get(pid)):
                continue
            before = [first for first in ended if self._known[first] == kind and pid not in self._known]
            if before:
                self._waiting[pid] = before[0]
                ended.remove(before[0])
                continue
            if kind.type in VIDEO_TYPES:
                self.lost.update(first for first in ended if self._known[first].type in VIDEO_TYPES)
            self._add(pid, kind)

    def _add(self, pid: int, kind: Kind) -> None:
        self._known[pid] = kind
        if self._is_open:
            self._late.add(pid)


def _is_intact(section: bytes) -> bool:
    """Whether a table's CRC is right: that of MPEG-2, which is zlib's with the bits of each byte in turn."""
    return zlib.crc32(section.translate(_TURNED)) == 0xFFFFFFFF


def _payload(packet: bytes | bytearray) -> bytes:
    if not packet[3] & 0x10:
        return b""
    return bytes(packet[4 + (1 + packet[4] if packet[3] & 0x20 else 0) :])


def _aac_header(packet: bytes | bytearray) -> tuple[int, int] | None:
    """Profile, sampling rate and channels of the AAC (ADTS) that begins in a packet; None if none does."""
    payload = _payload(packet)
    sound = payload[9 + payload[8] :] if len(payload) > 9 else b""
    return (sound[2] & 0xFD, sound[3] & 0xC0) if len(sound) > 3 and _int(sound, 0) & 0xFFF0 == 0xFFF0 else None


def _streams(section: bytes) -> dict[int, Kind]:
    """The streams of a PMT by their PIDs."""
    streams, place = {}, 12 + (_int(section, 10) & 0xFFF)
    while place + 5 <= len(section) - 4:
        end = min(place + 5 + (_int(section, place + 3) & 0xFFF), len(section) - 4)
        descriptors, descriptor = {}, place + 5
        while descriptor + 2 <= end:
            content = descriptor + 2
            descriptor = min(content + section[content - 1], end)
            descriptors[section[content - 2]] = section[content:descriptor]
        formats = tuple(tag for tag in FORMAT_TAGS if tag in descriptors)
        kind = Kind(section[place], formats, descriptors.get(LANGUAGE_TAG, b"")[:3])
        streams[_int(section, place + 1) & NULL_PID] = kind
        place = end
    return streams


def _int(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 2], "big")


def _set_pid(data: bytearray, place: int, pid: int) -> None:
    data[place + 1] = data[place + 1] & 0xE0 | pid >> 8
    data[place + 2] = pid & 0xFF
