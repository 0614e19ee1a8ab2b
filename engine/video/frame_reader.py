"""Decoded frames of a file by number, without decoding what lies before the key frame that they need."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from engine.errors import SourceError
from engine.video.frame_index import FrameIndex, IrregularError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from engine.video.demuxer import Demuxer
    from engine.video.video_decoder import VideoDecoder

# Frames that can be taken again: deinterlacing needs those beside a part.
_KEPT_FRAMES = 3


class FrameReader:
    """Reads frames in their order, from any number on.

    Args:
        spec: the file, for messages.
        demuxer, decoder: of it.
        frames: what the decoder has begun to give, from the first frame on.
        index: of its frames.
        time_base: seconds per unit of the index's timestamps.

    Attributes:
        next_number: of the frame that `take` returns next.
    """

    def __init__(
        self,
        spec: str,
        demuxer: Demuxer,
        decoder: VideoDecoder,
        frames: Iterator[Any],
        index: FrameIndex,
        time_base: Fraction,
    ) -> None:
        self.next_number = 0
        self._spec = spec
        self._demuxer = demuxer
        self._decoder = decoder
        self._frames = frames
        self._index, self._time_base = index, time_base
        self._recent: collections.deque[VideoFrame] = collections.deque(maxlen=_KEPT_FRAMES)
        self._ahead: list[VideoFrame] = []  # the next one comes last

    def go_to(self, number: int) -> None:
        """Makes a frame the next one; reads on to it if that means to decode less.

        Raises:
            IrregularError: as `take`.
            SourceError: it has been read, and the index has no key frames from which it could be read again.
        """
        while number < self.next_number and self._recent:
            self._ahead.append(self._recent.pop())
            self.next_number -= 1
        key = self._index.keyframe_before(number)
        if key is not None and not key <= self.next_number <= number:
            self._seek(key)
        if number < self.next_number:
            raise SourceError(f"{self._spec}: frame {number} is asked for after frame {self.next_number}")
        while self.next_number < number:
            self.take()

    def peek(self) -> VideoFrame:
        """The next frame, which stays the next one."""
        if not self._ahead:
            self._ahead.append(self._decoded())
        return self._ahead[-1]

    def take(self) -> VideoFrame:
        """The next frame.

        Raises:
            IrregularError: it is not the one that the index says.
        """
        frame = self.peek()
        if self._index.keyframes and frame.pts != self._index.timestamps[self.next_number]:
            raise IrregularError(f"{self._spec}: frame {self.next_number} can't be decoded")
        self._ahead.pop()
        self._recent.append(frame)
        self.next_number += 1
        return frame

    def _decoded(self) -> VideoFrame:
        decoded = next(self._frames, None)
        if decoded is None:
            raise IrregularError(f"{self._spec}: ends before frame {self.next_number}")
        return decoded[0]

    def _seek(self, key: int | None) -> None:
        """Makes a key frame the next one, or an earlier one where the container knows no better."""
        while key is not None:
            wanted = self._index.timestamps[key]
            if not self._demuxer.seek(wanted * self._time_base):
                break
            self._frames = self._decoder.decode()
            self._recent.clear()
            self._ahead.clear()
            self.next_number = key
            while (pts := self.peek().pts) is not None and pts < wanted:  # of open groups of pictures, or earlier
                self._ahead.clear()
            if pts == wanted:
                return
            key = self._index.keyframe_before(key - 1)
        raise IrregularError(f"{self._spec}: frame {self.next_number} can't be found")
