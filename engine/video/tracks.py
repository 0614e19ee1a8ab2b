"""The tracks beside the picture: which of them a container can hold, and copying them packet for packet."""

from __future__ import annotations

import errno
import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import SinkError
from engine.video.base import Media
from engine.video.pyav import PacketReader, SteadyClock, import_av, is_undescribed, open_input, video_streams
from engine.video.sound import SoundConverter, codec_label, sound_codec_for
from engine.video.subtitles import ASS_HEADER, repack, repacked_codec

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream

# How far into a file the first packets of its tracks are looked for.
PACKETS_TRIED = 300

# With how many of its packets a container must hold a sound track.
SOUND_PACKETS_TRIED = 16

# Tags that describe the file they are in, not the work: the output gets its own.
_OWN_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "rotate", "duration", "vendor_id"}

# ISO 639-2 has two codes for these languages; QuickTime knows the second one.
_QUICKTIME_LANGUAGES = dict(
    pair.split(":") for pair in ["deu:ger", "zho:chi", "nld:dut", "ell:gre", "isl:ice", "fre:fra", "cze:ces"]
)

_PICTURE_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


def copied_tags(tags: dict[str, str], container: str) -> dict[str, str]:
    """Metadata without the tags that would be wrong in another file (statistics of Matroska tracks among them)."""
    statistics = ("_statistics", "bps", "number_of_")
    copied = {k: v for k, v in tags.items() if k.lower() not in _OWN_TAGS and not k.lower().startswith(statistics)}
    if "name" in copied:  # MP4's word for the title of a track, which its muxer expects as "title"
        copied.setdefault("title", copied.pop("name"))
    if container == "mov" and "language" in copied:
        copied["language"] = _QUICKTIME_LANGUAGES.get(copied["language"], copied["language"])
    return copied


def codec_of(stream: Stream) -> str:
    """Name of a stream's codec (not of its decoder), "" for what is none that FFmpeg knows."""
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else ""


def describe(stream: Stream) -> str:
    """A track in a few words for a message: `subtitle track 3 (ass, eng)`."""
    codec = codec_of(stream) or getattr(stream, "name", None)
    details = ", ".join(str(detail) for detail in (codec, stream.language) if detail)
    kind = "sound" if stream.type == "audio" else stream.type
    return f"{kind} track {stream.index}" + (f" ({details})" if details else "")


def is_cover(stream: Stream) -> bool:
    """True for a still picture that players show beside the sound."""
    from av.stream import Disposition

    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def holdable(path: str, container: str) -> set[int]:
    """Indices of the streams of a file that FFmpeg's muxer of that name takes as they are.

    Each is tried in a file of its own in memory, with its first packets: some muxers refuse only at the end, and some
    write sound that is read as another codec or at another speed.
    """
    av = import_av()
    with open_input(path) as source:
        first: dict[int, list[Packet]] = {}
        for packet in itertools.islice(PacketReader(source, list(source.streams)), PACKETS_TRIED):
            packets = first.setdefault(packet.stream.index, [])
            wanted = SOUND_PACKETS_TRIED if packet.stream.type == "audio" else 1
            if packet.size and len(packets) < wanted and _follows(packet, packets):
                packets.append(packet)
        return {s.index for s in source.streams if _can_hold(av, container, s, first.get(s.index, []))}


def _follows(packet: Packet, packets: list[Packet]) -> bool:
    last = packets[-1].dts if packets else None
    return last is None or (packet.dts is not None and packet.dts > last)


def _can_hold(av: Any, container: str, stream: Stream, packets: list[Packet]) -> bool:
    if container == "matroska" and is_cover(stream):
        return codec_of(stream) in _PICTURE_TYPES
    seconds = _seconds_of(packets)
    written = io.BytesIO()
    trial = av.open(written, "w", format=container)
    try:
        copy = add_copy(trial, stream)
        copy.disposition = stream.disposition
        trial.start_encoding()
        for packet in packets:
            packet.stream = copy
            trial.mux_one(packet)
        trial.close()
        return stream.type != "audio" or not packets or _is_read_back(av, written, stream, seconds)
    except (av.error.FFmpegError, ValueError):
        return False


def _is_read_back(av: Any, written: io.BytesIO, stream: Stream, seconds: Fraction) -> bool:
    """Whether a file with the first packets of a sound track is read as the same codec at the same speed."""
    written.seek(0)
    with av.open(written) as trial:
        if [codec_of(copy) for copy in trial.streams] != [codec_of(stream)]:
            return False
        read = _seconds_of([packet for packet in trial.demux() if packet.size])
    return not read or not seconds or Fraction(4, 5) < read / seconds < Fraction(5, 4)


def _seconds_of(packets: list[Packet]) -> Fraction:
    """How long sound packets last together; 0 where they don't say."""
    stamps = [packet.pts for packet in packets if packet.pts is not None]
    if not stamps or not packets[-1].duration:
        return Fraction(0)
    return (stamps[-1] - stamps[0] + packets[-1].duration) * packets[0].time_base


def add_copy(output: OutputContainer, stream: Stream) -> Stream:
    """Adds a stream that takes another one's packets as they are.

    Raises:
        ValueError: the container doesn't hold the codec.
    """
    try:
        return output.add_stream_from_template(stream, opaque=True)
    except ValueError:
        # Matroska holds everything that has a tag of AVI or ASF, but FFmpeg's list of its codecs doesn't say so.
        if output.format.name != "matroska" or stream.type != "audio":
            raise
    from av.bitstream import BitStreamFilterContext

    copy = output.add_mux_stream("pcm_s16le", time_base=stream.time_base)
    BitStreamFilterContext("null", in_stream=stream, out_stream=copy)  # copies the parameters
    return copy


def is_rebuilt(stream: Stream) -> bool:
    """True for data tracks that the muxer rebuilds from metadata: chapter titles and timecodes of QuickTime files."""
    if stream.type != "data":
        return False
    is_chapter_text = getattr(stream, "name", None) == "bin_data" and bool(stream.container.chapters())
    return is_chapter_text or "timecode" in stream.metadata


class TrackCopier:
    """Copies every track but the translated one from the source's file, read a second time and in step with the video.

    Reading twice keeps decoding and copying apart: no queue between them can grow or deadlock, whatever lead one track
    has in the file.

    Args:
        media: the source's file.
        output: what the tracks are added to.
        container: FFmpeg's name of its container.
        audio: sound is copied where the container holds it, else "convert": encoded again, "copy": an error. "none":
            there is no sound.

    Attributes:
        warnings: one line for each track that the output can't hold.
    """

    def __init__(self, media: Media, output: OutputContainer, container: str, *, audio: str = "convert") -> None:
        self.warnings: list[str] = []
        self._media = media
        self._path = media.path or ""
        self._output = output
        self._format = container
        self._audio = audio
        self._refused = 0
        self._last_dts: dict[int, int] = {}  # output stream -> time of its last packet
        self._converters: dict[int, SoundConverter] = {}
        self._copies: dict[int, tuple[Any, str | None]] = {}  # source index -> (output stream, codec repacked to)
        self._clocks: dict[int, SteadyClock] = {}
        self._input: InputContainer | None = open_input(media.path) if media.path is not None else None
        self._reader: PacketReader | None = None
        self._packets: Iterator[Packet] = iter(())
        self._pending: Packet | None = None

    def add_streams(self, add_video: Any) -> Any:
        """Adds all streams to the output in the source's order; `add_video(template)` makes the encoder's.

        Returns what `add_video` returned.
        """
        if self._input is None:
            return add_video(None)
        self._holdable = holdable(self._path, self._format)
        video = None
        data: list[Stream] = []
        for stream in self._input.streams:
            if stream.index == self._media.stream_index:
                video = add_video(stream)
            elif stream.type == "data" and self._format != "mpegts":
                data += [stream] * (not is_rebuilt(stream))
            elif stream.type != "video" or is_cover(stream):
                self._add(stream)
        if data:  # what cameras measure; a copy would be a track that says nothing of what is in it
            names = ", ".join(describe(stream) for stream in data)
            self.warnings.append(f"{names} left out: {self._format} can't hold data of other programs")
        self._output.metadata.update(copied_tags(self._input.metadata, self._format))
        self._add_chapters()
        wanted = [stream for stream in self._input.streams if stream.index in self._copies]
        self._reader = PacketReader(self._input, wanted)
        self._packets = iter(self._reader) if wanted else iter(())
        return video

    def advance(self, until_seconds: Fraction | None) -> None:
        """Copies packets up to a time of the output, all that are left if it is None."""
        while True:
            packet = self._pending if self._pending is not None else self._next()
            self._pending = packet
            if packet is None:
                return
            if until_seconds is not None and self._seconds(packet) > until_seconds:
                return
            self._pending = None
            self._copy(packet)

    def flush(self) -> None:
        """Writes what is still inside the encoders of converted tracks; called once, after the last packet."""
        for converter in self._converters.values():
            for packet in converter.flush():
                self._output.mux_one(packet)

    def close(self) -> None:
        """Closes the source's file and sums up what went wrong in it."""
        if self._reader is not None and self._reader.damaged:
            self.warnings.append(f"{self._path}: {self._reader.damaged} damaged places in its other tracks")
        for index, converter in self._converters.items():
            if converter.damaged_packets:
                self.warnings.append(
                    f"{self._path}: {converter.damaged_packets} damaged packets in sound track {index}"
                )
        if self._refused:
            self.warnings.append(f"{self._path}: {self._refused} packets of other tracks are damaged and left out")
        if self._input is not None:
            self._input.close()
            self._input = None

    # --- streams ---

    def _add(self, stream: Stream) -> None:
        if is_rebuilt(stream) or (stream.type == "audio" and self._audio == "none"):
            return
        repacked = repacked_codec(codec_of(stream), self._format)
        copy: Any
        if stream.type == "audio" and self._must_convert(stream):
            codec = sound_codec_for(stream, self._format)
            if codec is None:
                self.warnings.append(f"{describe(stream)} is left out: {self._why_not(stream)}{self._hint(stream)}")
                return
            self.warnings.append(f"{describe(stream)} is converted to {codec_label(codec)}: {self._why_not(stream)}")
            self._converters[stream.index] = SoundConverter(stream, self._output, codec)
            copy = self._converters[stream.index].stream
        elif stream.index in self._holdable:
            repacked = None
            if self._format == "matroska" and is_cover(stream):
                self._attach_cover(stream)
                return
            copy = add_copy(self._output, stream)
        elif repacked == "mov_text":
            copy = self._output.add_stream("mov_text")
            copy.codec_context.subtitle_header = ASS_HEADER
            self.warnings.append(f"{describe(stream)}: text kept as MP4 subtitles, without colours and positions")
        elif repacked is not None:
            copy = self._output.add_mux_stream(repacked)
        else:
            self.warnings.append(f"{describe(stream)} is left out: {self._format} can't hold it{self._hint(stream)}")
            return
        copy.disposition = stream.disposition
        copy.metadata.update(copied_tags(stream.metadata, self._format))
        if stream.type != "attachment":
            self._copies[stream.index] = (copy, repacked)
            self._clocks[stream.index] = SteadyClock(stream.time_base or Fraction(1, 90000))

    def _must_convert(self, stream: Stream) -> bool:
        """Whether a sound track can't be copied into the output, or no player would play it there.

        Raises:
            SinkError: it can't be, and the user wants copies only.
        """
        if self._audio == "copy" and stream.index not in self._holdable:
            raise SinkError(
                f"--audio copy: {describe(stream)} can't be copied, {self._why_not(stream)}; "
                f"--audio convert encodes it again{self._hint(stream)}"
            )
        is_unusual = self._format == "mp4" and codec_of(stream).startswith("pcm_") and self._audio != "copy"
        return is_unusual or stream.index not in self._holdable

    def _why_not(self, stream: Stream) -> str:
        if is_undescribed(stream):
            return "nothing of it is found near the start of the file"
        if stream.index in self._holdable:
            return f"few players know it in {self._format}"
        return f"{self._format} can't hold it"

    def _hint(self, stream: Stream) -> str:
        if self._format != "matroska" and stream.index in holdable(self._path, "matroska"):
            return "; -o out.mkv keeps it"
        return ""

    def _attach_cover(self, stream: Stream) -> None:
        """Matroska keeps pictures as attached files; the payload is the stream's only packet."""
        name, mime = _PICTURE_TYPES[codec_of(stream)]
        with open_input(self._path) as again:
            for packet in again.demux(again.streams[stream.index]):
                if packet.size:
                    self._output.add_attachment(stream.metadata.get("filename", name), mime, bytes(packet))
                return

    def _add_chapters(self) -> None:
        assert self._input is not None
        chapters = self._input.chapters()
        for chapter in chapters:
            shift = round(self._media.offset_seconds / (chapter["time_base"] or 1))
            chapter["start"] -= shift
            chapter["end"] -= shift
        if chapters:
            self._output.set_chapters(chapters)

    # --- packets ---

    def _next(self) -> Packet | None:
        """The next packet with a payload; the empty ones that flush decoders are of no use here."""
        return next((packet for packet in self._packets if packet.size or packet.dts is not None), None)

    def _seconds(self, packet: Packet) -> Fraction:
        stamp = packet.dts if packet.dts is not None else packet.pts
        return (stamp or 0) * packet.time_base - self._media.offset_seconds

    def _copy(self, packet: Packet) -> None:
        av = import_av()
        index = packet.stream.index
        copy, repacked = self._copies[index]
        stamp = packet.dts if packet.dts is not None else packet.pts or 0
        offset = round(self._media.offset_seconds / packet.time_base)
        offset -= self._clocks[index].shift(stamp, packet.duration or 0)
        if repacked is not None:
            payload = repack(bytes(packet), repacked)
            if payload is None:
                return
            packet = _with_payload(packet, payload)
        if packet.pts is not None:
            packet.pts -= offset
        if packet.dts is not None:
            packet.dts -= offset
        if index in self._converters:
            for converted in self._converters[index].convert(packet):
                self._output.mux_one(converted)
            return
        packet.stream = copy
        try:
            self._output.mux_one(self._after_the_last(packet) if copy.type == "audio" else packet)
        except av.error.InvalidDataError:
            self._refused += 1
        except av.error.FFmpegError as error:
            if error.errno != errno.EINVAL:
                raise
            self._refused += 1

    def _after_the_last(self, packet: Packet) -> Packet:
        """A sound packet, moved by a tick where its time does not increase: muxers refuse it otherwise."""
        copy = packet.stream
        last = self._last_dts.get(copy.index)
        if packet.dts is None:
            return packet
        ticks = round(packet.dts * packet.time_base / copy.time_base)
        if last is not None and ticks <= last:
            moved = last + 1 - ticks
            ticks = last + 1
            packet.pts = None if packet.pts is None else round(packet.pts * packet.time_base / copy.time_base) + moved
            packet.dts, packet.time_base = ticks, copy.time_base
        self._last_dts[copy.index] = ticks
        return packet


def _with_payload(packet: Packet, payload: bytes) -> Packet:
    copy = import_av().Packet(payload)
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration or 0
    copy.time_base = packet.time_base
    copy.is_keyframe = True
    return copy


# Codecs that browsers and phones play in MP4. Its muxer takes more, which only few players then read.
_PLAYABLE_IN_MP4 = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac", "mov_text"}


def container_for(path: str) -> str:
    """Suffix of an output that the owner of the source can play: .mp4, or .mov for a .mov.

    A Matroska file with tracks that MP4 can't hold stays one.
    """
    own = Path(path).suffix.lower()
    if own == ".mov":
        return own
    if own not in (".mkv", ".webm"):
        return ".mp4"
    with open_input(path) as source:
        pictures = {stream.index for stream in video_streams(source)}
        others = [s for s in source.streams if s.index not in pictures and not is_rebuilt(s)]
        playable = all(is_cover(stream) or codec_of(stream) in _PLAYABLE_IN_MP4 for stream in others)
        indices = {stream.index for stream in others}
    return ".mp4" if playable and indices <= holdable(path, "mp4") else ".mkv"
