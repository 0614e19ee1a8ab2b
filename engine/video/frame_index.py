"""The frames of a file by number: their timestamps and key frames, from which parts are planned and found again."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction

from engine.errors import SourceError
from engine.parts import TOLERANCE
from engine.video.demuxer import Demuxer


class IrregularError(SourceError):
    """The decoded frames are not the ones that the file's packets promise."""


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """The frames of one video file, in the order of presentation.

    Attributes:
        timestamps: one for each frame, in the unit of `SourceInfo.time_base`.
        durations: how long each is shown, in the same unit; 0 where the file does not say.
        keyframes: numbers of the frames from which decoding can begin; empty where it has to begin at the first frame.
    """

    timestamps: list[int]
    durations: list[int]
    keyframes: list[int]

    def keyframe_before(self, number: int) -> int | None:
        """The last key frame that is not behind this frame; None if decoding begins at the first frame of the file."""
        place = bisect.bisect_right(self.keyframes, number) - 1
        return self.keyframes[place] if place >= 0 else None

    def cut(self, first: int, end: int, *, seconds: float, time_base: Fraction) -> Iterator[tuple[int, int]]:
        """Cuts frames into parts of about so many seconds: (first, end) each.

        A part ends at a key frame of the source if there is one where it is up to a quarter shorter or longer.
        """
        while first < end:
            begin = self.timestamps[first]

            def length_until(number: int, begin: int = begin) -> float:
                return float((self.timestamps[number] - begin) * time_base) / seconds

            cut = next((n for n in range(first + 1, end) if length_until(n) >= 1 - TOLERANCE), end)
            stop = next((n for n in range(cut, end) if length_until(n) >= 1 + TOLERANCE), end)
            place = bisect.bisect_left(self.keyframes, cut)
            if place < len(self.keyframes):
                stop = min(stop, self.keyframes[place])
            yield first, stop
            first = stop


def index_packets(spec: str, stream_index: int) -> FrameIndex | None:
    """Indexes a file from its packets, without decoding them.

    Returns None where packets don't tell: without presentation times, in broadcasts, and where the clock restarts.

    Raises:
        SourceError: the file can't be opened.
    """
    demuxer = Demuxer(spec)
    try:
        if not demuxer.can_seek:
            return None
        demuxer.choose(demuxer.container.streams[stream_index])
        demuxer.drop_others()
        packets = (packet for packet in demuxer.pictures() if packet.size and not packet.is_discard)
        shown = [(packet.pts, packet.duration or 0, packet.is_keyframe) for packet in packets]
        if demuxer.joins or demuxer.damaged:
            return None
    finally:
        demuxer.close()
    known = sorted((pts, *rest) for pts, *rest in shown if pts is not None)
    if len({pts for pts, *_ in known}) < len(shown):
        return None
    keyframes = [number for number, (*_, is_keyframe) in enumerate(known) if is_keyframe]
    return FrameIndex([pts for pts, *_ in known], [duration for _, duration, _ in known], keyframes)


def index_frames(timestamps: Iterable[int]) -> FrameIndex:
    """Indexes a file from its decoded frames' timestamps; decoding then always begins at the first of them."""
    stamps = list(timestamps)
    return FrameIndex(stamps, [0] * len(stamps), [])
