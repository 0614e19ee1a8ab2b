"""TensorRT as far as a loaded engine meets it: an engine runs a generator on the addresses that it is given.

It has the rules of the library: no shape outside of the profile, no run before the shape, the memory and all addresses
are set, no allocation of its own, no new shape while a graph is captured.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]


def tensor_at(pointer: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The host's memory at this address, in rows."""
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(pointer)
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))


class DataType(enum.Enum):
    FLOAT = torch.float32
    HALF = torch.float16


TensorIOMode = enum.Enum("TensorIOMode", ("INPUT", "OUTPUT"))
ExecutionContextAllocationStrategy = enum.Enum("ExecutionContextAllocationStrategy", ("STATIC", "USER_MANAGED"))
DynamicShapesKernelSpecializationStrategy = enum.Enum(
    "DynamicShapesKernelSpecializationStrategy", ("LAZY", "EAGER", "NONE")
)
CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ("DISABLED", "WHOLE_GRAPH_CAPTURE"))
LayerInformationFormat = enum.Enum("LayerInformationFormat", ("ONELINE", "JSON"))


class ILogger:
    class Severity(enum.IntEnum):
        ERROR = 1
        INFO = 3


class Context:
    """An IExecutionContext; `capturing` says whether a graph is captured at the moment.

    Attributes:
        config: what it was made by, a RuntimeConfig or a strategy alone.
    """

    def __init__(self, engine: Engine, config: Any) -> None:
        allocation = getattr(config, "allocation", config)
        assert allocation is ExecutionContextAllocationStrategy.USER_MANAGED
        self.engine, self.config = engine, config
        self.shape: Shape | None = None if -1 in engine.shape else engine.shape
        self.memory = 0
        self.addresses: dict[str, int] = {}
        self.streams: list[int] = []

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert not self.engine.capturing()
        self.shape, self.memory = shape, 0
        return name == self.engine.input_name

    def update_device_memory_size_for_shapes(self) -> int:
        assert self.shape is not None
        return 4 * math.prod(self.shape)

    def set_device_memory(self, pointer: int, size: int) -> None:
        assert self.shape is not None
        assert size == 4 * math.prod(self.shape)
        self.memory = pointer

    def get_tensor_shape(self, name: str) -> Shape:
        assert self.shape is not None
        scale = 1 if name == self.engine.input_name else self.engine.scale
        return (*self.shape[:2], scale * self.shape[2], scale * self.shape[3])

    def set_tensor_address(self, name: str, pointer: int) -> None:
        self.addresses[name] = pointer

    def execute_async_v3(self, stream: int) -> bool:
        assert self.shape is not None
        assert self.memory
        assert self.addresses.keys() == {self.engine.input_name, self.engine.output_name}
        self.streams.append(stream)
        image = tensor_at(self.addresses[self.engine.input_name], self.shape, self.engine.dtype)
        # What it computes goes through the memory that it was given.
        scratch = tensor_at(self.memory, self.shape, torch.float32)
        scratch.copy_(image)
        output = self.engine.run(scratch.to(self.engine.dtype))
        tensor_at(self.addresses[self.engine.output_name], output.shape, self.engine.dtype).copy_(output)
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        assert self.streams, "it is known once kernels are there"
        return self.engine.capturable


class Engine:
    """An ICudaEngine of a generator.

    Args:
        shape: of its input, -1 for sides of any size.
        convolution: the type in which its convolution reads, as the inspector tells it.
    """

    num_io_tensors = 2
    input_name, output_name = "image", "output0"

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        shape: Shape,
        *,
        dtype: torch.dtype = torch.float32,
        scale: int = 1,
        convolution: str = "Float",
    ) -> None:
        self.run, self.shape, self.dtype, self.scale = run, shape, dtype, scale
        self.convolution = convolution
        self.contexts: list[Context] = []
        self.capturable = True
        self.capturing: Callable[[], bool] = lambda: False

    @property
    def device_memory_size_v2(self) -> int:
        return 4 * math.prod(self.shape)

    def create_execution_context(self, strategy: Any) -> Context:
        assert not self.capturing()
        self.contexts.append(Context(self, strategy))
        return self.contexts[-1]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_engine_inspector(self) -> Any:
        layer = {
            "LayerType": "correlation",
            "Inputs": [{"Dimensions": [1, 3, 64, 96], "Datatype": self.convolution}],
            "Constants": [],
            "Outputs": [{"Dimensions": [1, 8, 64, 96], "Datatype": "Float"}],
        }
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": [layer]}))

    def get_tensor_name(self, index: int) -> str:
        return (self.input_name, self.output_name)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == self.input_name else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self.dtype)

    def get_tensor_shape(self, name: str) -> Shape:
        return self.shape

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Shape]:
        return [(1, 3, 64, 64), (1, 3, 256, 256), (1, 3, 2160, 3840)]


class RuntimeConfig:
    """An IRuntimeConfig of TensorRT for RTX."""

    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
    cuda_graph_strategy = CudaGraphStrategy.DISABLED
    allocation = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.allocation = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class RuntimeCache:
    """An IRuntimeCache that has compiled something once the engine has run."""

    def __init__(self) -> None:
        self.found = b""

    def deserialize(self, data: bytes) -> bool:
        self.found = data
        return True

    def serialize(self) -> bytes:
        return self.found or b"kernels"


class Runtime:
    """Loads the engines in `engines`, by their bytes."""

    engines: dict[bytes, Engine]

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        if data not in self.engines:
            self.logger.log(ILogger.Severity.ERROR, "Serialization assertion stdVersionRead == kVERSION failed\nmore")
        return self.engines.get(data)


def tensorrt_module(**engines: Engine) -> Any:
    """A stand-in for the module tensorrt or tensorrt_rtx, which can load these engines."""
    own = type("Runtime", (Runtime,), {"engines": {name.encode(): engine for name, engine in engines.items()}})
    return SimpleNamespace(
        __spec__=ModuleSpec("tensorrt", None),
        DataType=DataType,
        TensorIOMode=TensorIOMode,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
        DynamicShapesKernelSpecializationStrategy=DynamicShapesKernelSpecializationStrategy,
        CudaGraphStrategy=CudaGraphStrategy,
        LayerInformationFormat=LayerInformationFormat,
        ILogger=ILogger,
        Runtime=own,
    )
