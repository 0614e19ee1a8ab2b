"""The tracks beside the picture: which of them a container can hold, and copying them packet for packet."""

from __future__ import annotations

import errno
import io
import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.video.base import Media
from engine.video.containers import CONTAINERS
from engine.video.demuxer import Demuxer
from engine.video.packet_spool import packet_of
from engine.video.pyav import has_flag, import_av, lacks_parameters, video_streams
from engine.video.subtitles import ASS_HEADER, repack, repacked_codec

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream

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
    return f"{stream.type} track {stream.index}" + (f" ({details})" if details else "")


def is_cover(stream: Stream) -> bool:
    """True for a still picture that players show beside the sound."""
    from av.stream import Disposition

    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def holdable(demuxer: Demuxer, container: str) -> set[int]:
    """Indices of the streams of a source that FFmpeg's muxer of that name takes as they are.

    Each is tried in a file of its own in memory, with its first packet: some muxers refuse only at the end.
    """
    av = import_av()
    return {s.index for s in demuxer.streams if _can_hold(av, container, s, demuxer.first_packets.get(s.index))}


def _can_hold(av: Any, container: str, stream: Stream, packet: Packet | None) -> bool:
    if container == "matroska" and is_cover(stream):
        return codec_of(stream) in _PICTURE_TYPES
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        copy = trial.add_stream_from_template(stream, opaque=True)
        copy.disposition = stream.disposition
        if packet is not None:
            packet = _with_payload(packet, bytes(packet))
            packet.stream = copy
            trial.mux_one(packet)
        else:
            trial.start_encoding()
        trial.close()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def is_rebuilt(stream: Stream) -> bool:
    """True for data tracks that the muxer rebuilds from metadata: chapter titles and timecodes of QuickTime files."""
    if stream.type != "data":
        return False
    is_chapter_text = getattr(stream, "name", None) == "bin_data" and bool(stream.container.chapters())
    return is_chapter_text or "timecode" in stream.metadata


class TrackCopier:
    """Copies every track but the translated one from the source's demuxer, in step with the video.

    Attributes:
        warnings: one line for each track that the output can't hold.
    """

    def __init__(self, media: Media, output: OutputContainer, container: str) -> None:
        self.warnings: list[str] = []
        self._media = media
        self._output = output
        self._format = container
        self._refused = 0
        self._copies: dict[int, tuple[Any, str | None]] = {}  # source index -> (output stream, codec repacked to)
        self._least: dict[int, int] = {}  # output index -> the least decoding time that the next packet may have
        self._is_strict = not has_flag(output, "ts_nonstrict")
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
            elif stream.type != "video" or is_cover(stream):
                self._add(stream)
        self._output.metadata.update(copied_tags(self._demuxer.container.metadata, self._format))
        self._add_chapters()
        return video

    def advance(self, until_seconds: Fraction | None, *, is_last: bool = False) -> None:
        """Copies packets up to a time of the output, all that are left if it is None.

        Args:
            is_last: no more pictures come.
        """
        if self._demuxer is not None:
            for packet in self._demuxer.others(until_seconds, is_last=is_last):
                self._copy(packet)

    def close(self) -> None:
        """Sums up what went wrong in the other tracks."""
        if self._demuxer is not None and self._demuxer.damaged_others:
            self.warnings.append(f"{self._demuxer.damaged_others} damaged places in its other tracks")
        if self._refused:
            self.warnings.append(f"{self._refused} packets of other tracks are damaged and left out")

    # --- streams ---

    def _add(self, stream: Stream) -> None:
        if is_rebuilt(stream) or lacks_parameters(stream):  # the demuxer tells of those that begin too late
            return
        repacked = repacked_codec(codec_of(stream), self._format)
        if stream.index in self._holdable:
            repacked = None
            if self._format == "matroska" and is_cover(stream):
                self._attach_cover(stream)
                return
            copy = self._output.add_stream_from_template(stream, opaque=True)
            if stream.type == "audio":  # FFmpeg estimates it again while it reads, and it is written into files
                copy.codec_context.bit_rate = stream.codec_context.bit_rate or 0
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

    def _hint(self, stream: Stream) -> str:
        assert self._demuxer is not None
        if self._format != "matroska" and stream.index in holdable(self._demuxer, "matroska"):
            return "; -o out.mkv keeps it"
        return ""

    def _attach_cover(self, stream: Stream) -> None:
        """Matroska keeps pictures as attached files; the payload is the stream's only packet."""
        name, mime = _PICTURE_TYPES[codec_of(stream)]
        assert self._demuxer is not None
        picture = self._demuxer.first_packets.get(stream.index)
        if picture is not None:
            self._output.add_attachment(stream.metadata.get("filename", name), mime, bytes(picture))

    def _add_chapters(self) -> None:
        assert self._demuxer is not None
        chapters = self._demuxer.container.chapters()
        for chapter in chapters:
            shift = round(self._media.offset_seconds / (chapter["time_base"] or 1))
            chapter["start"] -= shift
            chapter["end"] -= shift
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
            payload = repack(bytes(packet), repacked)
            if payload is None:
                return
            packet = _with_payload(packet, payload)
        self._move_behind(packet, copy)
        packet.stream = copy
        try:
            self._output.mux_one(packet)
        except av.error.InvalidDataError:
            self._refused += 1
        except av.error.FFmpegError as error:
            if error.errno != errno.EINVAL:
                raise
            self._refused += 1

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


def _with_payload(packet: Packet, payload: bytes) -> Packet:
    return packet_of(payload, pts=packet.pts, dts=packet.dts, duration=packet.duration, time_base=packet.time_base)


# Codecs that browsers and phones play in MP4. Its muxer takes more, which only few players then read.
_PLAYABLE_IN_MP4 = {"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac", "mov_text"}


def container_for(demuxer: Demuxer, path: str) -> str:
    """Suffix of an output that keeps every track: .mp4 if that can, else Matroska's, else the source's own.

    QuickTime sources stay .mov where that can: unlike Matroska, it has a clock as fine as the source's.
    """
    own = Path(path).suffix.lower()
    pictures = {stream.index for stream in video_streams(demuxer.streams)}
    others = [s for s in demuxer.streams if s.index not in pictures and not is_rebuilt(s)]
    playable = all(is_cover(stream) or codec_of(stream) in _PLAYABLE_IN_MP4 for stream in others)
    indices = {stream.index for stream in others}
    candidates = [".mp4"] * playable + [".mov"] * (own == ".mov") + [".mkv"] + [own] * (own in CONTAINERS)
    return next((suffix for suffix in candidates if indices <= holdable(demuxer, CONTAINERS[suffix][0])), ".mkv")
