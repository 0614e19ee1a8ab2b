"""Encodes one part of an output after the other, where the output itself is written elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engine.errors import SinkError, first_line
from engine.part_files import MadePart, PartPacket, PartRecorder
from engine.video.base import Frame, Media, Sink, SourceInfo
from engine.video.containers import container_of, container_options
from engine.video.pyav import import_av
from engine.video.ticks import Ticks
from engine.video.video_encoder import VideoEncoder


class PartSink(Sink):
    """Encodes parts as `FileSink` does, which takes their packets. `begin` is called before the frames of each.

    Args:
        path: the output, whose suffix chooses the container.
        info, media: the source's.
        encoder: `crf` and `codec`, see `VideoEncoder`.

    Attributes:
        made: the part that is complete; None before.
    """

    def __init__(self, path: Path, info: SourceInfo, media: Media, **encoder: Any) -> None:
        self.made: MadePart | None = None
        self._path = path
        self._info = info
        self._media = media
        self._encoder = VideoEncoder(path, media, **encoder)
        self._output: Any = None
        self._before: Sequence[int] = ()
        self._picture = (0, 0)
        self._payload = io.BytesIO()

    def begin(self, before: Sequence[int]) -> None:
        """A part begins behind frames with these timestamps, in the source's unit."""
        self.made, self._before = None, before
        self._payload = io.BytesIO()
        self._recorder = PartRecorder(len(before), self._payload)

    def write(self, frame: Frame) -> None:
        """Encodes a frame.

        Raises:
            SinkError: the encoder refuses.
            FrameSizeError: the codec can't encode frames of this size, or it changed.
        """
        if self._output is None:
            self._start(frame)
        if not self._recorder.frame_count:
            self._ticks = Ticks(self._info.time_base, self._time_base)
            for stamp in self._before:
                self._ticks.of(stamp)
        pts = self._ticks.of(frame.pts)
        self._recorder.add_frame(pts)
        try:
            self._keep(self._encoder.encode(self._encoder.picture(frame.image), pts))
        except (import_av().error.FFmpegError, OSError, RuntimeError, ValueError) as error:
            raise SinkError(f"{self._path}: can't be encoded ({first_line(error)})") from error

    def finish(self, *, is_cut: bool = False) -> None:
        """Completes the part."""
        self._keep(self._encoder.flush())
        self.made = self._recorder.made(self._picture, self._payload.getvalue())

    def abort(self) -> None:
        """Drops the part."""
        self._encoder.flush()

    def _start(self, frame: Frame) -> None:
        name, _ = container_of(self._path.suffix)
        # A file that is never begun: encoders are opened as its container wants them.
        self._output = import_av().open(
            io.BytesIO(), "w", format=name, container_options=container_options(name, self._media.start_unit)
        )
        self._time_base = self._encoder.prepare(frame.image, self._output, self._info.time_base)
        self._encoder.add_stream(self._output, None)
        self._picture = (frame.image.shape[0], frame.image.shape[1])

    def _keep(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self._recorder.add_packet(PartPacket(packet.pts or 0, packet.dts or 0, packet.is_keyframe, bytes(packet)))
