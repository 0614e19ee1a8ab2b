"""TensorRT for RTX: engines for several GPU generations, built in about a second and on machines without a GPU.

A network is strongly typed, so that it computes in the types that its ONNX model has. It is read back before the build,
and the engine after it. The last steps of compilation happen on the GPU, when an engine first runs there with a size;
what they made is kept in a file beside the engine.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.backends.base import INPUT, BuildOptions, CompiledGenerator, FileBackend, load_module, missing
from engine.backends.tensorrt_engine import LoadedEngine, deserialized, new_logger, on_device, read_engine
from engine.backends.tensorrt_layers import TYPE_NAMES, check_layers, engine_dtype, layers_in_text, profile_shapes
from engine.device import DEVICE_LOCK, gpu_architecture, gpu_name
from engine.errors import BackendError
from engine.files import written_beside
from engine.generators import Generator

if TYPE_CHECKING:
    from typing_extensions import Unpack

TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""The GPU architectures that it builds for; it has no others."""

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
    is_captured = True
    suffix = ".engine"
    build_modules = ("onnx",)
    export_format = "tensorrt-rtx"
    export_precision = "fp16"

    def unavailable(self, device: torch.device) -> str | None:
        reason = super().unavailable(device)
        if reason is not None or not torch.cuda.is_available():
            return reason
        found = gpu_architecture(device)
        return None if found in TARGETS else f"runs on GPUs of {', '.join(TARGETS)}, and this one is {found}"

    def unbuildable(self, device: torch.device) -> str | None:
        return missing(self.extra, *self.modules, *self.build_modules)  # without a GPU, for `targets`

    def version(self, device: torch.device) -> str:
        library = super().version(device)
        return f"{library}, {gpu_name(device)}" if device.type == "cuda" else library

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        """Builds an engine without TF32; returns what layers the network and the engine have, and of which types."""
        trt = load_module("tensorrt_rtx")

        from engine.backends.onnx_model import onnx_model

        dynamic, targets = options.get("dynamic", False), options.get("targets", ())
        dtype = engine_dtype(precision)
        log = _logger()
        log.clear()
        builder = trt.Builder(log)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # so that it can be captured in a CUDA graph
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
        """Checks what the layers compute in."""
        data = read_engine(path)
        trt = load_module("tensorrt_rtx")
        dtype = TYPE_NAMES[engine_dtype(precision)]
        log = _logger()
        log.clear()
        with DEVICE_LOCK, on_device(example.device):
            runtime = trt.Runtime(log)
            _check_header(trt, runtime, data, path)
            if example.device.type != "cuda":
                raise BackendError(f"TensorRT for RTX runs on CUDA devices, not on {example.device}")
            engine = deserialized(runtime, data, path)
            inspector = engine.create_engine_inspector()
            check_layers(layers_in_text(inspector.get_engine_information(trt.LayerInformationFormat.ONELINE)), dtype)
            return RTXEngine(trt, runtime, engine, example, path, self.version(example.device))


class RTXEngine(LoadedEngine):
    """An engine, and the kernels that were compiled for it on this GPU, which later processes read from a file.

    Args:
        version: of the library and the GPU: the kernels of others are not read.
    """

    def __init__(self, trt: Any, runtime: Any, engine: Any, example: Tensor, path: Path, version: str) -> None:
        self._kernels_path = path.with_name(f"{path.name}.{hashlib.sha256(version.encode()).hexdigest()[:8]}.kernels")
        self._config = engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # Kernels of the size that runs, from the first run on: lazy ones come later, and a graph would not have them.
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._config.dynamic_shapes_kernel_specialization_strategy = eager
        self._config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the whole frame is one graph of ours
        self._kernels = self._config.create_runtime_cache()
        self._kept = _read_kernels(self._kernels_path)
        if self._kept:
            self._kernels.deserialize(self._kept)  # False for those of another driver or GPU: compiled again
        self._config.set_runtime_cache(self._kernels)
        super().__init__(trt, runtime, engine, example, path)

    def new_context(self) -> Any:
        return self._engine.create_execution_context(self._config)

    def has_run(self, context: Any, stream: int) -> None:
        """Keeps the kernels; raises BackendError if a graph can't have them."""
        if not context.is_stream_capturable(stream):
            raise BackendError(f"{self.path.name} can't be captured in a CUDA graph: build it again")
        kernels = bytes(self._kernels.serialize())
        if kernels != self._kept:
            self._kept = kernels
            _write_kernels(self._kernels_path, kernels)


def _read_kernels(path: Path) -> bytes:
    """What `_write_kernels` wrote; empty where there is nothing, or the file is damaged."""
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        digest, kernels = data[:32], data[32:]
        if hashlib.sha256(kernels).digest() == digest:
            return kernels
    return b""


def _write_kernels(path: Path, kernels: bytes) -> None:
    """Keeps kernels with their SHA-256 before them; that they can't be kept is no error."""
    with contextlib.suppress(OSError), written_beside(path) as part:
        part.write_bytes(hashlib.sha256(kernels).digest() + kernels)


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


def _set_targets(trt: Any, config: Any, targets: Sequence[str]) -> None:
    """Builds for `targets`, or for the GPU of this machine: without being told, the library builds for some GPUs."""
    if not targets and not torch.cuda.is_available():
        raise BackendError("there is no GPU here to build for: name targets, for example sm86 or sm89")
    known = {name: trt.ComputeCapability.__members__[name.upper()] for name in TARGETS}
    for target in targets:
        if target.lower() not in known:
            raise BackendError(f"TensorRT for RTX builds for {', '.join(known)}, not for {target}")
    chosen = [known[target.lower()] for target in targets] or [trt.ComputeCapability.CURRENT]
    config.num_compute_capabilities = len(chosen)
    for index, capability in enumerate(chosen):
        config.set_compute_capability(capability, index)


def _check_header(trt: Any, runtime: Any, data: bytes, path: Path) -> None:
    """Raises unless the file is an engine for this version of the library and the current GPU, if there is one."""
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


@functools.cache
def _logger() -> Any:
    """The one logger that the library takes in a process."""
    return new_logger(load_module("tensorrt_rtx"))
