"""Encoding in parts, each from a key frame on, so that what is done of a video is not done again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import SinkError
from engine.part_files import Part, PartPacket, PartWriter, TimestampDigest
from engine.parts import TOLERANCE, Parts
from engine.video.packet_spool import packet_of

logger = logging.getLogger("streamgan")

if TYPE_CHECKING:
    from av.packet import Packet
    from torch import Tensor

    from engine.video.video_encoder import VideoEncoder

# Mean difference of two frames, in steps of 255, that is more than motion makes.
_CUT_DIFFERENCE = 24.0


class PartKeeper:
    """Takes frames from parts that are there, and encodes the others in parts that are then there.

    Args:
        parts: of this output.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._writer: PartWriter | None = None
        self._taken: Part | None = None
        self._timestamps = TimestampDigest()
        self._made = 0  # frames of the parts of this run
        self._begin_pts = 0
        self._held: list[Packet] = []  # the last of a part that was taken: it may be the last of all
        self._thumbnail: np.ndarray | None = None
        self._time_base = Fraction(1)

    def choose_engine(self, engine: str, frame_seconds: float) -> None:
        """As `Sink.choose_engine`."""
        self._parts.choose_engine(engine, frame_seconds)

    def keeps(self, number: int) -> bool:
        """As `Sink.keeps`."""
        return self._parts.keeps(number)

    def sample(self, image: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """An image like the output's: this first one, unless that is not translated, because it is in a part."""
        if not self.keeps(0) or self._parts.picture is None:
            return image
        return np.broadcast_to(np.uint8(0), (*self._parts.picture, 3))

    def start(self, time_base: Fraction) -> None:
        """Says how many seconds a unit of timestamps has."""
        self._time_base = time_base

    def write(self, number: int, image: np.ndarray | Tensor, pts: int, encoder: VideoEncoder) -> Iterator[list[Packet]]:
        """The packets that can be written now that the frame is there.

        Args:
            number: of the frame in the source.
            image: the frame, translated unless `keeps(number)`.
            pts: in the encoder's unit.

        Raises:
            SinkError: the frames of a part have other timestamps than these.
        """
        part = self._parts.holding(number)
        if part is not None:
            if number == part.first:
                yield self.flush(encoder)
            yield from self._take(part, number, pts)
            return
        thumbnail = _thumbnail(image)
        if (self._writer is None and self._parts.is_active) or self._is_full(pts, thumbnail):
            yield self.flush(encoder)
            self._writer = self._parts.begin(number, (image.shape[0], image.shape[1]))
            self._begin_pts = pts
        self._thumbnail = thumbnail
        if self._writer is not None:
            self._writer.add_frame(pts)
        yield self._kept(encoder.encode(encoder.picture(image), pts))

    def flush(self, encoder: VideoEncoder) -> list[Packet]:
        """The packets that are still inside the encoder; the part they belong to is complete.

        Raises:
            SinkError: the source ended within a part that was taken.
        """
        if self._taken is not None:
            raise SinkError(f"the source ends before frame {self._taken.end}, which is kept: begin anew with --restart")
        packets = [*self._held, *self._kept(encoder.flush())]
        self._held = []
        if self._writer is not None:
            part = self._writer.complete()
            self._made += part.end - part.first
            self._writer = None
        return packets

    def finish(self) -> None:
        """The output is complete."""
        self._parts.remove()

    def abort(self) -> None:
        """The output stays incomplete: the part under way is not kept."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None
        self._taken = None
        if count := self._parts.frame_count + self._made:
            logger.warning("%d frames are kept in %s: the same command goes on", count, self._parts.folder)
        self._parts.close()

    def _take(self, part: Part, number: int, pts: int) -> Iterator[list[Packet]]:
        """The packets of a part, once all its frames have come."""
        if number == part.first:
            self._taken, self._timestamps = part, TimestampDigest()
        self._timestamps.add(pts)
        if number + 1 < part.end:
            return
        if str(self._timestamps) != part.timestamps:
            which = f"frames {part.first} to {number}"
            raise SinkError(f"{which} have other timestamps than when they were kept: begin anew with --restart")
        self._taken = None
        for pts, dts, is_keyframe, payload in part.packets():
            packet = packet_of(payload, pts=pts, dts=dts, duration=0, time_base=self._time_base)
            packet.is_keyframe = is_keyframe
            yield self._held
            self._held = [packet]

    def _kept(self, packets: list[Packet]) -> list[Packet]:
        if self._writer is not None:
            for packet in packets:
                self._writer.add_packet(PartPacket(packet.pts or 0, packet.dts or 0, packet.is_keyframe, bytes(packet)))
        return packets

    def _is_full(self, pts: int, thumbnail: np.ndarray | None) -> bool:
        """Whether a part more begins with this frame."""
        if self._writer is None:
            return False
        length = float((pts - self._begin_pts) * self._time_base) / self._parts.seconds
        if length < 1 - TOLERANCE:
            return False
        is_cut = False
        if thumbnail is not None and self._thumbnail is not None:
            is_cut = float(np.abs(thumbnail - self._thumbnail).mean()) > _CUT_DIFFERENCE
        return is_cut or length >= 1 + TOLERANCE


def _thumbnail(image: Any) -> np.ndarray | None:
    """Some of an image's pixels, as int16; None of one that lies on a device."""
    if not isinstance(image, np.ndarray):
        return None
    return image[:: max(1, image.shape[0] // 18), :: max(1, image.shape[1] // 32)].astype(np.int16)
