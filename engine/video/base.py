"""The contract between sources, pipeline and sinks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine.video.color import Color

if TYPE_CHECKING:
    from torch import Tensor

    from engine.video.cut import Cut
    from engine.video.demuxer import Demuxer

DEFAULT_FRAME_RATE = Fraction(25)


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture on its way through the pipeline.

    Attributes:
        image: uint8 [H, W, 3] in OpenCV's BGR order, upright: an array, or a tensor where the frame stays on the device
            that translates it. What is queued on the device's default stream comes after it.
        pts: presentation timestamp in units of `SourceInfo.time_base`; None where the source has no clock (images).
        duration: how long it is shown, in the same unit; 0 if the source does not say.
        name: file name of the picture where each frame is a file of its own, else "".
        captured_seconds: `time.perf_counter()` at capture, live sources only.
    """

    image: np.ndarray | Tensor
    pts: int | None = None
    duration: int = 0
    name: str = ""
    captured_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class SourceInfo:
    """A source's properties, known before its first frame.

    Attributes:
        name: what to call it in messages.
        width, height: size of the upright picture in pixels.
        frame_count: number of frames, exact or the container's estimate; None if unknown or endless.
        frame_rate: average frames per second; None if the source has no clock.
        time_base: seconds per unit of `Frame.pts`; None if the source has no clock.
        live: frames arrive in real time: the newest wins, late ones are dropped and counted.
    """

    name: str
    width: int
    height: int
    frame_count: int | None = None
    frame_rate: Fraction | None = None
    time_base: Fraction | None = None
    live: bool = False


@dataclasses.dataclass(frozen=True)
class Media:
    """The properties of the source's file that an output has to keep.

    Attributes:
        demuxer: what the other tracks' packets are taken from; None if there are none.
        stream_index: which of its streams the frames come from.
        color: how the output stores its colours.
        has_low_chroma: the pictures' colours lie half a row too low, see `engine.video.color.is_placed_low`.
        sample_aspect_ratio: width of a pixel over its height; None if unknown or square.
        offset_seconds: subtracted from every timestamp of the source, all tracks alike.
        frame_rate: average, for encoders that want to know.
        tick_rate: at which all frames lie on a tick, for containers that know nothing but a constant rate.
        start_unit: parts of a second in which the start of every track is a whole number, at least 1000.
        cut: the range of the source that is in the output; None is all.
    """

    demuxer: Demuxer | None = dataclasses.field(default=None, compare=False)
    stream_index: int = 0
    color: Color = Color()  # noqa: RUF009 - frozen
    has_low_chroma: bool = False
    sample_aspect_ratio: Fraction | None = None
    offset_seconds: Fraction = Fraction(0)
    frame_rate: Fraction = DEFAULT_FRAME_RATE
    tick_rate: Fraction | None = None
    start_unit: int = 1000
    cut: Cut | None = None


class Source(Protocol):
    """Yields frames. Iterated once, from one thread; `close` may be called from another and ends the iteration."""

    info: SourceInfo

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...

    @property
    def missing(self) -> int:
        """Pictures of a folder that could not be read."""
        return 0

    @property
    def dropped(self) -> int:
        """Frames of a live source that were not taken, because a newer one came first or the end."""
        return 0

    @property
    def warnings(self) -> list[str]:
        """One line for each kind of trouble met so far (corrupt packets skipped, frames dropped), with counts."""
        return []

    @property
    def hardware(self) -> str:
        """The hardware that has decoded frames; "" where software did."""
        return ""


class Sink(Protocol):
    """Takes frames in presentation order, from one thread. By default a sink keeps nothing.

    Attributes:
        needs_calling_thread: frames must come from the thread that called the pipeline, as windows want it.
        may_hang: `write` may wait for others without end; who stops the pipeline does not wait for it.
    """

    needs_calling_thread: bool = False
    may_hang: bool = False

    def choose_engine(self, engine: str, frame_seconds: float) -> None:
        """Says what translates the frames from now on, and how long one takes it; before `keeps` is asked.

        Raises:
            SinkError: what it keeps was translated by another engine.
        """
        return None

    def keeps(self, number: int) -> bool:
        """Whether it has a frame of the source already, the first being 0: that one comes as it is, untranslated."""
        return False

    def write(self, frame: Frame) -> None: ...

    def finish(self, *, is_cut: bool = False) -> Path | None:
        """Completes the output and gives it its final name; returns that (None: nothing is kept).

        Args:
            is_cut: the source has more frames than were asked for, so other tracks end where the picture does.
        """
        return None

    def abort(self) -> Path | None:
        """Closes what is done so far into a readable file whose name says it is partial; returns it (None: nothing)."""
        return None

    @property
    def missing(self) -> int:
        """Pictures for a folder that could not be written."""
        return 0

    @property
    def warnings(self) -> list[str]:
        """One line for everything of the source that the output could not keep or had to change."""
        return []

    @property
    def hardware(self) -> str:
        """The hardware encoder in use; "" where it is software."""
        return ""


class StopStream(Exception):  # noqa: N818 - the user's wish, not an error
    """Raised by `Sink.write` where the user ended the show (closed the window, pressed q or Esc). Not an error."""
