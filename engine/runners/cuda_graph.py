"""Whole frames through a generator on a device, two of them under way: upload, convert, generate, convert, download.

On CUDA the work of a frame is one graph, captured once for each frame size and started with one call; each of two slots
has a graph, pinned memory and a stream of its own, so that one frame is uploaded or downloaded while the other is
computed. Nothing else captures: our fused generators and TensorRT's engines all run in these graphs. Elsewhere the same
steps run one after another. Frames that are on the device already come as tensors, and leave as such: without upload
and download.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import memory
from engine.backends.base import Capturable
from engine.device import DEVICE_LOCK, true_float32
from engine.generators import Generator
from engine.runners.base import FrameFacts, NonFiniteError
from engine.runners.tensors import conversions

SLOTS = 2

# Shapes of frames whose graphs are kept: each holds a frame's activations twice.
_MOST_GRAPHS = 3

# Before a graph is captured: cuDNN tries its algorithms, and libraries make their handles.
_WARM_UP_RUNS = 3


@dataclasses.dataclass(frozen=True)
class FrameFormat:
    """What goes in and comes out.

    Attributes:
        shape: of the frames, [N, H, W].
        facts: how frames become the generator's input.
        dtype: that the generator runs in.
        on_device: whether frames come and leave as tensors on the device.
    """

    shape: tuple[int, int, int]
    facts: FrameFacts
    dtype: torch.dtype
    on_device: bool = False


class CudaGraphRunner:
    """Runs a generator on a device, with a graph for each shape of frames that comes.

    Args:
        run: what a backend made of `generator`, on `device`.
        generator: what it was made of.
        dtype: that it runs in.
        device: CUDA, or the CPU for what does not depend on graphs and streams.
    """

    takes_batches = True
    takes_tensors = True

    def __init__(self, run: Capturable, generator: Generator, dtype: torch.dtype, device: torch.device) -> None:
        self.facts = FrameFacts.of(generator)
        self.dtype = dtype
        self.run = run
        self.frames_under_way = SLOTS if device.type == "cuda" else 1
        self._generator = generator
        self._device = device
        # By the frames' shape, and whether they are on the device; the one used last comes last.
        self._graphs: dict[tuple[tuple[int, ...], bool], FrameRunner] = {}

    def submit(self, frames: np.ndarray | Tensor) -> Callable[[], np.ndarray | Tensor]:
        """See `Runner.submit`. The function raises NonFiniteError; the message names the layer."""
        shape, on_device = tuple(frames.shape), isinstance(frames, Tensor)
        graph = self._graphs.pop((shape, on_device), None)
        if graph is None:
            # The engine was proven on an array; what follows is of one kind.
            self._graphs.pop((shape, not on_device), None)
            while len(self._graphs) >= _MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            count, height, width = shape[:3]
            frame_format = FrameFormat((count, height, width), self.facts, self.dtype, on_device)
            graph = FrameRunner(self.run, frame_format, self._device)
        self._graphs[shape, on_device] = graph
        return graph.submit(frames)

    def needed_bytes(self, count: int, height: int, width: int) -> int:
        """See `Runner.needed_bytes`."""
        shape = (count, 3, *self.facts.padded_size(height, width))
        return self.frames_under_way * memory.activation_bytes(self._generator, shape, self.dtype)

    def release(self) -> None:
        """See `Runner.release`."""
        self._graphs.clear()


class FrameRunner:
    """Translates frames of one size with one generator.

    Args:
        generator: on `device`, in the dtype of `frame_format`.
        frame_format: of all frames.
        device: CUDA, or the CPU for trying out what does not depend on graphs and streams.
    """

    def __init__(self, generator: Capturable, frame_format: FrameFormat, device: torch.device) -> None:
        self._generator = generator
        self._device = device
        self._format = frame_format
        self._convert = conversions(device)
        make = _CapturedSlot if device.type == "cuda" else _Slot
        self._slots = [
            make(functools.partial(self._translate, generator.new_slot()), frame_format, device) for _ in range(SLOTS)
        ]
        self._next = 0

    def submit(self, frames: np.ndarray | Tensor) -> Callable[[], np.ndarray | Tensor]:
        """Starts on frames, uint8 [N, H, W, 3], which are copied, and returns a function that waits for the result.

        Frames are arrays, or tensors on the device where the format says so, and so is the result.

        Results have to be taken in the order of the submissions, and not more than `SLOTS` may be outstanding.

        The function raises:
            NonFiniteError: the generator's output holds NaN or infinity; the message names the layer.
        """
        slot = self._slots[self._next]
        self._next = (self._next + 1) % SLOTS
        slot.start(torch.from_numpy(np.ascontiguousarray(frames)) if isinstance(frames, np.ndarray) else frames)

        def result() -> np.ndarray | Tensor:
            translated = slot.finish()
            if not slot.is_finite:
                with DEVICE_LOCK:
                    raise NonFiniteError(self._explain(slot), slot.frames())
            return translated if self._format.on_device else translated.numpy()

        return result

    def _translate(self, run: Callable[[Tensor], Tensor], frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames on the device -> translated ones, and a sum that is finite only if the whole output is."""
        (_, height, width), facts = self._format.shape, self._format.facts
        image = self._convert.frames_to_tensor(
            frames, value_range=facts.input_range, size=facts.padded_size(height, width), dtype=self._format.dtype
        )
        output = run(image)
        translated = self._convert.tensor_to_frames(
            output,
            value_range=facts.output_range,
            size=(height * facts.scale, width * facts.scale),
            tanh=self._generator.ends_in_tanh,
        )
        return translated, output.sum(dtype=torch.float32)

    def _explain(self, slot: _Slot) -> str:
        image = self._convert.frames_to_tensor(
            torch.from_numpy(slot.frames()).to(self._device),
            value_range=self._format.facts.input_range,
            size=self._format.facts.padded_size(*self._format.shape[1:]),
            dtype=self._format.dtype,
        )
        layer = self._generator.first_non_finite(image)
        where = f", first in {layer}" if layer else ""
        return f"its output holds NaN or infinity{where}: the values are too large for {_name_of(self._format.dtype)}"


class _Slot:
    """Memory for one frame (or batch) under way, and the steps of its translation."""

    def __init__(
        self, translate: Callable[[Tensor], tuple[Tensor, Tensor]], frame_format: FrameFormat, device: torch.device
    ) -> None:
        count, height, width = frame_format.shape
        scale = frame_format.facts.scale
        is_cuda = device.type == "cuda"
        self._translate = translate
        self._device = device
        self._on_device = frame_format.on_device
        place: dict[str, Any] = {"device": device} if self._on_device else {"pin_memory": is_cuda}
        self._input = torch.empty((count, height, width, 3), dtype=torch.uint8, **place)
        self._output = torch.empty((count, height * scale, width * scale, 3), dtype=torch.uint8, **place)
        self._sum = torch.zeros((), dtype=torch.float32, pin_memory=is_cuda)

    def start(self, frames: Tensor) -> None:
        """Copies frames, uint8 [N, H, W, 3], and starts on them."""
        self._input.copy_(frames)
        self._launch()

    def finish(self) -> Tensor:
        """Waits for what was started; a copy of the result, uint8 [N, H * scale, W * scale, 3]."""
        self._wait()
        return self._output.clone()

    @property
    def is_finite(self) -> bool:
        """Whether the last output was finite everywhere."""
        return bool(self._sum.isfinite())

    def frames(self) -> np.ndarray:
        """A copy of what was started on last."""
        return self._input.cpu().numpy().copy()

    def _steps(self) -> None:
        translated, total = self._translate(self._input.to(self._device, non_blocking=True))
        self._output.copy_(translated, non_blocking=True)
        self._sum.copy_(total, non_blocking=True)

    def _launch(self) -> None:
        with torch.no_grad():
            self._steps()

    def _wait(self) -> None:
        pass


class _CapturedSlot(_Slot):
    """The same as one CUDA graph, on a stream of its own."""

    def __init__(
        self, translate: Callable[[Tensor], tuple[Tensor, Tensor]], frame_format: FrameFormat, device: torch.device
    ) -> None:
        super().__init__(translate, frame_format, device)
        self._stream = torch.cuda.Stream(device)
        self._done = torch.cuda.Event()
        self._graph = torch.cuda.CUDAGraph()
        self._input.random_(0, 256)  # zeros would have algorithms chosen on what never comes
        # In half precision nothing is computed in TF32; but cuDNN keeps its choice of algorithms apart by that flag, so
        # that what was chosen without measuring, for PyTorch's layers, is not taken.
        arithmetic = true_float32() if frame_format.dtype == torch.float32 else contextlib.nullcontext()
        with DEVICE_LOCK, torch.cuda.device(device), torch.no_grad(), measured_algorithms(), arithmetic:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UP_RUNS):
                    self._steps()
            self._stream.synchronize()
            # Other threads (a decoder) may allocate meanwhile, which would end a capture of any other mode.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._steps()

    def _launch(self) -> None:
        if self._on_device:  # after the copy of the frames, and that of the last result
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._graph.replay()
            self._done.record(self._stream)

    def _wait(self) -> None:
        self._done.synchronize()


@contextlib.contextmanager
def measured_algorithms() -> Iterator[None]:
    """Lets cuDNN measure which of its algorithms is the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
