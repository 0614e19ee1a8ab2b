"""What runs frames: uint8 frames in, uint8 frames out. Needs no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from engine.errors import BackendError, EngineError
from engine.sizes import padded_size


@dataclasses.dataclass(frozen=True)
class FrameFacts:
    """How frames become a generator's input, and its output frames again.

    Attributes:
        input_range, output_range: (low, high), the values that 0 and 255 stand for.
        multiple: both sides of the input are multiples of it.
        minimum_size: neither side of the input is smaller, in pixels.
        scale: output size over input size.
    """

    input_range: tuple[float, float]
    output_range: tuple[float, float]
    multiple: int
    minimum_size: int
    scale: int

    @classmethod
    def of(cls, generator: Any) -> FrameFacts:
        """The facts of an `engine.generators.Generator`."""
        return cls(**{field.name: getattr(generator, field.name) for field in dataclasses.fields(cls)})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FrameFacts:
        """The inverse of `dataclasses.asdict`; raises BackendError for anything else."""
        try:
            (in_low, in_high), (out_low, out_high) = values["input_range"], values["output_range"]
            facts = cls(
                input_range=(float(in_low), float(in_high)),
                output_range=(float(out_low), float(out_high)),
                multiple=int(values["multiple"]),
                minimum_size=int(values["minimum_size"]),
                scale=int(values["scale"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BackendError("the kept generator's description is damaged") from error
        if min(facts.multiple, facts.minimum_size, facts.scale) < 1:
            raise BackendError("the kept generator's description is damaged")
        return facts

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the input for a frame of this height and width."""
        return padded_size(self, height, width)


class Runner(Protocol):
    """Runs one generator on frames.

    Attributes:
        facts: how frames become its input.
        frames_under_way: how many submissions may wait for their results; ask for these in order.
        takes_batches: whether several frames in one call can be faster than one at a time.
        takes_tensors: whether frames may be tensors on its device, which the results are then too.
    """

    facts: FrameFacts
    frames_under_way: int
    takes_batches: bool
    takes_tensors: bool

    def submit(self, frames: Any) -> Callable[[], Any]:
        """Starts to translate frames, and returns a function that waits for the result.

        Args:
            frames: uint8 [N, H, W, 3], BGR, any H and W; may be changed once this returns, unless several are under
                way on the CPU.

        The function returns uint8 [N, H * scale, W * scale, 3].

        Raises:
            EngineError, RuntimeError, MemoryError: here or from the function.
        """

    def needed_bytes(self, count: int, height: int, width: int) -> int:
        """Memory that `count` frames of this height and width take beside the weights, estimated."""

    def release(self) -> None:
        """Frees the memory that is kept between frames; the next frame takes it again."""


class NonFiniteError(EngineError):
    """A frame's translation holds NaN or infinity.

    Attributes:
        frames: what was to be translated, uint8 [N, H, W, 3].
    """

    def __init__(self, message: str, frames: np.ndarray) -> None:
        super().__init__(message)
        self.frames = frames


@dataclasses.dataclass(frozen=True)
class RunnerInfo:
    """What is known of a generator made ready for frames of one size.

    Attributes:
        backend, precision: what it runs on and in.
        parity_db: PSNR against eager float32 on the frame it was proven on; infinite for eager float32 itself.
        frame_ms: measured time of one frame, conversions included.
        ready_seconds: how long building or loading it took.
        is_stand_in: whether it only replaces the chosen engine on a frame that is nearly uniform.
        proven_before: whether it was proven in an earlier run, on a frame of the same size.
    """

    backend: str
    precision: str
    _: dataclasses.KW_ONLY
    parity_db: float = math.inf
    frame_ms: float = math.nan
    ready_seconds: float = 0.0
    is_stand_in: bool = False
    proven_before: bool = False

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"

    @property
    def runs_float32(self) -> bool:
        """Whether it is eager float32, which also translates nearly uniform frames."""
        return (self.backend, self.precision) == ("eager", "fp32")

    @property
    def fingerprint(self) -> str:
        """The same for engines that make the same of a frame."""
        return str(self)


@dataclasses.dataclass(frozen=True)
class Engine(RunnerInfo):
    """A runner, and what is known of it."""

    runner: Runner

    @property
    def fingerprint(self) -> str:
        program = getattr(self.runner, "program", None)  # of the fused engine: algorithms differ in their roundings
        if program is None:
            return str(self)
        return f"{self} {hashlib.sha256(repr(list(program)).encode()).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One line of the table that `--explain` shows.

    Attributes:
        frame_ms, parity_db, ready_seconds: as in RunnerInfo; None if it was not tried.
        remark: why it was not tried or does not run.
        chosen: whether it is the one that runs.
    """

    backend: str
    precision: str
    frame_ms: float | None = None
    parity_db: float | None = None
    ready_seconds: float | None = None
    remark: str = ""
    chosen: bool = False

    @classmethod
    def of(cls, info: RunnerInfo, *, chosen: bool) -> Measurement:
        """The line of an engine that was tried."""
        return cls(
            info.backend,
            info.precision,
            frame_ms=info.frame_ms,
            parity_db=info.parity_db,
            ready_seconds=info.ready_seconds,
            chosen=chosen,
        )


def describe_measurements(rows: list[Measurement]) -> list[str]:
    """The lines of a table for people."""
    lines = [f"  {'engine':<20} {'ms a frame':>10} {'parity':>9} {'ready in':>9}"]
    for row in rows:
        name = f"{'*' if row.chosen else ' '} {row.backend} {row.precision}"
        if row.frame_ms is None:
            lines.append(f"{name:<22} {row.remark}")
            continue
        parity = "" if row.parity_db is None else "exact" if math.isinf(row.parity_db) else f"{row.parity_db:.1f} dB"
        lines.append(f"{name:<22} {row.frame_ms:>10.1f} {parity:>9} {row.ready_seconds or 0.0:>7.1f} s")
    return lines
