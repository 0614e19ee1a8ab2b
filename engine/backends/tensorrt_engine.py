"""A loaded engine of TensorRT or TensorRT for RTX, run on torch's memory and streams.

An engine holds the weights. Each `EngineSlot` has an execution context with memory of its own, so that two frames can
be under way, each in a CUDA graph.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.base import fits
from engine.device import DEVICE_LOCK
from engine.errors import BackendError


class LoadedEngine:
    """Runs an engine with one input and one output. Its calls can be captured in a CUDA graph (see `Capturable`).

    Args:
        trt: the module tensorrt or tensorrt_rtx.
        runtime: that has loaded `engine`.
        engine: an ICudaEngine.
        example: an input like those to come, [N, 3, H, W], on the device of the engine.
        path: of the file, for messages.

    Attributes:
        input_dtype: of its input.

    Raises:
        BackendError: it takes other inputs than the example, or there is no memory to run it.
    """

    ends_in_tanh = False

    def __init__(self, trt: Any, runtime: Any, engine: Any, example: Tensor, path: Path) -> None:
        self._trt, self._runtime, self._engine = trt, runtime, engine  # contexts refer to the last two
        self.path = path
        self.input_name, self.output_name = _names(trt, engine, path)
        dtypes = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}
        self.input_dtype = dtypes[engine.get_tensor_dtype(self.input_name)]
        self.output_dtype = dtypes[engine.get_tensor_dtype(self.output_name)]
        self.require_shape(example)
        self._own_stream = torch.cuda.Stream(example.device) if example.device.type == "cuda" else None
        self._slot = self.new_slot()

    def new_slot(self) -> EngineSlot:
        """The engine with memory of its own, to run beside others."""
        return EngineSlot(self)

    def new_context(self) -> Any:
        """An IExecutionContext whose memory the caller provides; None if there is no memory for it."""
        return self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)

    def has_run(self, context: Any, stream: int) -> None:
        """Called when a context has run with a new shape for the first time, on this stream."""

    def last_error(self) -> str:
        """What the library has logged last."""
        return str(_last_error(self._runtime.logger))

    def first_non_finite(self, image: Tensor) -> str | None:
        """None: the layers of an engine can't be looked into."""
        return None

    def require_shape(self, image: Tensor) -> None:
        """Raises BackendError unless the engine takes inputs of this shape."""
        shape = tuple(self._engine.get_tensor_shape(self.input_name))
        taken = ["any" if side < 0 else side for side in shape]
        inside = fits(taken, image.shape)
        if inside and -1 in shape:
            smallest, _, largest = self._engine.get_tensor_profile_shape(self.input_name, 0)
            taken = [f"{low} to {high}" for low, high in zip(smallest, largest, strict=True)]
            inside = all(low <= side <= high for low, side, high in zip(smallest, image.shape, largest, strict=True))
        if not inside:
            raise BackendError(f"{self.path.name} takes inputs of {taken}, not of {list(image.shape)}: build it again")

    def __call__(self, image: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, C, H * scale, W * scale]
        if self._own_stream is None:
            return self._slot(image)
        # The libraries wait for the whole device on the default stream.
        here = torch.cuda.current_stream(image.device)
        self._own_stream.wait_stream(here)
        with DEVICE_LOCK, torch.cuda.stream(self._own_stream):
            output = self._slot(image)
        here.wait_stream(self._own_stream)
        return output


class EngineSlot:
    """An execution context and its memory. Calls run on the current stream, which has to be the same for all."""

    def __init__(self, engine: LoadedEngine) -> None:
        self._engine = engine
        self._context = engine.new_context()
        if self._context is None:
            raise BackendError(f"{engine.path.name} can't be run: {engine.last_error()}")
        self._shape: torch.Size | None = None
        self._output_shape: tuple[int, ...] = ()
        self._memory: Tensor | None = None

    def __call__(self, image: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, C, H * scale, W * scale]
        is_new = image.shape != self._shape
        if is_new:
            self._prepare(image)
        image = image.to(self._engine.input_dtype).contiguous()
        output = torch.empty(self._output_shape, dtype=self._engine.output_dtype, device=image.device)
        self._context.set_tensor_address(self._engine.input_name, image.data_ptr())
        self._context.set_tensor_address(self._engine.output_name, output.data_ptr())
        stream = torch.cuda.current_stream(image.device).cuda_stream if image.device.type == "cuda" else 0
        if not self._context.execute_async_v3(stream):
            raise BackendError(f"{self._engine.path.name} can't be run: {self._engine.last_error()}")
        if is_new:
            self._engine.has_run(self._context, stream)
        return output

    def _prepare(self, image: Tensor) -> None:
        """Sets the shape, and provides the memory that it needs, not that of the largest shape."""
        self._engine.require_shape(image)
        self._shape = None  # until all has succeeded
        if not self._context.set_input_shape(self._engine.input_name, tuple(image.shape)):
            raise BackendError(f"{self._engine.path.name} can't be run: {self._engine.last_error()}")
        size_bytes = self._context.update_device_memory_size_for_shapes()
        self._memory = torch.empty(max(size_bytes, 1), dtype=torch.uint8, device=image.device)
        self._context.set_device_memory(self._memory.data_ptr(), size_bytes)
        self._output_shape = tuple(self._context.get_tensor_shape(self._engine.output_name))
        self._shape = image.shape


def read_engine(path: Path) -> bytes:
    """The file's bytes; raises BackendError where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BackendError(f"can't read {path}: {error.strerror}") from error


def deserialized(runtime: Any, data: bytes, path: Path) -> Any:
    """The ICudaEngine; raises BackendError where the library refuses it."""
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BackendError(f"{path.name} can't be loaded: {_last_error(runtime.logger)}: build it again")
    return engine


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes `device` the current one, if it is a CUDA device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def new_logger(trt: Any) -> Any:
    """A logger that keeps the last error, and the layers of the last engine that was built.

    The library takes one logger in a process: the first one.
    """

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.clear()

        def clear(self) -> None:
            self.engine_layers = ""
            self._error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self._error = message
            elif message.startswith("Layers:"):
                self.engine_layers = message

        def last_error(self) -> str:
            return self._error.strip().splitlines()[0] if self._error.strip() else _NO_REASON

    return Logger()


_NO_REASON = "it gives no reason"


def _last_error(logger: Any) -> str:
    """The logger may be that of another user of the library in this process."""
    return str(logger.last_error()) if hasattr(logger, "last_error") else _NO_REASON


def _names(trt: Any, engine: Any, path: Path) -> tuple[str, str]:
    """The names of the input and the output."""
    names: dict[Any, list[str]] = {trt.TensorIOMode.INPUT: [], trt.TensorIOMode.OUTPUT: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        names[engine.get_tensor_mode(name)].append(name)
    if any(len(found) != 1 for found in names.values()):
        raise BackendError(f"{path.name} has not one input and one output: it is no generator's engine")
    return names[trt.TensorIOMode.INPUT][0], names[trt.TensorIOMode.OUTPUT][0]
