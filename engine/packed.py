"""Fused generators that run on numpy arrays, without torch: packed weights in a file, and what else is to be known.

What `engine.fuse` makes of a generator is weights and a program. With the ranges and sizes of the generator they are
all that translating takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import BackendError, FrameSizeError

if TYPE_CHECKING:
    from engine.fuse_program import FusedGenerator
    from engine.generators import Generator

_CHANNELS = 3


@dataclasses.dataclass(frozen=True)
class PackedFacts:
    """What a packed generator is, beside its weights.

    Attributes:
        program: `FusedGenerator.program`.
        input_range, output_range: (low, high), what 0 and 255 stand for.
        multiple: both sides of its input are multiples of it.
        minimum_size: neither side is smaller, in pixels.
        scale: output size over input size.
    """

    program: tuple[int, ...]
    input_range: tuple[float, float]
    output_range: tuple[float, float]
    multiple: int
    minimum_size: int
    scale: int

    @classmethod
    def of(cls, fused: FusedGenerator, generator: Generator) -> PackedFacts:
        """Of what `fuse` has made of a generator."""
        return cls(
            program=tuple(fused.program.tolist()),
            input_range=generator.input_range,
            output_range=generator.output_range,
            multiple=generator.multiple,
            minimum_size=generator.minimum_size,
            scale=generator.scale,
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PackedFacts:
        """From what `to_dict` gave; raises BackendError where it is something else."""
        try:
            facts = cls(
                program=tuple(int(number) for number in values["program"]),
                input_range=_pair(values["input_range"]),
                output_range=_pair(values["output_range"]),
                multiple=int(values["multiple"]),
                minimum_size=int(values["minimum_size"]),
                scale=int(values["scale"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BackendError("the packed generator's description is damaged") from error
        if min(facts.multiple, facts.minimum_size, facts.scale) < 1:
            raise BackendError("the packed generator's description is damaged")
        return facts


class PackedGenerator:
    """A fused generator ready to run; from any thread.

    Args:
        weights: uint8 [bytes], `FusedGenerator.weights`, at a multiple of 64 bytes.
        threads: that share the work.
        frames_at_once: how many frames are worked on at the same time, each by a share of the threads. Where other
            programs or stages need the cores too, threads that work on one frame wait for each other.

    Raises:
        BackendError: the weights lie elsewhere.
    """

    def __init__(self, weights: np.ndarray, facts: PackedFacts, *, threads: int, frames_at_once: int = 1) -> None:
        try:
            from engine import _native
        except ImportError as error:
            raise BackendError(f"the kernels can't be loaded ({error}): run `pip install -e .` again") from error
        self.facts = facts
        self.frames_at_once = min(frames_at_once, threads)
        program, share = np.array(facts.program, dtype=np.int64), threads // self.frames_at_once
        try:
            lanes = [_native.Generator(weights, program, share) for _ in range(self.frames_at_once)]
        except (RuntimeError, TypeError, OverflowError) as error:
            raise BackendError(f"the packed generator can't be taken: {error}") from error
        self._native = lanes[0]
        self._free: queue.SimpleQueue[_native.Generator] = queue.SimpleQueue()
        for lane in lanes:
            self._free.put(lane)
        self._workers = ThreadPoolExecutor(self.frames_at_once, "translate") if self.frames_at_once > 1 else None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Runs the generator alone.

        Args:
            image: float32 [H, W, 3], RGB, in the input range; sides as the generator takes them.

        Returns:
            float32 [H * scale, W * scale, channels], in the output range.

        Raises:
            BackendError: program and weights don't belong together, or it can't take that image.
            FrameSizeError: there is no memory for it.
        """
        with told(image):
            return self._native.run(np.ascontiguousarray(image, dtype=np.float32))

    def translate(self, frame: np.ndarray) -> np.ndarray:
        """Translates a frame, uint8 [H, W, 3], BGR, of any size: pads, normalises, runs, rounds and crops.

        Returns:
            uint8 [H * scale, W * scale, 3].

        Raises:
            BackendError: program and weights don't belong together.
            FrameSizeError: there is no memory for it.
        """
        padded = self.padded_size(frame.shape[0], frame.shape[1])
        lane = self._free.get()
        try:
            with told(frame):
                return lane.translate(
                    np.ascontiguousarray(frame), padded, self.facts.input_range, self.facts.output_range
                )
        finally:
            self._free.put(lane)

    def submit(self, frame: np.ndarray) -> Callable[[], np.ndarray]:
        """Begins to translate a frame, which is not to be changed until then; the result waits for it.

        Raises:
            BackendError, FrameSizeError: as `translate`, when the result is asked for.
        """
        if self._workers is None:
            translated = self.translate(frame)
            return lambda: translated
        return self._workers.submit(self.translate, frame).result

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the image that the generator gets for a frame of this height and width."""
        multiple, smallest = self.facts.multiple, self.facts.minimum_size
        padded_height, padded_width = (-(-max(side, smallest) // multiple) * multiple for side in (height, width))
        return padded_height, padded_width

    def needed_bytes(self, height: int, width: int) -> int:
        """Memory that frames of this height and width take beside the weights.

        Raises:
            BackendError: program and weights don't belong together.
        """
        padded = self.padded_size(height, width)
        try:
            each = self._native.workspace_bytes(padded) + _CHANNELS * height * width * self.facts.scale**2
        except RuntimeError as error:
            raise BackendError(str(error)) from error
        return self.frames_at_once * each


def write_weights(fused: FusedGenerator, path: Path) -> None:
    """Writes the weights of a fused generator, these bytes alone: where they lie decides which pages are mapped."""
    with path.open("wb") as file:
        file.write(fused.weights.numpy().data)


def read_weights(path: Path) -> np.ndarray:
    """The weights in a file, mapped into memory: uint8 [bytes].

    Raises:
        BackendError: it holds none.
    """
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise BackendError(f"{path} holds no packed weights: {error}") from error


@contextlib.contextmanager
def told(image: np.ndarray) -> Iterator[None]:
    """What goes wrong inside, as the errors of this package."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise BackendError(str(error)) from error
        height, width = image.shape[:2]
        raise FrameSizeError(
            f"no memory for a frame of {width}x{height} in this generator: use smaller frames"
        ) from error


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
