"""The tracks beside the picture: which of them a container can hold, and copying them packet for packet."""

from __future__ import annotations

import errno
import io
import itertools
import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import SinkError
from engine.video.base import Media
from engine.video.containers import WITHOUT_B_FRAMES, WITHOUT_SOUND_TIMES
from engine.video.demuxer import Demuxer
from engine.video.packet_spool import packet_of
from engine.video.pyav import has_flag, import_av, lacks_parameters, video_streams
from engine.video.sound import SoundConverter, codec_label, sound_codec_for
from engine.video.subtitles import ASS_HEADER, repack, repacked_codec

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream

LEAST_PACKETS_TIMED = 8

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


def holdable(demuxer: Demuxer, container: str) -> set[int]:
    """Indices of the streams of a source that FFmpeg's muxer of that name takes as they are.

    Each is tried in a file of its own in memory, with its first packets: some muxers refuse only at the end, and some
    write sound that is read as another codec or at another speed.
    """
    av = import_av()
    return {s.index for s in demuxer.streams if _can_hold(av, container, s, demuxer.first_packets.get(s.index, []))}


def _can_hold(av: Any, container: str, stream: Stream, packets: list[Packet]) -> bool:
    if container == "matroska" and is_cover(stream):
        return codec_of(stream) in _PICTURE_TYPES
    # How long fewer packets last depends on what containers round, and on what encoders put before the sound.
    seconds = _seconds_of(packets) if len(packets) >= LEAST_PACKETS_TIMED else Fraction(0)
    written = io.BytesIO()
    trial = av.open(written, "w", format=container)
    try:
        copy = add_copy(trial, stream)
        copy.disposition = stream.disposition
        trial.start_encoding()
        for packet in packets:
            packet = _with_payload(packet, bytes(packet))
            if packet.dts is not None and packets[0].dts is not None:  # MP4 hides what is before zero
                lead = 0 if packet.pts is None else packet.pts - packet.dts
                packet.dts -= packets[0].dts
                packet.pts = packet.dts + lead
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
    """How long sound packets last together; 0 where they don't say, or where their clock jumps."""
    stamps = [packet.pts for packet in packets if packet.pts is not None]
    if not stamps or not packets[-1].duration:
        return Fraction(0)
    unit = packets[0].time_base
    if any(not 0 <= (later - earlier) * unit < 1 for earlier, later in itertools.pairwise(stamps)):
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
    """Copies every track but the translated one from the source's demuxer, in step with the video.

    Args:
        media: the source's file.
        output: what the tracks are added to.
        container: FFmpeg's name of its container.
        audio: sound is copied where the container holds it, else "convert": encoded again, "copy": an error. "none":
            there is no sound.

    Attributes:
        warnings: one line for each track that the output can't hold.
        packets, bytes: how many packets are written so far, and their payload.
    """

    def __init__(self, media: Media, output: OutputContainer, container: str, *, audio: str = "convert") -> None:
        self.warnings: list[str] = []
        self._media = media
        self._output = output
        self._format = container
        self._audio = audio
        self.packets = self.bytes = 0
        self._refused = 0
        self._left_out: list[Stream] = []
        self._converters: dict[int, SoundConverter] = {}
        # source index -> (output stream, codecs that its packets are repacked from and to)
        self._copies: dict[int, tuple[Any, tuple[str, str] | None]] = {}
        self._least: dict[int, int] = {}  # output index -> the least decoding time that the next packet may have
        self._is_strict = not has_flag(output, "ts_nonstrict")
        self._drops_priming = container in WITHOUT_B_FRAMES
        self._demuxer = media.demuxer

    def add_streams(self, add_video: Any) -> Any:
        """Adds all streams to the output in the source's order; `add_video(template)` makes the encoder's.

        Returns what `add_video` returned.
        """
        if self._demuxer is None:
            return add_video(None)
        self._holdable = holdable(self._demuxer, self._format)
        video = None
        for stream in self._demuxer.streams:
            if stream.index == self._media.stream_index:
                video = add_video(stream)
            elif stream.type == "data" and self._format != "mpegts":
                # What cameras measure: a copy would be a track that says nothing of what is in it.
                self._left_out += [stream] * (not is_rebuilt(stream))
            elif stream.type != "video" or is_cover(stream):
                self._add(stream)
        if self._left_out:
            names, them = ", ".join(map(describe, self._left_out)), "it" if len(self._left_out) == 1 else "them"
            self.warnings.append(f"{names} left out: {self._format} can't hold {them}{self._hint(*self._left_out)}")
        self._output.metadata.update(copied_tags(self._demuxer.container.metadata, self._format))
        self._add_chapters()
        return video

    def add_finished(self, finished: Any) -> dict[int, Any]:
        """Adds the tracks of a finished file, and behind them those of the source; returns the ones of the file."""
        copies = {}
        for stream in finished.streams:
            copy = copies[stream.index] = add_copy(self._output, stream)
            copy.disposition = stream.disposition
            copy.metadata.update(copied_tags(stream.metadata, self._format))
        self.add_streams(lambda _: None)
        self._output.metadata.update(copied_tags(finished.metadata, self._format))
        self._output.set_chapters(finished.chapters())
        return copies

    def advance(self, until_seconds: Fraction | None, *, is_last: bool = False) -> None:
        """Copies packets up to a time of the output, all that are left if it is None.

        Args:
            is_last: no more pictures come.
        """
        if self._demuxer is not None:
            for packet in self._demuxer.others(until_seconds, is_last=is_last):
                self._copy(packet)

    def flush(self) -> None:
        """Writes what is still inside the encoders of converted tracks; called once, after the last packet."""
        for converter in self._converters.values():
            for packet in converter.flush():
                self._output.mux_one(packet)

    def close(self) -> None:
        """Sums up what went wrong in the other tracks."""
        if self._demuxer is not None and self._demuxer.damaged_others:
            self.warnings.append(f"{self._demuxer.damaged_others} damaged places in its other tracks")
        for index, converter in self._converters.items():
            if converter.damaged_packets:
                self.warnings.append(f"{converter.damaged_packets} damaged packets in sound track {index}")
        if self._refused:
            self.warnings.append(f"{self._refused} packets of other tracks are damaged and left out")

    # --- streams ---

    def _add(self, stream: Stream) -> None:
        if is_rebuilt(stream) or lacks_parameters(stream):
            return
        if stream.type == "audio" and self._audio == "none":
            return
        repacked = repacked_codec(codec_of(stream), self._format)
        copy: Any
        if stream.type == "audio" and self._must_convert(stream):
            codec = sound_codec_for(stream, self._format)
            if codec is None:
                self._left_out.append(stream)
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
            if stream.type == "audio" and copy.codec_context is not None:
                # FFmpeg estimates it again while it reads, and it is written into files.
                copy.codec_context.bit_rate = stream.codec_context.bit_rate or 0
        elif repacked == "mov_text":
            copy = self._output.add_stream("mov_text")
            copy.codec_context.subtitle_header = ASS_HEADER
            self.warnings.append(f"{describe(stream)}: text kept as MP4 subtitles, without colours and positions")
        elif repacked is not None:
            copy = self._output.add_mux_stream(repacked)
            if repacked == "webvtt":
                self.warnings.append(f"{describe(stream)}: text kept as WebVTT, without colours and positions")
        else:
            self._left_out.append(stream)
            return
        copy.disposition = stream.disposition
        copy.metadata.update(copied_tags(stream.metadata, self._format))
        if stream.type != "attachment":
            self._copies[stream.index] = copy, (codec_of(stream), repacked) if repacked is not None else None

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
        has_no_times = self._format in WITHOUT_SOUND_TIMES and self._audio != "copy"
        return is_unusual or has_no_times or stream.index not in self._holdable

    def _why_not(self, stream: Stream) -> str:
        if stream.index not in self._holdable:
            return f"{self._format} can't hold it"
        if self._format in WITHOUT_SOUND_TIMES:
            return f"{self._format} keeps no times of sound, so it becomes one run from the beginning on"
        return f"few players know it in {self._format}"

    def _hint(self, *streams: Stream) -> str:
        assert self._demuxer is not None
        holds = holdable(self._demuxer, "matroska") if self._format != "matroska" else set()
        kept = [stream for stream in streams if stream.index in holds and stream.type != "data"]
        if not kept:
            return ""
        return "; -o out.mkv keeps " + ("it" if len(streams) == 1 else ", ".join(map(describe, kept)))

    def _attach_cover(self, stream: Stream) -> None:
        """Matroska keeps pictures as attached files; the payload is the stream's only packet."""
        name, mime = _PICTURE_TYPES[codec_of(stream)]
        assert self._demuxer is not None
        for picture in self._demuxer.first_packets.get(stream.index, []):
            self._output.add_attachment(stream.metadata.get("filename", name), mime, bytes(picture))

    def _add_chapters(self) -> None:
        assert self._demuxer is not None
        chapters = self._demuxer.container.chapters()
        for chapter in chapters:
            shift = round(self._media.offset_seconds / (chapter["time_base"] or 1))
            chapter["start"] -= shift
            chapter["end"] -= shift
        if self._media.cut is not None:
            chapters = self._media.cut.chapters(chapters)
        if chapters:
            self._output.set_chapters(chapters)

    # --- packets ---

    def _copy(self, packet: Packet) -> None:
        av = import_av()
        index = packet.stream_index
        if index not in self._copies or not (packet.size or packet.dts is not None):
            return
        copy, repacked = self._copies[index]
        if repacked is not None:
            payload = repack(bytes(packet), *repacked)
            if payload is None:
                return
            packet = _with_payload(packet, payload)
        if index in self._converters:
            for converted in self._converters[index].convert(packet):
                self._count(converted)
                self._output.mux_one(converted)
            return
        if self._drops_priming and copy.type == "audio" and _ends_before_zero(packet):
            return
        self._move_behind(packet, copy)
        packet.stream = copy
        self._count(packet)
        try:
            self._output.mux_one(packet)
        except av.error.InvalidDataError:
            self._refused += 1
        except av.error.FFmpegError as error:
            if error.errno != errno.EINVAL:
                raise
            self._refused += 1

    def _count(self, packet: Packet) -> None:
        self.packets += 1
        self.bytes += packet.size

    def _move_behind(self, packet: Packet, copy: Any) -> None:
        """Moves a packet whose decoding time does not increase to one tick behind the one before: muxers refuse it."""
        if packet.dts is None:
            return
        ratio = packet.time_base / copy.time_base
        dts = math.floor(packet.dts * ratio + Fraction(1, 2))
        least = self._least.get(copy.index, dts)
        if dts < least:
            lead = 0 if packet.pts is None else round((packet.pts - packet.dts) * ratio)
            packet.duration = round((packet.duration or 0) * ratio)
            packet.time_base, packet.dts = copy.time_base, least
            packet.pts = None if packet.pts is None else least + lead
            dts = least
        self._least[copy.index] = dts + self._is_strict


def _ends_before_zero(packet: Packet) -> bool:
    """Whether nothing of it is heard: it holds what an encoder puts before the first sample."""
    return packet.pts is not None and packet.pts + (packet.duration or 0) <= 0


def _with_payload(packet: Packet, payload: bytes) -> Packet:
    return packet_of(payload, pts=packet.pts, dts=packet.dts, duration=packet.duration, time_base=packet.time_base)


# Codecs that browsers and phones play in MP4. Its muxer takes more, which only few players then read.
_PLAYABLE_IN_MP4 = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac", "mov_text"}


def container_for(demuxer: Demuxer | None, path: str) -> str:
    """Suffix of an output that the owner of the source can play: .mp4, or .mov for a .mov.

    A Matroska file with tracks that MP4 can't hold stays one.
    """
    own = Path(path).suffix.lower()
    if own == ".mov":
        return own
    if own not in (".mkv", ".webm") or demuxer is None:
        return ".mp4"
    pictures = {stream.index for stream in video_streams(demuxer.streams)}
    others = [s for s in demuxer.streams if s.index not in pictures and not is_rebuilt(s)]
    playable = all(is_cover(stream) or codec_of(stream) in _PLAYABLE_IN_MP4 for stream in others)
    indices = {stream.index for stream in others}
    return ".mp4" if playable and indices <= holdable(demuxer, "mp4") else ".mkv"
