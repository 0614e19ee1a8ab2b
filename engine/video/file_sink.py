"""Video files: writes frames with exact timestamps and takes every other track along from the source's file."""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engine.errors import SinkError, first_line
from engine.video.base import DEFAULT_FRAME_RATE, Frame, Media, Sink, SourceInfo
from engine.video.containers import SUMS_DURATIONS, container_of, container_options
from engine.video.packet_spool import move, time_of
from engine.video.part_keeper import PartKeeper
from engine.video.partial_file import FULL_ERRORS, PartialFile, sweep
from engine.video.pyav import import_av
from engine.video.ticks import Ticks
from engine.video.tracks import TrackCopier
from engine.video.video_encoder import VideoEncoder

if TYPE_CHECKING:
    import numpy as np
    from av.packet import Packet
    from torch import Tensor

    from engine.parts import Parts
    from engine.video.late import LateTracks

logger = logging.getLogger("streamgan")

# Writing stops while there is room to close the file into one that plays: for what its muxer holds back, at most this
# much, for the index, which goes last, and for some frames that are shown before one that is written.
HELD_BYTES = 8 << 20
INDEX_BYTES_PER_PACKET = 64
LEAST_RESERVE_BYTES = 64 << 10
GAP_FRAMES = 4

# How long MP4 can show a frame, in units of its clock.
MOST_TICKS = (1 << 31) - 1


class FileSink(Sink):
    """Encodes frames into a video file that appears under its name when it is complete.

    Args:
        path: where to; the suffix chooses the container.
        info: the source's description.
        media: the source's file; None for sources without one (images, webcams).
        overwrite: replace `path` if it exists.
        audio: "convert", "copy" or "none": what becomes of sound, see `TrackCopier`.
        encoder: `crf`, `codec`, `threads` and `hardware`, see `VideoEncoder`.

    Raises:
        SinkError: unknown container or codec, codec that the container can't hold, or `path` can't be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        info: SourceInfo,
        media: Media | None = None,
        overwrite: bool = False,
        audio: str = "convert",
        **encoder: Any,
    ) -> None:
        self._format, _ = container_of(path.suffix)
        self._info = info
        self._media = media or Media(frame_rate=info.frame_rate or DEFAULT_FRAME_RATE)
        self._file = self._make_file(path, overwrite=overwrite)
        self._audio = audio
        self._encoder = self._make_encoder(path, self._media, encoder)
        self._output: Any = None
        self._is_closed = False
        self._has_begun = False  # its header is written; without it FFmpeg crashes when more is
        self._tracks: Any = None
        self._frames = self._muxed = self._last_muxed = 0
        self._muxed_bytes = self._largest_bytes = 0  # of the picture's packets
        self._last_dts: int | None = None
        self._end_seconds = Fraction(0)
        self._ticks = Ticks(None, Fraction(1))
        self._lead: int | None = None  # how far decoding runs ahead of showing, in the encoder's unit
        self._durations: dict[int, int] = {}
        self._parts: PartKeeper | None = None
        self._begin_seconds = Fraction(0)  # when the first packet is shown
        self._late_warnings: list[str] = []
        if self._media.demuxer is not None:
            self._media.demuxer.keep_others()

    def _make_file(self, path: Path, *, overwrite: bool) -> PartialFile:
        file = PartialFile(path, overwrite=overwrite)
        for part in sweep(path.parent):
            logger.warning("%s removed: a process that no longer runs has left it unfinished", part)
        return file

    def _make_encoder(self, path: Path, media: Media, settings: dict[str, Any]) -> VideoEncoder:
        return VideoEncoder(path, media, **settings)

    @property
    def hardware(self) -> str:
        return self._encoder.hardware

    def keep(self, parts: Parts) -> None:
        """Takes frames from parts that are there, and keeps more of them; to be called before the first frame."""
        self._parts = PartKeeper(parts)

    def choose_engine(self, engine: str, frame_seconds: float) -> None:
        if self._parts is not None:
            self._parts.choose_engine(engine, frame_seconds)

    def keeps(self, number: int) -> bool:
        return self._parts is not None and self._parts.keeps(number)

    def write(self, frame: Frame) -> None:
        """Encodes a frame, or takes it from its part, and copies the other tracks up to its time.

        Raises:
            SinkError: the disk is full, or the encoder or container refuses.
            FrameSizeError: the codec can't encode frames of this size, or it changed.
        """
        try:
            if self._output is None:
                self._start(frame.image if self._parts is None else self._parts.sample(frame.image))
            self._file.reserve(self._bytes_to_close())
            pts = self._pts(frame)
            if self._parts is None:
                self._mux(self._encoder.encode(self._encoder.picture(frame.image), pts))
            else:
                for packets in self._parts.write(self._frames, frame.image, pts, self._encoder):
                    self._mux(packets)
        except (import_av().error.FFmpegError, OSError, RuntimeError, ValueError) as error:
            raise self._failure(error) from error
        self._frames += 1

    def finish(self, *, is_cut: bool = False) -> Path | None:
        """Encodes what is still inside the encoder, copies the rest of the other tracks, gives the file its name."""
        if self._output is None:
            raise SinkError(f"{self._file.path}: not written, because the source gave no frame")
        try:
            end = self._end_seconds if is_cut else None
            self._drain(end)
            self._close(end)
        except (import_av().error.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        completed = self._file.complete()
        if self._parts is not None:
            self._parts.finish()
        return completed

    def abort(self) -> Path | None:
        """Closes what is done into `NAME.partial.SUFFIX`, the sound cut where the picture ends, if that plays."""
        partial = None
        if self._parts is not None:
            self._parts.abort()
        if self._has_begun:
            with contextlib.suppress(*failures()):
                if self._file.full:
                    self._fill_gaps()
                elif not self._is_closed:
                    self._drain(self._end_seconds)
            with contextlib.suppress(*failures()):
                if not self._is_closed:
                    self._close(self._end_seconds)
            if plays(self._file.reader()):
                with contextlib.suppress(SinkError):
                    partial = self._file.keep_partial()
        if partial is None:
            self._close_source()
            self._file.remove()
        return partial

    @property
    def warnings(self) -> list[str]:
        """One line for everything of the source that the output could not keep or had to change."""
        lines = list(self._encoder.warnings)
        if self._tracks is not None:
            lines += [f"{self._file.path}: {line}" for line in self._tracks.warnings + self._late_warnings]
        if self._file.failure:
            lines.append(f"{self._file.path}: the disk failed ({self._file.failure}); written to another place on it")
        if self._ticks.moved:
            lines.append(f"{self._file.path}: {self._ticks.moved} frames moved, their timestamps did not increase")
        return lines

    def _start(self, image: np.ndarray | Tensor) -> None:
        """Opens the file and the encoder for frames of this size."""
        self._output = self._open(self._file)
        self._time_base = self._encoder.prepare(image, self._output, self._info.time_base)
        self._ticks = Ticks(self._info.time_base, self._time_base)
        if self._parts is not None:
            self._parts.start(self._time_base)
        self._tracks = TrackCopier(self._media, self._output, self._format, audio=self._audio)
        self._stream = self._tracks.add_streams(lambda template: self._encoder.add_stream(self._output, template))
        self._output.start_encoding()
        self._has_begun = True

    def _bytes_to_close(self) -> int:
        """How much has to be written, at most, to close the file after what is written."""
        held = min(HELD_BYTES, max(0, self._muxed_bytes + self._tracks.bytes - self._file.tell()))
        index = INDEX_BYTES_PER_PACKET * (self._muxed + self._tracks.packets)
        return LEAST_RESERVE_BYTES + GAP_FRAMES * self._largest_bytes + held + index

    def _pts(self, frame: Frame) -> int:
        """The frame's timestamp in the encoder's unit."""
        before = self._ticks.last
        pts = self._ticks.of(frame.pts)
        if before is not None and pts - before > MOST_TICKS and self._format in SUMS_DURATIONS:
            days = float((pts - before) * self._time_base / 86400)
            raise SinkError(
                f"{self._file.path}: frame {self._frames} is {days:.1f} days later than the one before, which "
                f"{self._format} can't hold; its time is damaged, or name the output .mkv"
            )
        self._durations[pts] = duration = self._ticks.duration(frame.duration, frame.pts)
        self._end_seconds = (pts + duration) * self._time_base
        return pts

    def _mux(self, packets: list[Packet], *, is_last: bool = False) -> None:
        for packet in packets:
            # Encoders drop durations or guess them from the rate; the last one of a file can't be had from timestamps.
            packet.duration = self._durations.pop(packet.pts, 0) if packet.pts is not None else 0
            if self._last_dts is not None and packet.dts is not None and packet.dts <= self._last_dts:
                packet.dts = self._last_dts + 1  # the first of a part, where frames come at changing intervals
            self._last_dts = packet.dts
            if self._lead is None:
                self._lead = (packet.pts or 0) - (packet.dts or 0)
                self._begin_seconds = (packet.pts or 0) * self._time_base
            if is_last and packet is packets[-1] and self._format in SUMS_DURATIONS:
                # The last packet to be decoded carries what is missing to the end.
                end = round(self._end_seconds / self._time_base)
                packet.duration = max(1, end - self._lead - (packet.dts or 0))
            self._tracks.advance((packet.dts or 0) * self._time_base)
            packet.stream = self._stream
            self._muxed_bytes += packet.size
            self._largest_bytes = max(self._largest_bytes, packet.size)
            self._output.mux_one(packet)
            self._muxed += 1
            self._last_muxed = max(self._last_muxed, packet.pts or 0)
        if self._file.full and not is_last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _failure(self, error: Exception) -> SinkError:
        path, why = self._file.path, self._file.full or FULL_ERRORS.get(getattr(error, "errno", None) or 0)
        if why:  # what is still inside the encoder has no room, but for frames that are shown before others
            frames = self._muxed + sum(pts < self._last_muxed for pts in self._durations)
            return SinkError(f"{path}: {why}, after {frames} frames; free some space or use another disk")
        return SinkError(f"{path}: can't be written after {self._frames} frames ({first_line(error)})")

    def _drain(self, until_seconds: Fraction | None) -> None:
        """Writes what is still inside the encoder, and the other tracks up to that time, to their end if it is None."""
        packets = self._encoder.flush() if self._parts is None else self._parts.flush(self._encoder)
        self._mux(packets, is_last=True)
        self._tracks.advance(until_seconds, is_last=True)
        self._tracks.flush()

    def _fill_gaps(self) -> None:
        """Writes the frames that are shown before one that is written, and nothing more: there is little room."""
        packets = collections.deque(self._encoder.flush())
        while packets and self._durations and min(self._durations) < self._last_muxed:
            self._mux([packets.popleft()], is_last=True)

    def _open(self, file: PartialFile) -> Any:
        return import_av().open(
            file,
            "w",
            format=self._format,
            io_open=lambda *_: file.reader(),  # the second pass of MP4
            container_options=container_options(self._format, self._media.start_unit),
            metadata_errors="surrogateescape",
        )

    def _close(self, end_seconds: Fraction | None) -> None:
        """Completes the file; tracks that appear late end at that time, None is their own end."""
        self._tracks.close()
        demuxer = self._media.demuxer if self._audio != "none" else None
        late = demuxer.late_tracks() if demuxer is not None else None
        self._close_source()
        self._output.close()
        self._is_closed = True
        if late is not None:
            self._add_late_tracks(late, end_seconds)

    def _finished(self) -> Any:
        return import_av().open(self._file.reader(), metadata_errors="surrogateescape")

    def _add_late_tracks(self, late: LateTracks, end_seconds: Fraction | None) -> None:
        """Replaces the file by one that has them, too."""
        whole = self._file.another()
        try:
            with self._finished() as finished:
                first = next(finished.demux(video=0))
                moved = self._begin_seconds - (first.pts or 0) * first.time_base  # containers may move everything
            with self._finished() as finished:
                output = self._open(whole)
                media = Media(demuxer=late, stream_index=-1)  # type: ignore[arg-type]  # in the place of one
                tracks = TrackCopier(media, output, self._format, audio=self._audio)
                copies = tracks.add_finished(finished)
                output.start_encoding()
                for packet in finished.demux():
                    if not packet.size:
                        continue
                    move(packet, moved)
                    tracks.advance(time_of(packet))
                    packet.stream = copies[packet.stream_index]
                    output.mux_one(packet)
                tracks.advance(end_seconds, is_last=True)
                tracks.flush()
                tracks.close()
                output.close()
        except BaseException:
            whole.remove()
            raise
        self._late_warnings = tracks.warnings
        self._file.remove()
        self._file = whole

    def _close_source(self) -> None:
        if self._media.demuxer is not None:
            self._media.demuxer.close()


def failures() -> tuple[type[Exception], ...]:
    """What writing to a file may raise."""
    return (import_av().error.FFmpegError, OSError, SinkError, ValueError)


def plays(file: IO[bytes]) -> bool:
    """Whether a video file has a frame that can be decoded."""
    av = import_av()
    with contextlib.suppress(av.error.FFmpegError, OSError, ValueError, IndexError), av.open(file) as container:
        return next(container.decode(video=0), None) is not None
    return False
