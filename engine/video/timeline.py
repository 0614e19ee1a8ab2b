"""One clock for all tracks of a file: where it starts, and where joined recordings restart it."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

# A decoding time that falls back this far is a clock that restarts. Less is disorder in one track.
FALL_SECONDS = 0.3

# Broadcast clocks that leap ahead this far in all tracks have restarted, too. A lone track needs more, since a picture
# may stay.
LEAP_SECONDS = 10.0
LONE_LEAP_SECONDS = 600.0

# A track without packets for so long is not waited for at a join.
ACTIVE_SECONDS = 2.0

# At a join, sound may reach this far beyond its picture without the picture being delayed for it.
OVERLAP_SECONDS = 1

# How much is read around a jump to see whether the other tracks jump as well.
HELD_SECONDS = 3.0
HELD_BYTES = 8 << 20


@dataclasses.dataclass
class _Track:
    unit: Fraction
    epoch: int
    last: int
    step: int = 0
    is_steady: bool = True


@dataclasses.dataclass
class _Epoch:
    """A stretch of the source with one clock: what is added to its times, and its latest time so far."""

    shift: Fraction
    clock: float


class Timeline:
    """Maps the packets of all tracks, in file order, to one clock that runs on.

    A jump of decoding times is a join where it is common to the tracks. Then all of them get one new shift, and each
    track takes it at its own first packet behind the join: around it, packets of both sides may be interleaved.
    Presentation times tell nothing, since a picture may stay for long.

    Args:
        offset_seconds: subtracted from all times.
        picture: index of the stream that is the picture.
        can_leap: whether leaps ahead may be joins. Formats with an index have clocks to trust.

    Attributes:
        joins: how many were met.
        shifts: places in the source, and what is added to times from there on.
        crossed: `id` of each packet returned that is its track's first one behind a join. The reader clears it.
    """

    def __init__(self, offset_seconds: Fraction, *, picture: int, can_leap: bool) -> None:
        self.joins = 0
        self.shifts = [(0, -offset_seconds)]
        self.crossed: set[int] = set()
        self._picture = picture
        self._can_leap = can_leap
        self._tracks: dict[int, _Track] = {}
        self._epochs = [_Epoch(-offset_seconds, float("-inf"))]
        self._held: list[Any] = []

    def push(self, packet: Any) -> list[Any]:
        """Takes the source's next packet; returns those that are ready, in order, with their times mapped."""
        if self._held:
            self._held.append(packet)
        elif self._is_splice(packet):
            track = self._tracks[self._picture]
            self._epochs[-1].shift += (track.last + track.step - packet.dts) * track.unit
            self.joins += 1
            self._note_crossing(packet)
            return [self._map(packet)]
        elif self._is_jump(packet):
            self._held = [packet]
        else:
            return [self._map(packet)]
        return self._decide(at_end=False)

    def flush(self) -> list[Any]:
        """The packets that are still held, at the end of the source."""
        ready = []
        while self._held:
            ready += self._decide(at_end=True)
        return ready

    # --- joins ---

    def _is_splice(self, packet: Any) -> bool:
        """Whether a picture begins that overlaps the one before a little, as in broadcasts that were cut."""
        track = self._tracks.get(packet.stream_index)
        if not self._can_leap or packet.stream_index != self._picture or track is None or packet.dts is None:
            return False
        is_newest = track.epoch == len(self._epochs) - 1
        return is_newest and packet.is_keyframe and 0 <= (track.last - packet.dts) * track.unit <= FALL_SECONDS

    def _is_jump(self, packet: Any) -> bool:
        track = self._tracks.get(packet.stream_index)
        if track is None or packet.dts is None or track.epoch != len(self._epochs) - 1:
            return False
        is_fall = (track.last - packet.dts) * track.unit > FALL_SECONDS
        is_leap = self._can_leap and track.is_steady and _seconds(packet) - self._epochs[-1].clock > LEAP_SECONDS
        return is_fall or is_leap

    def _decide(self, *, at_end: bool) -> list[Any]:
        """Judges the jump that the first held packet makes, as soon as enough packets behind it are known."""
        first = self._held[0]
        epoch = self._epochs[-1]
        start = clock = _seconds(first)
        old_clock = epoch.clock
        news: dict[int, list[Any]] = {}
        returned = False
        for packet in self._held:
            if packet.dts is None or packet.stream_index not in self._tracks:
                continue
            time = _seconds(packet)
            if abs(time - clock) <= abs(time - epoch.clock):
                news.setdefault(packet.stream_index, []).append(packet)
                clock = max(clock, time)
            else:
                old_clock = max(old_clock, time)
                returned |= packet.stream_index == first.stream_index
        active = {
            index
            for index, track in self._tracks.items()
            if track.is_steady and epoch.clock - float(track.last * track.unit) < ACTIVE_SECONDS
        }
        crossed = {index for index, packets in news.items() if len(packets) > 1}
        size = sum(packet.size for packet in self._held)
        seen_seconds = max(clock - start, old_clock - epoch.clock)
        is_open = not active <= crossed and seen_seconds < HELD_SECONDS and size < HELD_BYTES
        if is_open and not returned and not at_end:
            return []
        is_fall = start < float(self._tracks[first.stream_index].last * first.time_base)
        is_enough = len(active) > 1 or start - epoch.clock > LONE_LEAP_SECONDS
        if is_fall:
            is_join = self._picture in crossed or (self._picture not in active and bool(crossed & active))
        else:
            is_join = active <= crossed and is_enough
        held, self._held = self._held, []
        if is_join and not returned:
            self._join(held, news, start)
            # Behind a join, the packets may hold the next one.
            return [ready for packet in held for ready in self.push(packet)]
        if returned:
            _repair(first, self._tracks[first.stream_index])
        ready = [self._map(held[0])]
        return ready + [mapped for packet in held[1:] for mapped in self.push(packet)]

    def _join(self, held: list[Any], news: dict[int, list[Any]], start: float) -> None:
        """Begins an epoch in which the picture goes on at its own pace, unless much sound would overlap."""
        epoch = self._epochs[-1]
        ends = {index: (track.last + track.step) * track.unit for index, track in self._tracks.items()}
        behind = {id(packet) for packets in news.values() for packet in packets}
        for packet in held:
            if id(packet) not in behind and packet.dts is not None and packet.stream_index in ends:
                end = (packet.dts + (packet.duration or 0)) * packet.time_base
                ends[packet.stream_index] = max(ends[packet.stream_index], end)
        starts = {index: packets[0].dts * packets[0].time_base for index, packets in news.items()}
        needed = {index: ends[index] - begin for index, begin in starts.items() if self._tracks[index].is_steady}
        most = max(needed.values(), default=Fraction(0))
        wanted = needed.get(self._picture, most)
        self._epochs.append(_Epoch(epoch.shift + (wanted if most - wanted <= OVERLAP_SECONDS else most), start))
        self.joins += 1

    # --- mapping ---

    def _map(self, packet: Any) -> Any:
        index, unit = packet.stream_index, packet.time_base
        if packet.dts is None and packet.pts is None:
            return packet
        newest = len(self._epochs) - 1
        track = self._tracks.get(index)
        stamp = packet.dts if packet.dts is not None else packet.pts
        if track is None:
            is_steady = index == self._picture or packet.stream.type == "audio"
            track = self._tracks[index] = _Track(unit, 0 if newest == 0 else newest - 1, stamp, is_steady=is_steady)
        if track.epoch < newest:
            old, new = self._epochs[-2].clock, self._epochs[-1].clock
            time = float(stamp * unit)
            has_fallen = packet.dts is not None and float((stamp - track.last) * unit) < -FALL_SECONDS
            is_behind = has_fallen or abs(time - new) <= abs(time - old)
            track.epoch = newest if is_behind else newest - 1
            if is_behind:
                self._note_crossing(packet)
        epoch = self._epochs[track.epoch]
        if packet.dts is not None:
            track.step = packet.duration or max(0, stamp - track.last)
            track.last = stamp
            if track.is_steady:
                epoch.clock = max(epoch.clock, float(stamp * unit))
        shift = round(epoch.shift / unit)
        if packet.pts is not None:
            packet.pts += shift
        if packet.dts is not None:
            packet.dts += shift
        return packet

    def _note_crossing(self, packet: Any) -> None:
        self.crossed.add(id(packet))
        if packet.stream_index == self._picture and packet.pos is not None:
            self.shifts.append((packet.pos, self._epochs[-1].shift))


def _seconds(packet: Any) -> float:
    return float(packet.dts * packet.time_base)


def _repair(packet: Any, track: _Track) -> None:
    """Gives a single packet with a wrong time the one that its track expects."""
    wrong = packet.dts
    packet.dts = track.last + max(1, track.step)
    if packet.pts is not None:
        packet.pts += packet.dts - wrong
