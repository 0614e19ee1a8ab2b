"""Packets that wait for the picture: in memory, and in a temporary file where they are many."""

from __future__ import annotations

import collections
import pickle
import tempfile
import threading
from fractions import Fraction
from typing import IO, Any

from engine.video.pyav import import_av

# Payload that may wait in memory. What comes behind waits on the disk.
MEMORY_BYTES = 64 << 20

# With how many packets a container must hold a sound track.
SOUND_PACKETS_KEPT = 16

# Time that is left to a packet of sound for which there is no room: no container's clock is coarser but Matroska's.
SQUEEZED_SECONDS = Fraction(1, 10_000)


class PacketSpool:
    """A queue of packets from one thread to another. Neither waits for the other, whatever lead one has.

    Args:
        memory_bytes: payload kept in memory.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._waiting: collections.deque[Any] = collections.deque()
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._stored: collections.deque[tuple[int, Any, list[Any]]] = collections.deque()  # place, stream, side data
        self._written = 0

    def put(self, packet: Any) -> None:
        with self._lock:
            if self._stored or self._bytes + packet.size > self._memory_bytes:
                self._store(packet)
            else:
                self._waiting.append(packet)
                self._bytes += packet.size

    def take(self, until_seconds: Fraction | None) -> Any:
        """The first packet in the queue if its time is not later than that; else None. None takes any."""
        with self._lock:
            if not self._waiting and self._stored:
                self._load()
            if not self._waiting or (until_seconds is not None and time_of(self._waiting[0]) > until_seconds):
                return None
            packet = self._waiting.popleft()
            self._bytes -= packet.size
            return packet

    def make_room(self, stream_index: int, dts: int) -> None:
        """Moves a track's waiting packets to just before `dts`.

        At a join of two recordings the sound of the first may reach into the second, which has its own there.
        """
        with self._lock:
            for packet in reversed(self._waiting):
                if packet.stream_index == stream_index and packet.dts is not None:
                    if packet.dts < dts:
                        break
                    dts -= max(1, round(SQUEEZED_SECONDS / packet.time_base))
                    packet.pts = packet.dts = dts

    def close(self) -> None:
        """Drops all packets and the file."""
        with self._lock:
            self._waiting.clear()
            self._stored.clear()
            if self._file is not None:
                self._file.close()
                self._file = None

    def _store(self, packet: Any) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        fields = (packet.pts, packet.dts, packet.duration, packet.time_base, packet.is_keyframe, bytes(packet))
        data = pickle.dumps(fields)
        self._file.seek(self._written)
        self._file.write(data)
        self._stored.append((self._written, packet.stream, list(packet.iter_sidedata())))
        self._written += len(data)

    def _load(self) -> None:
        """Reads packets back until a share of the memory is full."""
        assert self._file is not None
        while self._stored and self._bytes < self._memory_bytes // 4 + 1:
            place, stream, side_data = self._stored.popleft()
            self._file.seek(place)
            pts, dts, duration, time_base, is_keyframe, payload = pickle.load(self._file)
            packet = packet_of(payload, pts=pts, dts=dts, duration=duration, time_base=time_base)
            packet.stream, packet.is_keyframe = stream, is_keyframe
            packet.time_base = time_base
            for data in side_data:
                packet.set_sidedata(data)
            self._waiting.append(packet)
            self._bytes += packet.size
        if not self._stored:
            self._file.seek(0)
            self._file.truncate()
            self._written = 0


def time_of(packet: Any) -> Fraction:
    """When a packet is to be decoded, in seconds."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    return (stamp or 0) * packet.time_base


def move(packet: Any, seconds: Fraction) -> None:
    """Adds to a packet's times."""
    ticks = round(seconds / packet.time_base)
    packet.dts = None if packet.dts is None else packet.dts + ticks
    packet.pts = None if packet.pts is None else packet.pts + ticks


def keep_first(kept: dict[int, list[Any]], packet: Any) -> None:
    """Adds a copy of a packet if it is one of the first of its stream: up to 16 of sound, else one."""
    of_stream = kept.setdefault(packet.stream_index, [])
    last = of_stream[-1].dts if of_stream else None
    is_next = not of_stream or (packet.dts is not None and last is not None and packet.dts > last)
    if packet.size and is_next and len(of_stream) < (SOUND_PACKETS_KEPT if packet.stream.type == "audio" else 1):
        of_stream.append(
            packet_of(
                bytes(packet), pts=packet.pts, dts=packet.dts, duration=packet.duration, time_base=packet.time_base
            )
        )


def packet_of(payload: bytes, *, pts: int | None, dts: int | None, duration: int | None, time_base: Fraction) -> Any:
    """A packet made of its parts."""
    packet = import_av().Packet(payload)
    packet.pts, packet.dts, packet.duration = pts, dts, duration or 0
    packet.time_base = time_base
    packet.is_keyframe = True
    return packet
