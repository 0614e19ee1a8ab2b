"""What is sent to browsers: each translated frame is encoded once, for all who watch."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.video.frame import PictureType

from engine.serve.sessions import Session, Translated
from engine.video.color import MATRIX_SMPTE170M, Color, FromBgr

logger = logging.getLogger("streamgan")

TIME_BASE = Fraction(1, 90000)

# WebRTC's name of a codec -> FFmpeg's encoder and its options for little delay.
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "H264": (
        "libx264",
        {
            "preset": "superfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "level": "3.1",
            "crf": "23",
            "maxrate": "4M",
            "bufsize": "1M",
            "threads": "1",
        },
    ),
    "VP8": (
        "libvpx",
        {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "b": "2500k", "error-resilient": "1"},
    ),
}

# What browsers take pictures of this size for that do not say: VP8 can't.
_COLOR = Color(matrix=MATRIX_SMPTE170M)

# A browser that has lost packets asks for a key frame; one comes anyway after so many frames.
_KEY_INTERVAL = 300

# Packets that may wait for a viewer before what waits is dropped up to the next key frame.
_MOST_WAITING = 3


class Viewer(MediaStreamTrack):
    """The track that one browser is sent: packets of the broadcast.

    Args:
        codec: WebRTC's name of what the browser decodes, a key of `ENCODERS`.
        want_key: asks the encoder for a key frame.
    """

    kind = "video"

    def __init__(self, codec: str, want_key: Callable[[], None]) -> None:
        super().__init__()
        self.codec = codec
        self.dropped = 0
        self._want_key = want_key
        self._packets: asyncio.Queue[av.Packet | None] = asyncio.Queue()
        self._needs_key = True

    def push(self, packet: av.Packet) -> None:
        """Takes a packet, in the event loop's thread. A slow viewer gets fewer frames, not older ones."""
        if self._packets.qsize() >= _MOST_WAITING:
            while not self._packets.empty():
                self._packets.get_nowait()
                self.dropped += 1
            self._needs_key = True
        if self._needs_key and not packet.is_keyframe:
            self.dropped += 1
            self._want_key()
            return
        self._needs_key = False
        self._packets.put_nowait(packet)

    async def recv(self) -> Any:
        """The next packet, as aiortc's sender takes it.

        Raises:
            MediaStreamError: the track has ended.
        """
        packet = await self._packets.get() if self.readyState == "live" else None
        if packet is None:
            raise MediaStreamError
        return packet

    def stop(self) -> None:
        """Ends the track."""
        super().stop()
        self._packets.put_nowait(None)


class Broadcast:
    """Encodes a session's translated frames, the newest ones, in a thread of its own.

    Args:
        session: whose frames.
        loop: where the viewers' tracks are.
    """

    def __init__(self, session: Session, loop: asyncio.AbstractEventLoop) -> None:
        self.viewers: set[Viewer] = set()
        self._session, self._loop = session, loop
        self._encoders: dict[str, Any] = {}
        self._size = (0, 0)
        self._from_bgr = FromBgr(_COLOR, "yuv420p")
        self._newest: Translated | None = None
        self._changed = threading.Condition()
        self._wants_key = self._has_ended = False
        self._thread = threading.Thread(target=self._run, name="encode", daemon=True)
        session.deliver = self._put
        self._thread.start()

    def add(self, codec: str) -> Viewer:
        """A track for one more browser."""
        viewer = Viewer(codec, self.want_key)
        self.viewers.add(viewer)
        self.want_key()
        return viewer

    def remove(self, viewer: Viewer) -> None:
        """Ends a browser's track."""
        self.viewers.discard(viewer)
        viewer.stop()

    def want_key(self) -> None:
        """The next frame becomes a key frame."""
        self._wants_key = True

    def stop(self) -> None:
        """Takes no more frames."""
        with self._changed:
            self._has_ended = True
            self._changed.notify()

    def _put(self, translated: Translated) -> None:
        with self._changed:
            if self._newest is not None or self._has_ended:
                self._session.note_dropped()
            if self._has_ended:
                return
            self._newest = translated
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._has_ended)
                newest, self._newest = self._newest, None
            if newest is None:
                self._encoders.clear()
                return
            try:
                self._send(newest)
                self._session.note_shown(newest)
            except (av.error.FFmpegError, ValueError) as error:
                self._session.note_dropped()
                self._session.failure = f"can't be encoded ({error})"
                logger.warning("a session's pictures can't be encoded: %s", error)
                self.stop()

    def _send(self, translated: Translated) -> None:
        height, width = translated.image.shape[:2]
        if (width, height) != self._size:
            self._size, self._encoders, self._from_bgr = (width, height), {}, FromBgr(_COLOR, "yuv420p")
        picture = self._from_bgr(translated.image)
        picture.pts, picture.time_base = translated.pts, TIME_BASE
        is_key, self._wants_key = self._wants_key, False
        picture.pict_type = PictureType.I if is_key else PictureType.NONE
        for codec in {viewer.codec for viewer in list(self.viewers)}:
            if codec not in self._encoders:
                self._encoders[codec] = _encoder(codec, *self._size)
            for packet in self._encoders[codec].encode(picture):
                self._loop.call_soon_threadsafe(self._share, codec, packet)

    def _share(self, codec: str, packet: av.Packet) -> None:
        for viewer in self.viewers:
            if viewer.codec == codec:
                viewer.push(packet)


def _encoder(codec: str, width: int, height: int) -> Any:
    name, options = ENCODERS[codec]
    encoder: Any = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = TIME_BASE, Fraction(30)
    encoder.gop_size, encoder.max_b_frames = _KEY_INTERVAL, 0
    encoder.colorspace, encoder.color_range = _COLOR.matrix, _COLOR.range
    encoder.options = options
    encoder.open()
    return encoder
