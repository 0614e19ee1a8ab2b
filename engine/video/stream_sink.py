"""Live outputs: RTMP, RTSP, SRT, UDP, TCP and HLS, through FFmpeg."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import logging
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

from engine.errors import SinkError, first_line
from engine.video.base import Frame, Media, SourceInfo
from engine.video.file_sink import FileSink, failures
from engine.video.live_source import RETRY_SECONDS
from engine.video.pyav import import_av
from engine.video.ticks import Ticks
from engine.video.video_encoder import VideoEncoder

logger = logging.getLogger("streamgan")

USUAL_CRF = 23
"""Of live outputs, where the network has to keep up: `--crf` changes it."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A way to send a stream.

    Attributes:
        muxer: FFmpeg's name of it.
        suffix: of a file that holds the same video and sound.
        options: of muxer and protocol.
    """

    muxer: str
    suffix: str
    options: dict[str, str] = dataclasses.field(default_factory=dict)


# A receiver that takes nothing for so long has gone away.
_STALLED_MICROSECONDS = 10_000_000

_HLS = {"hls_time": "2", "hls_list_size": "6", "hls_flags": "delete_segments+independent_segments+temp_file"}
_RTMP = {"flvflags": "no_duration_filesize"}
PROTOCOLS = {
    "rtmp": Protocol("flv", ".flv", _RTMP),
    "rtmps": Protocol("flv", ".flv", _RTMP),
    "srt": Protocol("mpegts", ".ts"),
    "udp": Protocol("mpegts", ".ts"),
    "tcp": Protocol("mpegts", ".ts"),
    "rtsp": Protocol("rtsp", ".ts", {"rtsp_transport": "tcp"}),
    ".m3u8": Protocol("hls", ".ts", _HLS),
}
"""URL's scheme, or suffix of a playlist -> how it is sent."""


def protocol_of(spec: str) -> Protocol | None:
    """How an output is sent that is a live stream; None for files.

    Raises:
        SinkError: a URL that nothing can be sent to.
    """
    scheme, separator, _ = spec.partition("://")
    if not separator or scheme.lower() == "file":
        return PROTOCOLS[".m3u8"] if Path(spec).suffix.lower() == ".m3u8" else None
    protocol = PROTOCOLS.get(scheme.lower())
    if protocol is None:
        accepted = " ".join(f"{name}://" for name in PROTOCOLS if not name.startswith("."))
        raise SinkError(f"{spec}: nothing can be sent to {scheme}://; accepted: {accepted} or a playlist.m3u8")
    return protocol


class StreamSink(FileSink):
    """Encodes frames and sound for viewers who watch now: without B-frames, with a key frame every two seconds.

    Frames of a file are sent when they are due. A receiver that is too slow gets fewer frames of a live source, not
    older ones, because the source keeps the newest frame alone. One that goes away is connected to again.

    Args:
        spec: URL, or path of a playlist.
        info, media, audio, encoder: as those of `FileSink`; `crf` is 23 where it is None.
        patience_seconds: how long to try to connect again.

    Raises:
        SinkError: the URL's protocol is not known, or not in this FFmpeg; unknown codec.
    """

    def __init__(
        self,
        spec: str,
        *,
        info: SourceInfo,
        media: Media | None = None,
        audio: str = "convert",
        patience_seconds: float = 0.0,
        **encoder: Any,
    ) -> None:
        protocol = protocol_of(spec)
        assert protocol is not None
        self._protocol = protocol
        self._spec = spec
        self._patience_seconds = patience_seconds
        crf = USUAL_CRF if encoder.get("crf") is None else encoder["crf"]
        self._settings = encoder | {"hardware": None, "crf": crf}
        self._form = Path(f"stream{protocol.suffix}")
        super().__init__(self._form, info=info, media=media, audio=audio, **self._settings)
        self._waits: Any = None  # before it is tried again, while the receiver is away
        self._lost_at = self._try_at = 0.0
        self._left_out = self._interruptions = 0
        self._began: float | None = None
        self._is_sending = False

    def _make_file(self, path: Path, *, overwrite: bool) -> Any:
        return _NoFile(self._spec)

    def _make_encoder(self, path: Path, media: Media, settings: dict[str, Any]) -> VideoEncoder:
        return VideoEncoder(self._spec, media, suffix=path.suffix, is_live=True, **settings)

    may_hang = True

    def write(self, frame: Frame) -> None:
        """As `FileSink.write`; a frame that comes while the receiver is away is left out."""
        if not self._info.live:
            self._wait_for(frame)
        if self._waits is not None and not self._is_due():
            self._left_out += 1
            return
        self._is_sending = True
        try:
            super().write(frame)
        except _LostError as error:
            if self._began is None:
                raise SinkError(f"{self._spec}: can't be sent to ({error})") from error
            self._lose(str(error))
            self._left_out += 1
            return
        finally:
            self._is_sending = False
        self._began = self._began or time.monotonic()
        if self._waits is not None:
            logger.warning("%s: takes the stream again after %.1f s", self._spec, time.monotonic() - self._lost_at)
            self._waits = None
            self._interruptions += 1

    def finish(self, *, is_cut: bool = False) -> None:
        """Sends what is still inside the encoder, and says goodbye."""
        if self._waits is None:
            with contextlib.suppress(_LostError):
                super().finish(is_cut=is_cut)

    def abort(self) -> None:
        """As `finish`: what was sent can't be taken back. Where a receiver takes nothing, it is left as it is."""
        if self._is_sending:
            return
        with contextlib.suppress(*failures()):
            if self._has_begun and not self._is_closed:
                self._drain(self._end_seconds)
        self._hang_up()
        self._close_source()

    @property
    def warnings(self) -> list[str]:
        lines = super().warnings
        if self._interruptions:
            times = "once" if self._interruptions == 1 else f"{self._interruptions} times"
            lines.append(f"{self._spec}: its receiver went away {times} and came back")
        if self._left_out:
            lines.append(f"{self._spec}: {self._left_out} frames were not sent while its receiver was away")
        return lines

    def _open(self, file: Any) -> Any:
        protocol, url = self._protocol, self._spec
        # Seven packets of MPEG-TS fit into one of Ethernet.
        option = {"udp": "pkt_size=1316", "tcp": f"timeout={_STALLED_MICROSECONDS}"}.get(
            url.partition("://")[0].lower()
        )
        if option and option.partition("=")[0] not in url:
            url += ("&" if "?" in url else "?") + option
        return import_av().open(url, "w", format=protocol.muxer, options=protocol.options)

    def _failure(self, error: Exception) -> SinkError:
        if isinstance(error, import_av().error.ProtocolNotFoundError):
            scheme = self._spec.partition("://")[0]
            return SinkError(
                f"{self._spec}: the FFmpeg in PyAV was built without {scheme}; take another protocol, or build PyAV "
                "with an FFmpeg that has it"
            )
        return _LostError(first_line(error))

    def _lose(self, reason: str) -> None:
        """The receiver is away: everything begins again at the next try."""
        now = time.monotonic()
        if self._waits is None:
            if self._patience_seconds <= 0:
                raise SinkError(f"{self._spec}: lost after {self._frames} frames ({reason}); --reconnect tries again")
            logger.warning("%s: %s; trying again for %g s", self._spec, reason, self._patience_seconds)
            self._waits = itertools.chain(RETRY_SECONDS, itertools.repeat(RETRY_SECONDS[-1]))
            self._lost_at = now
        elif now - self._lost_at > self._patience_seconds:
            raise SinkError(f"{self._spec}: has been away for {self._patience_seconds:g} s ({reason})")
        self._try_at = now + next(self._waits)
        self._hang_up()
        self._encoder = self._make_encoder(self._form, self._media, self._settings)
        self._ticks = Ticks(None, Fraction(1))
        self._durations.clear()
        self._last_dts = self._lead = None

    def _is_due(self) -> bool:
        if self._media.demuxer is not None:  # sound of the time in which nobody hears it
            collections.deque(self._media.demuxer.others(self._end_seconds), maxlen=0)
        return time.monotonic() >= self._try_at

    def _hang_up(self) -> None:
        output, self._output, self._has_begun = self._output, None, False
        if output is not None:
            with contextlib.suppress(*failures()):
                output.close()

    def _wait_for(self, frame: Frame) -> None:
        """A file's frames come faster than they are shown."""
        if self._began is not None and frame.pts is not None and self._info.time_base is not None:
            due = self._began + float(frame.pts * self._info.time_base)
            time.sleep(max(0.0, due - time.monotonic()))


class _LostError(SinkError):
    """The receiver doesn't take what is sent."""


class _NoFile:
    """In the place of `PartialFile`, where nothing is kept.

    Attributes:
        path: the URL, for messages.
    """

    full = failure = ""

    def __init__(self, path: str) -> None:
        self.path = path

    def reserve(self, size: int) -> None:
        pass

    def tell(self) -> int:
        return 0

    def complete(self) -> None:
        pass

    def remove(self) -> None:
        pass
