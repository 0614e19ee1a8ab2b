"""Tracks that begin when the output is open already: a finished file is copied into one that has them, too."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from engine.video.cut import Cut
from engine.video.packet_spool import keep_first, move, time_of
from engine.video.partial_file import Reader
from engine.video.pyav import BROADCAST_OPTIONS, import_av, lacks_parameters
from engine.video.transport import Transport

if TYPE_CHECKING:
    from av.packet import Packet

# The clock of MPEG-TS has 33 bits. Where it wraps FFmpeg counts on, but not if it begins to read behind that.
WRAP_SECONDS = Fraction(1 << 33, 90000)
BEFORE_ZERO_SECONDS = -3600


class LateTracks:
    """The tracks that have appeared in a transport stream since it was opened, in a `Demuxer`'s place.

    Args:
        transport: what has kept them.
        shifts: places in the source, and what is added to times from there on.
        cut: the range that is wanted; None is all.

    Attributes:
        container, streams, first_packets, damaged_others: as in `Demuxer`.
        unknown: how many tracks there are in which FFmpeg recognises nothing.
    """

    damaged_others = 0

    def __init__(self, transport: Transport, shifts: list[tuple[int, Fraction]], cut: Cut | None = None) -> None:
        self._transport, self._shifts, self._cut = transport, shifts, cut
        self.first_packets: dict[int, list[Packet]] = {}
        self.container = self._open()
        for packet in self._read():
            keep_first(self.first_packets, packet)
        begun = [
            stream
            for stream in self.container.streams
            if stream.type in ("audio", "subtitle") and self.first_packets.get(stream.index)
        ]
        self.streams = [stream for stream in begun if not lacks_parameters(stream)]
        self.unknown = len(begun) - len(self.streams)
        self._packets = self._read()
        self._next: Packet | None = next(self._packets, None)

    def others(self, until_seconds: Fraction | None, *, is_last: bool = False) -> Iterator[Packet]:
        """Packets up to a time of the output, all if it is None."""
        until = until_seconds if self._cut is None else self._cut.in_source(until_seconds)
        while self._next is not None and (until is None or time_of(self._next) <= until):
            packet, self._next = self._next, next(self._packets, None)
            if self._cut is None or self._cut.place(packet):
                yield packet

    def _open(self) -> Any:
        assert self._transport.late is not None
        self._transport.late.flush()
        file = io.BufferedReader(Reader(self._transport.late))
        return import_av().open(file, format="mpegts", options=BROADCAST_OPTIONS)

    def _read(self) -> Iterator[Packet]:
        """Packets in the order of the file, on the output's clock."""
        shift = self._shifts[0][1]
        with self._open() as container:
            for packet in container.demux():
                if not packet.size or packet.dts is None:
                    continue
                if packet.pos is not None and packet.pos >= 0:
                    place = self._transport.source_place(packet.pos)
                    shift = [later for begin, later in self._shifts if begin <= place][-1]
                wraps = (BEFORE_ZERO_SECONDS - time_of(packet) - shift) // WRAP_SECONDS + 1
                move(packet, shift + wraps * WRAP_SECONDS)
                yield packet
