"""Video files and URLs, decoded by FFmpeg into upright BGR frames with exact timestamps."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import threading
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.errors import SourceError
from engine.video.base import Frame, SourceInfo
from engine.video.color import Color, ToBgr, color_of, output_color
from engine.video.device_frames import ToDeviceBgr, device_errors, in_memory
from engine.video.hardware import HardwareDecoderError, VideoHardware, decode_on_hardware, decoder_missing, not_decoded
from engine.video.libav import (
    PacketReader,
    SteadyClock,
    has_flag,
    import_av,
    indexed_frames,
    is_url,
    one_line,
    open_input,
    video_streams,
)
from engine.video.orientation import Orientation, orientation_of
from engine.video.tonemap import ToneMapper

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from torch import Tensor

# A decoded frame, and its picture where it was converted on a device. Then the frame may be one without a picture.
_Decoded: TypeAlias = "tuple[VideoFrame, Tensor | None]"

DEFAULT_FRAME_RATE = Fraction(25)

# A file whose last frame ends this much earlier than its index says is cut off. Less is rounding of durations.
MISSING_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Media:
    """What a sink needs of the file that the frames come from, to make its output the same in all but the picture.

    Attributes:
        path: the file or URL that the other tracks are copied from; None if it can't be read a second time.
        stream_index: which of its streams the frames come from.
        color: colour properties for the output.
        sample_aspect_ratio: of the upright picture; None if unknown or square.
        offset_seconds: subtracted from every timestamp of the source, all tracks alike.
        frame_rate: average, for encoders that want to know.
        start_unit: parts of a second in which the start of every track is a whole number, at least 1000.
    """

    path: str | None
    stream_index: int
    color: Color
    sample_aspect_ratio: Fraction | None
    offset_seconds: Fraction
    frame_rate: Fraction
    start_unit: int = 1000


class FileSource:
    """Frames of a video file or URL.

    Args:
        spec: path or URL.
        threads: decoder threads; 0 lets FFmpeg choose.
        hardware: to decode on, if it takes the stream, and where its frames stay, if they can; None is software.

    Attributes:
        hardware: what has decoded frames; "" where software did.

    Raises:
        SourceError: no such file, no video in it, or nothing in it can be decoded.
    """

    def __init__(self, spec: str, *, threads: int = 0, hardware: VideoHardware | None = None) -> None:
        self.hardware = ""
        self._spec = spec
        self._notes: list[str] = []
        self._damaged_packets = 0
        self._damaged_frames = 0
        self._frames = 0
        self._scaled_frames = 0
        self._ended = False
        self._stream_end: int | None = None
        self._closed = threading.Event()
        self._iterating = False
        self._container: InputContainer = open_input(spec)
        try:
            self._stream = self._choose_stream()
            self._stream.thread_type = "AUTO"
            self._stream.thread_count = threads
            self._reader = PacketReader(self._container, [self._stream])
            self._decoded: Generator[_Decoded, None, None] = self._decode(self._if_suitable(hardware))
            first = self._first_frame()
            self._describe(first)
        except BaseException:
            self._container.close()
            raise

    def __iter__(self) -> Iterator[Frame]:
        self._iterating = True
        try:
            for decoded, image in self._decoded:
                if self._closed.is_set():
                    return
                yield self._frame(decoded, image)
            self._ended = not self._closed.is_set()
        finally:
            self._decoded.close()
            self._container.close()

    def close(self) -> None:
        """Ends the iteration at its next frame; may be called from any thread."""
        self._closed.set()
        if not self._iterating:
            self._container.close()

    @property
    def warnings(self) -> list[str]:
        """One line for each kind of trouble met so far, with counts."""
        lines = list(self._notes)
        damaged = self._damaged_packets + self._reader.damaged
        if damaged:
            lines.append(f"{self._spec}: {damaged} damaged packets; what could be decoded of them is in the output")
        if self._damaged_frames:
            lines.append(f"{self._spec}: {self._damaged_frames} frames are damaged in the source and were repaired")
        if self._ended and lines != self._notes and self._frames_lost() > 0:
            lines.append(f"{self._spec}: about {self._frames_lost()} frames are lost in the source")
        if self._scaled_frames:
            size = f"{self._decoded_size[0]}x{self._decoded_size[1]}"
            lines.append(f"{self._spec}: {self._scaled_frames} frames of another size were scaled to {size}")
        if self._clock.resets:
            lines.append(f"{self._spec}: its clock starts anew {self._clock.resets} times; the output's runs on")
        if self._ended and self._seconds_missing() > MISSING_SECONDS:
            lines.append(
                f"{self._spec}: the file is cut off, its last {float(self._seconds_missing()):.1f} s are missing"
            )
        return lines

    # --- opening ---

    def _choose_stream(self) -> VideoStream:
        streams = video_streams(self._container)
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

    def _if_suitable(self, hardware: VideoHardware | None) -> VideoHardware | None:
        """The hardware, if it decodes this stream."""
        if hardware is None:
            return None
        is_live = is_url(self._spec) and self._container.duration is None
        reason = "a live stream can't be opened twice" if is_live else not_decoded(self._stream)
        reason = reason or decoder_missing(hardware.device_index)
        if reason is not None and hardware.is_wanted:
            self._notes.append(f"{self._spec}: decoded in software: {reason}")
        return hardware if reason is None else None

    def _what_is_there(self) -> str:
        kinds = [stream.type for stream in self._container.streams]
        counted = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
        return "streams: " + ", ".join(counted) if counted else "no streams at all"

    def _first_frame(self) -> VideoFrame:
        """Decodes the first frame, which tells what the container often doesn't, and puts it back in line."""
        first = next(self._decoded, None)
        if first is None:
            codec = self._stream.codec_context.name
            cause = (
                "the server may not allow seeking: download it first" if is_url(self._spec) else "damaged or cut off"
            )
            raise SourceError(f"{self._spec}: not one frame of its video ({codec}) can be decoded; {cause}")
        rest = self._decoded

        def with_first() -> Generator[_Decoded, None, None]:
            yield first
            yield from rest

        self._decoded = with_first()
        return first[0]

    def _describe(self, first: VideoFrame) -> None:
        stream = self._stream
        matrix: Any = first.side_data.get("DISPLAYMATRIX")
        self._orientation = orientation_of(bytes(matrix)) if matrix is not None else Orientation()
        if not self._orientation.is_exact:
            self._notes.append(f"{self._spec}: its rotation is no multiple of 90 degrees and is left out")
        self._decoded_size = (first.width, first.height)
        width, height = self._orientation.size(first.width, first.height)
        self._time_base = stream.time_base or Fraction(1, 90000)
        rate = stream.average_rate or stream.guessed_rate or DEFAULT_FRAME_RATE
        offset = self._clock_offset()
        self._pts_offset = round(offset / self._time_base)
        self._next_pts = 0
        self._clock = SteadyClock(self._time_base)
        self._default_duration = max(1, round(1 / (rate * self._time_base)))
        color = color_of(first)
        if color.is_hdr:
            self._to_bgr: ToBgr | ToneMapper = ToneMapper(color, *self._decoded_size)
            self._notes.append(f"{self._spec}: HDR is tone-mapped to standard dynamic range (BT.709)")
        else:
            self._to_bgr = ToBgr(color, *self._decoded_size)
        self.info = SourceInfo(
            name=self._spec,
            width=width,
            height=height,
            frame_count=self._count_frames(rate),
            frame_rate=rate,
            time_base=self._time_base,
            live=is_url(self._spec) and self._container.duration is None,
        )
        if self.info.live and self._container.streams.audio:
            self._notes.append(f"{self._spec}: sound of a live stream is not recorded")
        if stream.duration is not None:
            self._stream_end = (stream.start_time or 0) - self._pts_offset + stream.duration
        elif "DURATION" in stream.metadata:
            self._stream_end = _ticks(stream.metadata["DURATION"], self._time_base)
        aspect = _sample_aspect_ratio(stream, first)
        self.media = Media(
            path=None if self.info.live else self._spec,
            stream_index=stream.index,
            color=output_color(first),
            sample_aspect_ratio=1 / aspect if aspect and self._orientation.transpose else aspect,
            offset_seconds=offset,
            frame_rate=rate,
            start_unit=math.lcm(1000, *((start - offset).denominator for start in self._starts())),
        )

    def _clock_offset(self) -> Fraction:
        """Broadcast formats (MPEG-TS, MPEG-PS) start their clock anywhere, hours in: their files are moved to zero."""
        if not has_flag(self._container, "ts_discont"):
            return Fraction(0)
        return min(self._starts(), default=Fraction(0))

    def _starts(self) -> list[Fraction]:
        """Where each track starts, in seconds."""
        return [
            Fraction(stream.start_time) * stream.time_base
            for stream in self._container.streams
            if stream.start_time is not None and stream.time_base is not None
        ]

    def _count_frames(self, rate: Fraction) -> int | None:
        if self._stream.frames:
            return indexed_frames(self._stream)
        if self._stream.duration is not None:
            return round(self._stream.duration * self._time_base * rate) or None
        if self._container.duration is not None:
            return round(Fraction(self._container.duration, 1_000_000) * rate) or None
        return None

    # --- decoding ---

    def _decode(self, hardware: VideoHardware | None) -> Generator[_Decoded, None, None]:
        """Decodes to the end of the file, in software from where the hardware meets anything unusual."""
        done = 0
        if hardware is not None:
            try:
                with contextlib.closing(self._decode_on_hardware(hardware)) as decoded:
                    for frame, image in decoded:
                        if self._closed.is_set():
                            return
                        done += 1
                        self.hardware = "NVDEC"
                        yield frame, image
                return
            except HardwareDecoderError as error:
                self.hardware = f"NVDEC for {done} frames" if done else ""
                if hardware.is_wanted:
                    self._notes.append(f"{self._spec}: decoded in software from frame {done} on: {error}")
        # What is damaged is counted, repaired or left out by one decoder, whatever came before: from the start.
        for number, frame in enumerate(self._decode_in_software()):
            if number >= done:
                yield frame, None

    def _decode_on_hardware(self, hardware: VideoHardware) -> Generator[_Decoded, None, None]:
        """Decodes to the end of the file; pictures are converted on the device that they are to stay on, if any."""
        to_device = ToDeviceBgr(hardware.frames_device) if hardware.frames_device else None
        with contextlib.closing(decode_on_hardware(self._spec, self._stream, hardware)) as frames:
            for number, frame in enumerate(frames):
                image = None
                if to_device is not None:
                    image = to_device(frame)
                    if to_device.failure is not None:
                        self._notes.append(
                            f"{self._spec}: not converted on the device from frame {number} on: {to_device.failure}"
                        )
                        to_device = None
                if image is None or number == 0:  # the first one describes the file, and is kept for that
                    try:
                        frame = in_memory(frame)
                    except device_errors() as error:
                        raise HardwareDecoderError(one_line(error)) from error
                yield frame, image

    def _decode_in_software(self) -> Generator[VideoFrame, None, None]:
        """Decodes to the end of the file; a packet that fails is counted and left out."""
        av = import_av()
        for packet in self._reader:
            if self._closed.is_set():
                return
            try:
                frames = self._stream.decode(packet)
            except av.error.EOFError:
                continue
            except (av.error.FFmpegError, ValueError) as error:
                if isinstance(error, av.error.NotImplementedError | av.error.DecoderNotFoundError):
                    raise SourceError(f"{self._spec}: can't be decoded ({one_line(error)})") from error
                self._damaged_packets += 1
                continue
            yield from frames

    def _frame(self, decoded: VideoFrame, image: Tensor | None) -> Frame:
        self._frames += 1
        self._damaged_frames += decoded.is_corrupt
        self._scaled_frames += (decoded.width, decoded.height) != self._decoded_size
        duration = decoded.duration or self._default_duration
        pts = decoded.pts if decoded.pts is not None else decoded.dts
        pts = self._next_pts if pts is None else pts - self._pts_offset
        pts += self._clock.shift(pts, duration)
        self._next_pts = pts + duration
        if image is not None:
            return Frame(image=image, pts=pts, duration=duration)
        return Frame(image=self._orientation.apply(self._to_bgr(decoded)), pts=pts, duration=duration)

    def _frames_lost(self) -> int:
        """Frames that the file's index or duration promises and that could not be decoded."""
        return (self.info.frame_count or 0) - self._frames

    def _seconds_missing(self) -> Fraction:
        """How far before the end that the file's index promises the last frame ended."""
        if self._stream_end is None:
            return Fraction(0)
        return (self._stream_end - self._next_pts) * self._time_base


def _sample_aspect_ratio(stream: Any, frame: VideoFrame) -> Fraction | None:
    """Sample aspect ratio of a stream, None where it is square or unknown."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and aspect != 1 else None


def _ticks(duration: str, time_base: Fraction) -> int | None:
    """Matroska's note of where a track ends, 00:00:05.120000000, in a time base; None if it is no such note."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", duration)
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return round((int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) / time_base)
