"""TensorRT for RTX: engines for several GPU generations, built in about a second and on machines without a GPU.

A network is strongly typed, so that it computes in the types that its ONNX model has. It is read back before the build,
and the engine after it. The last steps of compilation happen on the GPU, when an engine is loaded there.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.backends.base import INPUT, OUTPUT, BuildOptions, CompiledGenerator, FileBackend, fits, missing
from engine.backends.tensorrt_layers import TYPE_NAMES, check_layers, engine_dtype, layers_in_text, profile_shapes
from engine.device import gpu_name
from engine.errors import BackendError
from engine.generators import Generator

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Layers whose arithmetic is nearly all of a generator's.
_HEAVY_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "NORMALIZATION")


class TensorRTForRTX(FileBackend):
    """Engines are for this machine's GPU or for `targets`; `dynamic` ones run in the range of `profile_shapes`."""

    name = "tensorrt-rtx"
    extra = "tensorrt-rtx"
    modules = ("tensorrt_rtx",)
    distributions = ("tensorrt_rtx",)
    devices = ("cuda",)
    precisions = ("fp32", "fp16", "fast")
    build_cost = "minutes"
    suffix = ".engine"
    build_modules = ("onnx",)
    export_format = "tensorrt-rtx"
    export_precision = "fp16"

    def unbuildable(self, device: torch.device) -> str | None:
        return missing(self.extra, *self.modules, *self.build_modules)  # without a GPU, for `targets`

    def version(self, device: torch.device) -> str:
        library = super().version(device)
        return f"{library}, {gpu_name(device)}" if device.type == "cuda" else library

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        """Builds an engine without TF32; returns what layers the network and the engine have, and of which types."""
        import tensorrt_rtx as trt

        from engine.backends.onnx_model import onnx_model

        dynamic, targets = options.get("dynamic", False), options.get("targets", ())
        dtype = engine_dtype(precision)
        log = _logger()
        log.clear()
        builder = trt.Builder(log)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the engine can be read back
        _set_targets(trt, config, targets)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        model = onnx_model(generator, example.to(dtype), dynamic=dynamic)
        if not parser.parse(model.SerializeToString()):
            error = parser.get_error(0)
            place = f"{error.node_operator()} {error.node_name()!r}"
            raise BackendError(f"TensorRT for RTX can't read the generator at {place}: {error.desc()}")
        facts = {"network": check_network(network, TYPE_NAMES[dtype]), "targets": list(targets)}
        if dynamic:
            profile = builder.create_optimization_profile()
            profile.set_shape(INPUT, *profile_shapes(generator, example))
            config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise BackendError(f"TensorRT for RTX can't build the engine: {log.last_error()}")
        layers = layers_in_text(log.engine_layers)
        if layers:  # another user of the library in this process may have set another logger before
            facts["engine"] = check_layers(layers, TYPE_NAMES[dtype])
        path.write_bytes(engine)
        return facts

    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        """Checks what the layers compute in. Calls run on the current stream, and overwrite what the last returned."""
        import tensorrt_rtx as trt

        dtype = TYPE_NAMES[engine_dtype(precision)]
        log = _logger()
        log.clear()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BackendError(f"can't read {path}: {error.strerror}") from error
        runtime = trt.Runtime(log)
        _check_header(trt, runtime, data, path)
        if example.device.type != "cuda":
            raise BackendError(f"TensorRT for RTX runs on CUDA devices, not on {example.device}")
        with torch.cuda.device(example.device):
            engine = runtime.deserialize_cuda_engine(data)
            if engine is None:
                raise BackendError(f"TensorRT for RTX can't load {path.name}: {log.last_error()}")
            inspector = engine.create_engine_inspector()
            check_layers(layers_in_text(inspector.get_engine_information(trt.LayerInformationFormat.ONELINE)), dtype)
            return _Context(trt, runtime, engine, example, path)


def check_network(network: Any, dtype: str) -> dict[str, Any]:
    """Counts the layers of TensorRT's network by their types, and tells what the heavy ones compute in.

    Raises:
        BackendError: a convolution or normalisation reads or writes another type than `dtype`, "FLOAT" or "HALF".
    """
    types: collections.Counter[str] = collections.Counter()
    dtypes: dict[str, set[str]] = collections.defaultdict(set)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        types[kind] += 1
        if kind not in _HEAVY_LAYERS:
            continue
        inputs = [layer.get_input(place) for place in range(layer.num_inputs)]
        outputs = [layer.get_output(place) for place in range(layer.num_outputs)]
        used = {tensor.dtype.name for tensor in (*inputs, *outputs) if tensor is not None}
        if used != {dtype}:
            raise BackendError(f"the layer {layer.name!r} ({kind}) would run in {', '.join(sorted(used))}, not {dtype}")
        dtypes[kind] |= used
    return {
        "layers": network.num_layers,
        "types": dict(types),
        "dtypes": {kind: ", ".join(sorted(names)) for kind, names in dtypes.items()},
    }


class _Context:
    """A loaded engine. Input and output keep their addresses for one size, so that calls can be in a CUDA graph."""

    def __init__(self, trt: Any, runtime: Any, engine: Any, example: Tensor, path: Path) -> None:
        self._owners = runtime, engine  # the context refers to both
        self._engine, self._path = engine, path
        self._dtype = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}[
            engine.get_tensor_dtype(OUTPUT)
        ]
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"no memory on {example.device} to run {path.name}")
        self._allocate(example)

    def _allocate(self, image: Tensor) -> None:
        _check_shape(self._engine, INPUT, image, self._path)
        self._context.set_input_shape(INPUT, tuple(image.shape))
        self._image = torch.empty(image.shape, dtype=self._dtype, device=image.device)
        self._output = torch.empty(
            tuple(self._context.get_tensor_shape(OUTPUT)), dtype=self._dtype, device=image.device
        )
        self._context.set_tensor_address(INPUT, self._image.data_ptr())
        self._context.set_tensor_address(OUTPUT, self._output.data_ptr())

    def __call__(self, image: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, C, H * scale, W * scale]
        if image.shape != self._image.shape:
            self._allocate(image)
        self._image.copy_(image)  # from any layout
        stream = torch.cuda.current_stream(image.device)
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise BackendError(f"TensorRT for RTX can't run the engine: {_logger().last_error()}")
        return self._output


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    if not targets and not torch.cuda.is_available():
        raise BackendError("there is no GPU here to build for: name targets, for example sm86 or sm89")
    known = {name.lower(): value for name, value in trt.ComputeCapability.__members__.items() if name[2:].isdigit()}
    for target in targets:
        if target.lower() not in known:
            raise BackendError(f"TensorRT for RTX builds for {', '.join(known)}, not for {target}")
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(known[target.lower()], index)


def _check_header(trt: Any, runtime: Any, data: bytes, path: Path) -> None:
    """Raises unless the file is an engine for this version of the library and this GPU. Says nothing without a GPU."""
    validity, problems = runtime.get_engine_validity(data)
    problem = trt.EngineInvalidityDiagnostics
    causes = {
        problem.MALFORMED_ENGINE: "is no engine of this version of TensorRT for RTX",
        problem.VERSION_MISMATCH: "is an engine of another version of TensorRT for RTX",
        problem.UNSUPPORTED_CC: "is an engine for other GPUs",
        problem.OLD_CUDA_DRIVER: "needs a newer driver of the GPU",
        problem.OLD_CUDA_RUNTIME: "needs a newer CUDA runtime",
        problem.INSUFFICIENT_GPU_MEMORY: "needs more GPU memory",
    }
    for bit, cause in causes.items():
        if validity == trt.EngineValidity.INVALID and problems & int(bit):
            raise BackendError(f"{path.name} {cause}: build it again")


def _check_shape(engine: Any, name: str, example: Tensor, path: Path) -> None:
    shape = tuple(engine.get_tensor_shape(name))
    taken = ["any" if side < 0 else side for side in shape]
    inside = fits(taken, example.shape)
    if inside and -1 in shape:
        smallest, _, largest = engine.get_tensor_profile_shape(name, 0)
        taken = [f"{low} to {high}" for low, high in zip(smallest, largest, strict=True)]
        inside = all(low <= side <= high for low, side, high in zip(smallest, example.shape, largest, strict=True))
    if not inside:
        raise BackendError(f"{path.name} takes inputs of {taken}, not of {list(example.shape)}: build it again")


@functools.cache
def _logger() -> Any:
    """The one logger that TensorRT takes in a process. It keeps the last error and the layers of the last engine."""
    import tensorrt_rtx as trt

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
            return self._error.strip().splitlines()[0] if self._error else "it gives no reason"

    return Logger()
