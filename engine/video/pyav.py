"""PyAV for sources and sinks: importing it late, and opening files, pipes and URLs."""

from __future__ import annotations

import io
import os
import select
import stat
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import SourceError, first_line
from engine.video.transport import Transport, packet_form

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer

# Network sources that stay silent this long have ended.
NETWORK_TIMEOUT_SECONDS = 15.0


# Protocols by which pictures arrive in real time.
_LIVE_PROTOCOLS = {
    "rtsp",
    "rtsps",
    "rtmp",
    "rtmps",
    "rtmpt",
    "rtmpe",
    "rtp",
    "srtp",
    "udp",
    "srt",
    "mms",
    "mmsh",
    "rist",
}

# Streams of a broadcast may begin late. FFmpeg looks for them so far: bytes, and microseconds, fewer through a pipe
# because they may be long in coming.
BROADCAST_OPTIONS = {"probesize": str(64 << 20), "analyzeduration": str(3600 * 10**6), "scan_all_pmts": "1"}
_PIPE_OPTIONS = {**BROADCAST_OPTIONS, "analyzeduration": str(30 * 10**6)}

# What tells a transport stream, and what an MPEG-PS begins with.
SNIFFED_BYTES = 1024
_PROGRAM_STREAM = b"\0\0\1\xba"

_POLL_MS = 100


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


def is_live_protocol(container: Any, spec: str) -> bool:
    """True for a source that arrives in real time: its protocol or format says so, not a duration that is missing."""
    scheme = spec.partition("://")[0].lower()
    is_endless_list = container.format.name in ("hls", "dash") and container.duration is None
    return is_url(spec) and (scheme in _LIVE_PROTOCOLS or container.format.name == "mpjpeg" or is_endless_list)


class Pipe:
    """A pipe, FIFO or device, opened once. Python reads it for FFmpeg, so that a signal or `close` ends a wait.

    Attributes:
        head: its first bytes, which are read again.
        interruption: what a signal handler raised during a read; FFmpeg can't pass it on.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self.interruption: BaseException | None = None
        self._closed = threading.Event()
        self._fd = os.open(path, os.O_RDONLY)  # waits for a writer
        self._head = b""
        while len(self._head) < SNIFFED_BYTES and (data := self._wait_and_read(SNIFFED_BYTES - len(self._head))):
            self._head += data
        self.head = self._head

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end, or where the pipe was closed here."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        try:
            return self._wait_and_read(size)
        except BaseException as error:
            self.interruption = error
            self.close()  # FFmpeg tries again
            return b""

    def close(self) -> None:
        """Ends the reading; from any thread."""
        self._closed.set()

    def _wait_and_read(self, size: int) -> bytes:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not self._closed.is_set():
            if poll.poll(_POLL_MS):
                return os.read(self._fd, size)
        return b""

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def open_pipe(spec: str) -> Pipe | None:
    """Opens what can be read only once; None for files and URLs.

    Raises:
        SourceError: it can't be read.
    """
    path = _path_of(spec)
    try:
        if is_url(spec) or not _is_stream(os.stat(path).st_mode):
            return None
        pipe = Pipe(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"{spec}: can't be read ({error.strerror})") from error
    if not pipe.head:
        raise SourceError(f"{spec}: nothing came through it (0 bytes)")
    return pipe


def open_input(spec: str, *, hwaccel: Any = None) -> InputContainer:
    """Opens what can be read again, see `open_followed`."""
    return open_followed(spec, hwaccel=hwaccel)[0]


def open_followed(
    spec: str, *, pipe: Pipe | None = None, hwaccel: Any = None
) -> tuple[InputContainer, Transport | None]:
    """Opens a video file or URL for reading, with PyAV's description of a hardware decoder if there is one to use.

    Args:
        spec: path or URL; `-` is the standard input.
        pipe: what `open_pipe` gave for it.
        hwaccel: for the streams that hardware decodes.

    Returns:
        The open file, and what follows its streams if it is a transport stream.

    Raises:
        SourceError: missing, empty, damaged or no media file; the message says which.
    """
    av = import_av()
    path = _path_of(spec)
    if not is_url(spec) and pipe is None:
        _check_file(Path(path))
    options = {"rtsp_transport": "tcp"} if spec.lower().startswith("rtsp") else {}
    form = None
    # Absolute, because FFmpeg takes `a:b.mp4` for a protocol `a`.
    name: Any = spec if is_url(spec) else pipe if pipe is not None else os.path.abspath(path)
    try:
        if not is_url(spec):
            form = packet_form(pipe.head if pipe is not None else _head(path))
            if pipe is not None and (form or pipe.head.startswith(_PROGRAM_STREAM)):
                options |= _PIPE_OPTIONS
        opened, transport = _open(name, form, options, hwaccel)
        is_file = pipe is None and not is_url(spec)
        if is_file and has_flag(opened, "ts_discont") and any(map(lacks_parameters, opened.streams)):
            opened.close()
            opened, transport = _open(name, form, options | BROADCAST_OPTIONS, hwaccel)
        return opened, transport
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(_why_not_opened(spec, error)) from error
    finally:
        if pipe is not None and pipe.interruption is not None:
            raise pipe.interruption


def _open(
    name: Any, form: tuple[int, int] | None, options: dict[str, str], hwaccel: Any
) -> tuple[InputContainer, Transport | None]:
    transport = None
    if form is not None:
        transport = Transport(io.FileIO(name) if isinstance(name, str) else name, form)
    timeout = NETWORK_TIMEOUT_SECONDS if isinstance(name, str) and is_url(name) else None
    # A file's tags may be in any encoding: surrogateescape carries their bytes to the output unchanged.
    opened = import_av().open(
        transport or name, "r", options=options, timeout=timeout, metadata_errors="surrogateescape", hwaccel=hwaccel
    )
    return opened, transport


def lacks_parameters(stream: Any) -> bool:
    """True for a stream of which FFmpeg knows that it is there, but not what is in it: it begins late."""
    context = stream.codec_context
    if context is None or stream.type not in ("video", "audio"):
        return False
    return not (context.width if stream.type == "video" else context.sample_rate)


def _path_of(spec: str) -> str:
    return "/dev/stdin" if spec == "-" else spec


def _is_stream(mode: int) -> bool:
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(SNIFFED_BYTES)


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
    if Path(spec).is_file() and _lacks_index(Path(spec)):
        return f"{spec}: the file is cut off or still being written (the index of an MP4, `moov`, is missing)"
    return f"{spec}: not a video file, or damaged beyond reading"


def _lacks_index(path: Path) -> bool:
    """True for an MP4 or QuickTime file that has begun well but ends before its `moov` box."""
    boxes, begin, end = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while begin < end:
            file.seek(begin)
            head = file.read(16).ljust(16, b"\0")
            size, kind = struct.unpack(">I4s", head[:8])
            size = struct.unpack(">Q", head[8:])[0] if size == 1 else size
            boxes.append(kind)
            if size < 8:
                break
            begin += size
    return boxes[:1] == [b"ftyp"] and b"moov" not in boxes


def has_flag(container: InputContainer | OutputContainer, name: str) -> bool:
    """True if FFmpeg's description of the container's format has the flag, such as `variable_fps`."""
    from av.format import Flags

    return bool(container.format.flags & int(Flags[name].value))  # type: ignore[call-overload]


def video_streams(streams: Iterable[Any]) -> list[Any]:
    """The moving pictures: video streams that are no cover image or thumbnail."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails
    return [stream for stream in streams if stream.type == "video" and not stream.disposition & still]


def indexed_frames(stream: Any) -> int:
    """Frames of a video stream that are shown by the container's index; 0 if it has none."""
    # An edit list may hide frames that the decoder needs: they are in the index, marked.
    return stream.frames - sum(entry.is_discard for entry in stream.index_entries) if stream.frames else 0
