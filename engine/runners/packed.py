"""The fused CPU engine on numpy arrays, without torch: a program, and packed weights from memory or a file.

`engine.fused.lowering` makes both of a generator, in its first run. Later runs map the weights from the cache.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import BackendError, FrameSizeError
from engine.runners.base import FrameFacts

_CHANNELS = 3


class PackedRunner:
    """Runs a fused generator; from any thread.

    Args:
        weights: uint8 [bytes], `FusedGenerator.weights`, at a multiple of 64 bytes.
        program: the numbers of `FusedGenerator.program`.
        facts: how frames become its input.
        threads: how many share the work.
        frames_at_once: frames that are worked on at the same time, each by a share of the threads. Threads that share
            a frame wait for each other, which costs time where other programs or stages need the cores too.

    Raises:
        BackendError: the weights are not aligned, or program and weights don't belong together.
    """

    takes_batches = False
    takes_tensors = False

    def __init__(
        self, weights: np.ndarray, program: Sequence[int], facts: FrameFacts, *, threads: int, frames_at_once: int = 1
    ) -> None:
        self.facts = facts
        self.frames_at_once = min(frames_at_once, threads)
        # One more than are worked on, so that the next one is there.
        self.frames_under_way = self.frames_at_once + 1 if self.frames_at_once > 1 else 1
        self.weights = weights
        self.program = tuple(program)
        self.threads = threads
        self._workers = ThreadPoolExecutor(self.frames_at_once, "translate") if self.frames_at_once > 1 else None
        self.release()

    def release(self) -> None:
        """See `Runner.release`."""
        lanes = [self._lane() for _ in range(self.frames_at_once)]  # each has memory for a frame
        self._first = lanes[0]
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for lane in lanes:
            self._free.put(lane)

    def _lane(self) -> Any:
        try:
            from engine import _native
        except ImportError as error:
            raise BackendError(f"the kernels can't be loaded ({error}): run `pip install -e .` again") from error
        try:
            return _native.Generator(
                self.weights, np.array(self.program, dtype=np.int64), self.threads // self.frames_at_once
            )
        except (RuntimeError, TypeError, OverflowError) as error:
            raise BackendError(f"the packed generator can't be taken: {error}") from error

    def with_frames_at_once(self, count: int) -> PackedRunner:
        """The same weights and threads for another number of frames at the same time."""
        return PackedRunner(self.weights, self.program, self.facts, threads=self.threads, frames_at_once=count)

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
        with native_errors(image):
            return self._first.run(np.ascontiguousarray(image, dtype=np.float32))

    def translate(self, frame: np.ndarray) -> np.ndarray:
        """Translates a frame, uint8 [H, W, 3], BGR, of any size: pads, normalises, runs, rounds and crops.

        Returns:
            uint8 [H * scale, W * scale, 3].

        Raises:
            BackendError: program and weights don't belong together.
            FrameSizeError: there is no memory for it.
        """
        padded = self.facts.padded_size(frame.shape[0], frame.shape[1])
        free = self._free
        lane = free.get()
        try:
            with native_errors(frame):
                return lane.translate(
                    np.ascontiguousarray(frame), padded, self.facts.input_range, self.facts.output_range
                )
        finally:
            free.put(lane)

    def submit(self, frames: np.ndarray) -> Callable[[], np.ndarray]:
        """See `Runner.submit`."""
        if self._workers is None:
            translated = stacked([self.translate(frame) for frame in frames])
            return lambda: translated
        under_way = [self._workers.submit(self.translate, frame) for frame in frames]
        return lambda: stacked([frame.result() for frame in under_way])

    def needed_bytes(self, count: int, height: int, width: int) -> int:
        """See `Runner.needed_bytes`; raises BackendError where program and weights don't belong together."""
        try:
            each = int(self._first.workspace_bytes(self.facts.padded_size(height, width)))
        except RuntimeError as error:
            raise BackendError(str(error)) from error
        return self.frames_at_once * (each + count * _CHANNELS * height * width * self.facts.scale**2)


def stacked(frames: list[np.ndarray]) -> np.ndarray:
    """Frames [H, W, 3] as a batch [N, H, W, 3]; a single one is not copied."""
    return frames[0][None] if len(frames) == 1 else np.stack(frames)


def write_weights(weights: np.ndarray, path: Path) -> None:
    """Writes packed weights, these bytes alone: where they lie in the file decides which pages are mapped."""
    path.write_bytes(weights.data)


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
def native_errors(image: np.ndarray) -> Iterator[None]:
    """Raises the errors of native code as those of this package; `image` is [H, W, C]."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise BackendError(str(error)) from error
        height, width = image.shape[:2]
        raise FrameSizeError(
            f"no memory for a frame of {width}x{height} in this generator: use smaller frames"
        ) from error
