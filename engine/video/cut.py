"""A range of a video: what of it is in the output, and when."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from engine.errors import SourceError
from engine.times import show_time
from engine.video.base import Frame
from engine.video.packet_spool import move

if TYPE_CHECKING:
    from av.packet import Packet


@dataclasses.dataclass(frozen=True)
class TimeRange:
    """The range that is asked for, in seconds from the beginning of the source.

    Attributes:
        start: the first frame is the first one that is shown at this time or later; None is the source's own first.
        end: frames that are shown at this time or later are left out; None is the source's end.
        is_still: the first frame alone is wanted, as a picture.

    Raises:
        SourceError: it ends before it starts.
    """

    start: Fraction | None = None
    end: Fraction | None = None
    is_still: bool = False

    def __post_init__(self) -> None:
        if self.end is not None and self.end <= (self.start or 0):
            raise SourceError(
                f"nothing lies between --start {show_time(self.start or 0)} and --end {show_time(self.end)}: "
                "the end has to be later than the start"
            )

    @property
    def option(self) -> str:
        """The option that asks for it, for messages."""
        if self.is_still:
            return "--preview"
        return "--end" if self.start is None else "--start"

    def __bool__(self) -> bool:
        return self.start is not None or self.end is not None


class Cut:
    """A range on a source's timeline, and its place in the output: its first frame is shown at 0.

    Without a start the output's times are the source's.

    Args:
        wanted: the range.
        zero: the source's beginning on its timeline, in seconds.

    Attributes:
        wanted: the range that is asked for.
        zero, start, end: the source's beginning, and the limits of the range, on the timeline.
        begin: when the output's time 0 is on the timeline, known once the first frame is.
    """

    def __init__(self, wanted: TimeRange, zero: Fraction) -> None:
        self.wanted, self.zero = wanted, zero
        self.start = None if wanted.start is None else wanted.start + zero
        self.end = None if wanted.end is None else wanted.end + zero
        self.begin = self.start or Fraction(0)

    def in_source(self, seconds: Fraction | None) -> Fraction | None:
        """The source's time for one of the output, at most the end. None is the end, of the source if need be."""
        if seconds is None:
            return self.end
        return seconds + self.begin if self.end is None else min(seconds + self.begin, self.end)

    def frames(self, frames: Iterator[Frame], unit: Fraction) -> Iterator[Frame]:
        """The frames up to the end of the range, at their times in the output.

        Args:
            frames: from the first one of the range on, at their times on the timeline.
            unit: of those times, in seconds.
        """
        begin = round(self.begin / unit)
        if self.wanted.is_still:
            frames = itertools.islice(frames, 1)
        if self.end is None:
            for frame in frames:
                yield dataclasses.replace(frame, pts=(frame.pts or 0) - begin)
            return
        end = math.ceil(self.end / unit)
        last = next(frames, None)
        if last is None:
            return
        for frame in frames:
            if (frame.pts or 0) >= end:  # the one before is shown until then
                last = dataclasses.replace(last, duration=end - (last.pts or 0))
                break
            yield dataclasses.replace(last, pts=(last.pts or 0) - begin)
            last = frame
        yield dataclasses.replace(last, pts=(last.pts or 0) - begin, duration=min(last.duration, end - (last.pts or 0)))

    def may_take(self, packet: Packet) -> bool:
        """Whether a packet of another track than the picture's may be in the range, before its begin is known."""
        time = _time_of(packet)
        if _is_cover(packet) or self.start is None or time is None:
            return True
        return time >= self.start or (packet.stream.type == "subtitle" and _end_of(packet) > self.start)

    def place(self, packet: Packet) -> bool:
        """Moves a packet of another track to its time in the output; False: it is not in the range.

        A subtitle is cut where the range begins or ends within it. Sound is not: it is there if it begins in the range.
        """
        time = _time_of(packet)
        if _is_cover(packet) or time is None:
            return True
        if self.end is not None and time >= self.end:
            return False
        if packet.stream.type == "subtitle" and packet.duration:
            end = _end_of(packet) if self.end is None else min(_end_of(packet), self.end)
            if self.start is not None and time < self.begin:
                packet.pts = packet.dts = round(self.begin / packet.time_base)
                time = self.begin
            if end <= time:
                return False
            packet.duration = max(1, round((end - time) / packet.time_base))
        if self.start is not None:
            if time < self.begin:
                return False
            move(packet, -self.begin)
        return True

    def chapters(self, chapters: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The chapters that reach into the range, cut and moved to their times in the output."""
        kept = []
        for chapter in chapters:
            unit = chapter["time_base"] or 1
            begin, end = max(chapter["start"] * unit, self.begin), chapter["end"] * unit
            end = end if self.end is None else min(end, self.end)
            if begin < end:
                start, end = ((time - self.begin) / unit for time in (begin, end))
                kept.append({**chapter, "start": round(start), "end": round(end)})
        return kept


def _time_of(packet: Packet) -> Fraction | None:
    stamp = packet.pts if packet.pts is not None else packet.dts
    return None if stamp is None else stamp * packet.time_base


def _end_of(packet: Packet) -> Fraction:
    return (_time_of(packet) or Fraction(0)) + (packet.duration or 0) * packet.time_base


def _is_cover(packet: Packet) -> bool:
    return packet.stream.type == "video"
