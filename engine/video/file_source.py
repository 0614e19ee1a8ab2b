"""Video files and URLs, decoded by FFmpeg into upright BGR frames with exact timestamps."""

from __future__ import annotations

import collections
import itertools
import math
import re
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from engine.errors import SourceError
from engine.times import show_time
from engine.video.base import DEFAULT_FRAME_RATE, Frame, Media, Source, SourceInfo
from engine.video.color import color_of, is_placed_low, output_color
from engine.video.cut import Cut, TimeRange
from engine.video.demuxer import Demuxer
from engine.video.frame_index import FrameIndex
from engine.video.frame_reader import FrameReader
from engine.video.nvidia.trials import VideoHardware
from engine.video.picture import Pictures
from engine.video.pyav import indexed_frames, is_url, video_streams
from engine.video.video_decoder import Decoded, VideoDecoder

if TYPE_CHECKING:
    import numpy as np
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from torch import Tensor

# A file whose last frame ends this much earlier than its index says is cut off. Less is rounding of durations.
MISSING_SECONDS = 0.5

# How far before a range reading begins: where each track has its place, and where the other tracks may lie before the
# picture. The second is tried where the first one does not lead to a key frame.
SEEK_SECONDS, INTERLEAVED_SEEK_SECONDS = (0, 10), (10, 60)

# Larger averages are a container's clock, such as 60000 for raw DV, not a rate.
MOST_FRAMES_PER_SECOND = 1000

# A container with a constant rate gets an empty place for every tick.
MOST_TICKS_PER_SECOND = 240


class FileSource(Source):
    """Frames of a video file or URL.

    Args:
        spec: path or URL.
        threads: decoder threads; 0 lets FFmpeg choose.
        hardware: to decode on, if it takes the stream, and where its frames stay, if they can; None is software.
        time_range: what is wanted of it; None is all.
        picture: `deinterlace` and `background`, see `Pictures`.

    Raises:
        SourceError: no such file, no video in it, nothing in it can be decoded, or nothing is shown in the range.
    """

    def __init__(
        self,
        spec: str,
        *,
        threads: int = 0,
        hardware: VideoHardware | None = None,
        time_range: TimeRange | None = None,
        **picture: Any,
    ) -> None:
        self._spec = spec
        self._picture_settings = picture
        self._notes: list[str] = []
        self._damaged_frames = 0
        self._frames = 0
        self._ended = False
        self._stream_end: int | None = None
        self._closed = threading.Event()
        self._iterating = False
        self._threads, self._hardware, self._time_range = threads, hardware, time_range
        self._lead: VideoFrame | None = None  # the frame before the range, which its first one is deinterlaced with
        self._damaged_before = self._default_duration = 0
        self._time_base = Fraction(1, 90000)
        self._reader: FrameReader | None = None
        self._known: tuple[FrameIndex, np.ndarray] | None = None
        self._open()
        try:
            if self._cut is not None and self._cut.start is not None:
                self._go_to(self._cut.start)
        except BaseException:
            self._demuxer.close()
            raise

    def __iter__(self) -> Iterator[Frame]:
        return self._all() if self._cut is None else self._cut.frames(self._all(), self._time_base)

    def _all(self) -> Iterator[Frame]:
        """The frames from the first one of the range to the end of the source."""
        self._iterating = True
        self._demuxer.drop_others()
        frames = self._undecoded(*self._known) if self._known is not None else self._frames_of_file()
        try:
            for frame in frames:
                if self._closed.is_set():
                    return
                yield frame
            self._ended = not self._closed.is_set()
        finally:
            self._decoded.close()
            self._demuxer.release()

    def leave_undecoded(self, index: FrameIndex, image: np.ndarray) -> None:
        """Makes iterating yield the frames that the index promises, all with this image: for sinks that have them."""
        self._known = index, image

    def timestamps(self) -> Iterator[int]:
        """Decodes the whole file and yields its frames' timestamps; in place of iterating."""
        self._iterating = True
        self._demuxer.drop_others()
        for decoded, _ in itertools.chain(self._begun, self._decoded):
            yield self._stamp(decoded)

    def read(self, index: FrameIndex, first: int, end: int) -> Iterator[Frame]:
        """Yields the frames from `first` to before `end`, as iterating does, again and again; in place of iterating.

        Args:
            index: of this file's frames, always the same one.

        Raises:
            IrregularError: the frames are not those of the index.
            SourceError: earlier frames are asked for than last time, and the index has no key frames.
        """
        if self._reader is None:
            self._iterating = True
            self._demuxer.drop_others()
            frames = itertools.chain(self._begun, self._decoded)
            self._reader = FrameReader(self._spec, self._demuxer, self._decoder, frames, index, self._time_base)
        reader = self._reader
        reader.go_to(first)
        if first and reader.peek().interlaced_frame:
            reader.go_to(first - 1)  # whole pictures are made of the frames before and behind, too
        self._pictures = Pictures(self._spec, self._begun[0][0], **self._picture_settings)
        fed: collections.deque[int] = collections.deque()

        def feed() -> Iterator[Decoded]:
            is_interlaced = False
            while reader.next_number < min(end + is_interlaced, len(index.timestamps)):
                fed.append(reader.next_number)
                frame = reader.take()
                is_interlaced = frame.interlaced_frame
                yield frame, None

        for decoded, image in self._pictures.of(feed()):
            number = fed.popleft()
            if first <= number < end:
                duration = decoded.duration or self._default_duration
                yield Frame(image=image, pts=index.timestamps[number], duration=duration)

    def close(self) -> None:
        """Ends the iteration at its next frame; may be called from any thread."""
        self._closed.set()
        self._demuxer.interrupt()
        if not self._iterating:
            self._demuxer.release()

    @property
    def hardware(self) -> str:
        return self._decoder.hardware

    @property
    def warnings(self) -> list[str]:
        """One line for each kind of trouble met so far, with counts."""
        lines = [*self._decoder.notes, *self._notes]
        damaged = self._decoder.damaged_packets - self._damaged_before
        if damaged:
            lines.append(f"{self._spec}: {damaged} damaged packets; what could be decoded of them is in the output")
        if self._damaged_frames:
            lines.append(f"{self._spec}: {self._damaged_frames} frames are damaged in the source and were repaired")
        if self._ended and (damaged or self._damaged_frames) and self._frames_lost() > 0:
            lines.append(f"{self._spec}: about {self._frames_lost()} frames are lost in the source")
        if self._demuxer.is_of_unknown_length:
            lines.append(f"{self._spec}: the server did not say how long it is; nothing tells whether all of it came")
        if self._demuxer.has_unknown:
            lines.append(f"{self._spec}: streams that began in the middle of it are left out")
        lines += self._pictures.notes
        if self._demuxer.joins:
            lines.append(f"{self._spec}: its clock restarts {self._demuxer.joins} times; the output's clock runs on")
        if self._ended and self._seconds_missing() > MISSING_SECONDS:
            lines.append(
                f"{self._spec}: the file is cut off, its last {float(self._seconds_missing()):.1f} s are missing"
            )
        return lines

    # --- opening ---

    def _open(self) -> None:
        self._demuxer = Demuxer(self._spec)
        self._container = self._demuxer.container
        try:
            self._stream = self._choose_stream()
            self._stream.thread_type = "AUTO"
            self._stream.thread_count = self._threads
            self._demuxer.choose(self._stream)
            self._cut = self._demuxer.cut = self._place_range()
            self._decoder = VideoDecoder(
                self._spec, self._demuxer, self._stream, hardware=self._hardware, closed=self._closed
            )
            self._decoded = self._decoder.decode()
            self._begun = [self._first_frame()]
            self._describe(self._begun[0][0])
        except BaseException:
            self._demuxer.close()
            raise

    def _place_range(self) -> Cut | None:
        """The range on the timeline. Its times count from where the first track begins, as players count."""
        if not self._time_range:
            return None
        if self._demuxer.is_live:
            raise SourceError(f"{self._spec}: it is live, and {self._time_range.option} takes a time of a recording")
        return Cut(
            self._time_range,
            max(Fraction(0), min(self._demuxer.starts(), default=Fraction(0)) - self._demuxer.offset_seconds),
        )

    def _go_to(self, start: Fraction) -> None:
        """Goes on to the first frame that is shown at a time or later: from a key frame before it, or frame by frame.

        Raises:
            SourceError: there is none.
        """
        has_sought, first = False, (self._begun[0][0].pts or 0) * self._time_base
        for back in self._seeks():
            if start - back <= first:
                break
            has_sought = True
            self._decoded.close()
            if self._demuxer.seek(start - back):
                self._decoded, self._begun = self._decoder.decode(), []
                if self._skip_to(start, is_exact=False):
                    return
        if has_sought:
            self._demuxer.close()
            self._open()
        self._skip_to(start, is_exact=True)

    def _seeks(self) -> tuple[int, ...]:
        """How many seconds before the range reading may begin, in the order in which that is tried."""
        if not self._decoder.is_software or not self._demuxer.can_seek:
            return ()
        assert self._time_range is not None
        needs_no_others = self._time_range.is_still or self._demuxer.has_track_places
        return SEEK_SECONDS if needs_no_others else INTERLEAVED_SEEK_SECONDS

    def _skip_to(self, start: Fraction, *, is_exact: bool) -> bool:
        """Decodes up to the first frame of the range, which then is the next one.

        Args:
            is_exact: reading began at the file's beginning. Otherwise frames are those of the file from the first
                decoded key frame on, so one has to be shown before the range; False is returned if none is.
        """
        before: list[Decoded] = []
        for decoded in itertools.chain(self._begun, self._decoded):
            frame = decoded[0]
            pts = self._stamp(frame)
            time = pts * self._time_base
            is_exact |= frame.key_frame and frame.pts is not None and time <= start
            if time >= start:
                if is_exact:
                    self._begin(before, decoded, pts)
                return is_exact
            before = [decoded]
        if is_exact:
            assert self._cut is not None
            duration = before[0][0].duration or self._default_duration
            shown = show_time((self._next_pts - duration) * self._time_base - self._cut.zero)
            asked = show_time(start - self._cut.zero)
            asked = f"{self._cut.wanted.option} {asked}"
            raise SourceError(f"{self._spec}: {asked} is beyond its end, the last frame is shown at {shown}")
        return False

    def _begin(self, before: list[Decoded], first: Decoded, pts: int) -> None:
        """The range begins with this frame; `before` has the one before it, if there is one."""
        assert self._cut is not None
        described = self._begun[0][0] if self._begun else first[0]
        self._cut.begin = pts * self._time_base
        if self._cut.end is not None and self._cut.begin >= self._cut.end:
            start, end = (show_time(time - self._cut.zero) for time in (self._cut.start or 0, self._cut.end))
            raise SourceError(f"{self._spec}: no frame is shown between --start {start} and --end {end}")
        if first[0].interlaced_frame and before:
            self._lead = before[0][0]
        self._begun = [*before, first] if self._lead is not None else [first]
        self._damaged_before = self._decoder.damaged_packets
        self._describe(first[0] if self._decoder.is_software else described)  # a frame on a device tells less
        self._next_pts = pts

    def _choose_stream(self) -> VideoStream:
        streams = video_streams(self._demuxer.streams)
        if not streams:
            raise SourceError(f"{self._spec}: no video in it ({self._what_is_there()}); give a file with a picture")
        undecodable = [stream for stream in streams if stream.codec_context is None]
        streams = [stream for stream in streams if stream.codec_context is not None]
        if not streams:
            raise SourceError(
                f"{self._spec}: no decoder for its video codec (stream {undecodable[0].index}); convert it to H.264"
            )
        chosen = max(streams, key=lambda stream: (bool(stream.disposition & 1), stream.width * stream.height))
        if len(streams) > 1:
            self._notes.append(
                f"{self._spec}: {len(streams)} video streams; stream {chosen.index} "
                f"({chosen.width}x{chosen.height}) is translated, the others are left out"
            )
        return chosen

    def _what_is_there(self) -> str:
        kinds = [stream.type for stream in self._demuxer.streams]
        counted = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
        return "streams: " + ", ".join(counted) if counted else "no streams at all"

    def _first_frame(self) -> Decoded:
        """Decodes the first frame, which tells what the container often doesn't."""
        first = next(self._decoded, None)
        if first is None:
            codec = self._stream.codec_context.name
            cause = "damaged or cut off"
            if is_url(self._spec):
                cause = "the server may not allow seeking: download it first"
            elif not self._demuxer.can_be_opened_twice:
                cause = "a pipe can't be read backwards, as an MP4 with its index at the end wants: save it first"
            raise SourceError(f"{self._spec}: not one frame of its video ({codec}) can be decoded; {cause}")
        return first

    def _describe(self, first: VideoFrame) -> None:
        stream = self._stream
        self._pictures = Pictures(self._spec, first, **self._picture_settings)
        self._time_base = stream.time_base or Fraction(1, 90000)
        by_duration = 1 / (first.duration * self._time_base) if first.duration else None
        said = (stream.average_rate, stream.guessed_rate, by_duration)  # raw DV says 60,000
        rate = next((rate for rate in said if rate and rate <= MOST_FRAMES_PER_SECOND), DEFAULT_FRAME_RATE)
        offset = self._demuxer.offset_seconds
        self._next_pts = 0
        starts = ((start - offset).denominator for start in self._demuxer.starts())
        units = (stream.time_base.denominator for stream in self._demuxer.streams if stream.time_base is not None)
        self._default_duration = max(1, round(1 / (rate * self._time_base)))
        self.info = SourceInfo(
            name=self._spec,
            width=self._pictures.width,
            height=self._pictures.height,
            frame_count=self._count_frames(rate),
            frame_rate=rate,
            time_base=self._time_base,
            live=self._demuxer.is_live,
        )
        if stream.duration is not None:
            self._stream_end = (stream.start_time or 0) - round(offset / self._time_base) + stream.duration
        elif "DURATION" in stream.metadata:
            self._stream_end = _ticks(stream.metadata["DURATION"], self._time_base)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        aspect = 1 / aspect if self._pictures.orientation.transpose else aspect
        self.media = Media(
            demuxer=self._demuxer,
            stream_index=stream.index,
            color=output_color(first),
            has_low_chroma=is_placed_low(first.format) and not color_of(first).is_hdr,
            sample_aspect_ratio=aspect if aspect != 1 else None,
            offset_seconds=offset,
            frame_rate=rate,
            tick_rate=_tick_rate(stream.base_rate, rate),
            start_unit=math.lcm(1000, *(units if self._cut is not None else starts)),
            cut=self._cut,
        )

    def _count_frames(self, rate: Fraction) -> int | None:
        if self._cut is not None:
            return self._count_range(self._cut, rate)
        if self._stream.frames:
            return indexed_frames(self._stream)
        if self._stream.duration is not None:
            return round(self._stream.duration * self._time_base * rate) or None
        if self._container.duration is not None:
            return round(Fraction(self._container.duration, 1_000_000) * rate) or None
        return None

    def _count_range(self, cut: Cut, rate: Fraction) -> int | None:
        """Frames of the range at a constant rate; as many as there are, at most."""
        if cut.wanted.is_still:
            return 1
        ends = [] if cut.end is None else [cut.end]
        if self._stream_end is not None:
            ends.append(self._stream_end * self._time_base)
        elif self._container.duration is not None:
            ends.append(Fraction(self._container.duration, 1_000_000))
        return max(1, math.ceil((min(ends) - cut.begin) * rate)) if ends else None

    # --- frames ---

    def _frames_of_file(self) -> Iterator[Frame]:
        for decoded, image in self._pictures.of(itertools.chain(self._begun, self._decoded)):
            if decoded is not self._lead:
                yield self._frame(decoded, image)

    def _undecoded(self, index: FrameIndex, image: np.ndarray) -> Iterator[Frame]:
        packets = self._demuxer.pictures()
        for pts, duration in zip(index.timestamps, index.durations, strict=True):
            next(packets, None)  # so that the other tracks are read as far
            self._frames += 1
            self._next_pts = pts + (duration or self._default_duration)
            yield Frame(image=image, pts=pts, duration=self._next_pts - pts)
        collections.deque(packets, maxlen=0)

    def _frame(self, decoded: VideoFrame, image: np.ndarray | Tensor) -> Frame:
        self._frames += 1
        self._damaged_frames += decoded.is_corrupt
        pts = self._stamp(decoded)
        return Frame(image=image, pts=pts, duration=self._next_pts - pts)

    def _stamp(self, decoded: VideoFrame) -> int:
        """The frame's timestamp; where it has none, it follows the frame before."""
        pts = decoded.pts if decoded.pts is not None else decoded.dts
        pts = self._next_pts if pts is None else pts
        self._next_pts = pts + (decoded.duration or self._default_duration)
        return pts

    def _frames_lost(self) -> int:
        """Frames that the file's index or duration promises and that could not be decoded."""
        return 0 if self._demuxer.joins or self._cut is not None else (self.info.frame_count or 0) - self._frames

    def _seconds_missing(self) -> Fraction:
        """Seconds between the end of the last frame and the end that the file's index promises."""
        if self._stream_end is None or self._demuxer.joins:  # joined clocks tell no duration
            return Fraction(0)
        return (self._stream_end - self._next_pts) * self._time_base


def _tick_rate(base: Fraction | None, average: Fraction) -> Fraction:
    """FFmpeg's guess of the rate on which all frames lie, thousandths where that is no usual one."""
    if base is None or abs(base / average - 1) < Fraction(1, 1000):
        return average
    return base if average < base <= MOST_TICKS_PER_SECOND else Fraction(1000)


def _ticks(duration: str, time_base: Fraction) -> int | None:
    """Matroska's note of where a track ends, 00:00:05.120000000, in a time base; None if it has another form."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", duration)
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return round((int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) / time_base)
