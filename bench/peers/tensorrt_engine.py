"""What TensorRT and TensorRT for RTX share: a strongly typed engine built from ONNX, run on torch's memory.

Strongly typed means that the network computes in the types that the ONNX file has, so that nothing falls back to
another precision in silence.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Session, Spec, missing

_FILE = "generator.engine"


def peer(package: str) -> tuple[Callable[[str, Spec], str | None], Callable[..., None], Callable[..., Session]]:
    """`unavailable`, `convert` and `load` of a peer (`bench.peers`) for the package tensorrt or tensorrt_rtx."""

    def unavailable(device: str, spec: Spec) -> str | None:
        if device != "cuda":
            return "needs a CUDA device"
        return missing(package, package) or missing("onnxscript", "onnxscript")

    def convert(generator: Any, example: np.ndarray, folder: Path, spec: Spec) -> None:
        _build(importlib.import_module(package), generator, example, folder, spec)

    def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
        return load_engine(importlib.import_module(package), folder, example, spec)

    return unavailable, convert, load


def _build(trt: Any, generator: Any, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Exports to ONNX, parses, builds for the GPU of this machine, and writes the engine.

    Args:
        trt: the module tensorrt or tensorrt_rtx.
    """
    from bench.peers.onnx_export import export_onnx

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    onnx = export_onnx(generator, example, folder, half=spec.precision == "fp16")
    if not parser.parse(onnx.read_bytes()):
        raise RuntimeError(f"TensorRT can't parse the ONNX file: {parser.get_error(0)}")
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32, for everybody
    if hasattr(trt, "ComputeCapability"):  # TensorRT for RTX would else build for GPUs that it chooses
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # can be captured
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError("TensorRT can't build an engine for this GPU")
    (folder / _FILE).write_bytes(bytes(engine))


def load_engine(trt: Any, folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Loads the engine, binds its input and output to torch tensors, and captures it as a CUDA graph, as ours is."""
    import torch

    from bench.peers.torch_session import captured

    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine((folder / _FILE).read_bytes())
    if engine is None:
        raise RuntimeError("TensorRT can't load the engine that it built")
    context = _context(trt, engine)
    memory = torch.empty(max(engine.device_memory_size_v2, 1), dtype=torch.uint8, device="cuda")
    context.set_device_memory(memory.data_ptr(), engine.device_memory_size_v2)
    dtype = torch.float16 if spec.precision == "fp16" else torch.float32
    image = torch.from_numpy(example).to(device="cuda", dtype=dtype).contiguous()
    output = torch.empty(tuple(context.get_tensor_shape("output")), device="cuda", dtype=dtype)
    context.set_tensor_address("input", image.data_ptr())
    context.set_tensor_address("output", output.data_ptr())

    def execute(_: torch.Tensor) -> None:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("TensorRT can't run the engine")

    replay = captured(execute, image)

    def run() -> Any:
        replay()
        torch.cuda.synchronize()
        return engine, runtime, memory, image, output  # the context refers to all of them

    return Session(run, lambda held: held[-1].float().cpu().numpy())


def _context(trt: Any, engine: Any) -> Any:
    """An execution context. Kernels of TensorRT for RTX are compiled on the GPU: here before the capture."""
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context(strategy)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)
