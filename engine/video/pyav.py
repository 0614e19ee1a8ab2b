"""PyAV for sources and sinks: importing it late, opening files, and reading damaged ones."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import SourceError, first_line

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream

# Reading the same damaged spot again and again must end: so many failed reads in a row are the end of the file.
MAX_FAILED_READS = 50

# Timestamps that fall back this far are a clock that has restarted (joined broadcasts), not frames out of order.
CLOCK_RESET_SECONDS = 10

# How far into a file FFmpeg looks for sound that begins late, where it has not found any of a track that is announced.
LATE_TRACK_OPTIONS = {
    "scan_all_pmts": "1",
    "analyzeduration": "120000000",
    "probesize": "200000000",
}  # microseconds, bytes

# Network sources that stay silent this long have ended.
NETWORK_TIMEOUT_SECONDS = 15.0


def import_av() -> Any:
    """Returns the `av` module; a machine without it learns which package brings it."""
    try:
        import av
        import av.container
        import av.error
        import av.logging
        import av.video.reformatter
    except ImportError as error:
        raise SourceError(f"video files need PyAV, which can't be imported ({error}): pip install av") from error
    return av


def is_url(spec: str) -> bool:
    """True for what FFmpeg opens over a protocol (http, rtsp, udp...) instead of from the file system."""
    scheme, separator, _ = spec.partition("://")
    return bool(separator) and scheme.isalnum() and scheme.lower() != "file"


def open_input(spec: str, *, hwaccel: Any = None) -> InputContainer:
    """Opens a video file or URL for reading, with PyAV's description of a hardware decoder if there is one to use.

    Raises:
        SourceError: missing, empty, damaged or no media file; the message says which.
    """
    av = import_av()
    if not is_url(spec):
        _check_file(Path(spec))
    options = {"rtsp_transport": "tcp"} if spec.lower().startswith("rtsp") else {}
    timeout = NETWORK_TIMEOUT_SECONDS if is_url(spec) else None
    try:
        # A file's tags may be in any encoding: surrogateescape carries their bytes to the output unchanged.
        # Absolute, because FFmpeg takes `a:b.mp4` for a protocol `a`.
        name = spec if is_url(spec) else os.path.abspath(spec)
        settings = {"timeout": timeout, "metadata_errors": "surrogateescape", "hwaccel": hwaccel}
        container = av.open(name, "r", options=options, **settings)
        if Path(name).is_file() and any(is_undescribed(stream) for stream in container.streams.audio):
            container.close()
            container = av.open(name, "r", options=options | LATE_TRACK_OPTIONS, **settings)
        return container
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(_why_not_opened(spec, error)) from error


def _check_file(path: Path) -> None:
    if not path.exists():
        raise SourceError(f"{path}: no such file; give a video, an image, a folder, a webcam number or a URL")
    if path.is_file() and path.stat().st_size == 0:
        raise SourceError(f"{path}: the file is empty (0 bytes); copy or download it again")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: no permission to read the file")


def _why_not_opened(spec: str, error: BaseException) -> str:
    if is_url(spec) or not isinstance(error, ValueError):  # InvalidDataError is one
        return f"{spec}: can't be opened ({first_line(error)})"
    if _lacks_index(Path(spec)):
        return f"{spec}: the file is cut off or still being written (the index of an MP4, `moov`, is missing)"
    return f"{spec}: not a video file, or damaged beyond reading"


def _lacks_index(path: Path) -> bool:
    """True for an MP4 or QuickTime file that has begun well but ends before its `moov` box."""
    boxes = []
    with path.open("rb") as file:
        while len(head := file.read(16)) == 16:
            size, kind = struct.unpack(">I4s", head[:8])
            size = struct.unpack(">Q", head[8:])[0] if size == 1 else size
            boxes.append(kind)
            if size < 8:
                break
            file.seek(size - 16, os.SEEK_CUR)
    return boxes[:1] == [b"ftyp"] and b"moov" not in boxes


def is_undescribed(stream: Any) -> bool:
    """True for sound of which FFmpeg has seen nothing yet, so that it can't be written."""
    return stream.codec_context is not None and not stream.codec_context.sample_rate


def has_flag(container: InputContainer | OutputContainer, name: str) -> bool:
    """True if FFmpeg's description of the container's format has the flag, such as `variable_fps`."""
    from av.format import Flags

    return bool(container.format.flags & int(Flags[name].value))  # type: ignore[call-overload]


def video_streams(container: InputContainer) -> list[Any]:
    """The moving pictures: video streams that are no cover image or thumbnail."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in container.streams.video if not stream.disposition & still]


def indexed_frames(stream: Any) -> int:
    """Frames of a video stream that are shown by the container's index; 0 if it has none."""
    # An edit list may hide frames that the decoder needs: they are in the index, marked.
    return stream.frames - sum(entry.is_discard for entry in stream.index_entries) if stream.frames else 0


class PacketReader:
    """Reads packets to the end of a file, past damaged places, which it counts.

    Attributes:
        damaged: reads that failed, and packets that arrived incomplete.
    """

    def __init__(self, container: InputContainer, streams: list[Stream]) -> None:
        self.damaged = 0
        self._container = container
        self._streams = streams

    def __iter__(self) -> Iterator[Packet]:
        """Yields the packets, then one empty packet for each stream, which flushes its decoder."""
        av = import_av()
        failed_in_a_row = 0
        while True:
            try:
                for packet in self._container.demux(self._streams):
                    failed_in_a_row = 0
                    self.damaged += packet.is_corrupt
                    yield packet
                return
            except (av.error.FFmpegError, OSError):  # noqa: PERF203 - reading goes on behind the damage
                self.damaged += 1
                failed_in_a_row += 1
                if failed_in_a_row >= MAX_FAILED_READS:
                    break
            except IndexError:  # PyAV at the end of a file in which damage has made streams appear
                self.damaged += 1
                break
        for stream in self._streams:
            packet = av.Packet()
            packet.stream = stream
            packet.time_base = stream.time_base
            yield packet


class SteadyClock:
    """Carries a track's timestamps on where its clock falls back, as in broadcasts cut together."""

    def __init__(self, time_base: Fraction) -> None:
        self.resets = 0
        self._limit = round(CLOCK_RESET_SECONDS / time_base)
        self._shift = 0
        self._next: int | None = None

    def shift(self, stamp: int, duration: int) -> int:
        """The offset that makes a timestamp follow the one before; timestamps come in rising order but for resets."""
        if self._next is not None and stamp + self._shift < self._next - self._limit:
            self._shift = self._next - stamp
            self.resets += 1
        self._next = stamp + self._shift + duration
        return self._shift
