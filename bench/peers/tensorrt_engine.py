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
        return _load(importlib.import_module(package), folder, example, spec)

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
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError("TensorRT can't build an engine for this GPU")
    (folder / _FILE).write_bytes(bytes(engine))


def _load(trt: Any, folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Deserialises the engine and binds its input and output to torch tensors."""
    import torch

    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    engine = runtime.deserialize_cuda_engine((folder / _FILE).read_bytes())
    if engine is None:
        raise RuntimeError("TensorRT can't load the engine that it built")
    context = engine.create_execution_context()
    dtype = torch.float16 if spec.precision == "fp16" else torch.float32
    image = torch.from_numpy(example).to(device="cuda", dtype=dtype).contiguous()
    output = torch.empty(tuple(context.get_tensor_shape("output")), device="cuda", dtype=dtype)
    context.set_tensor_address("input", image.data_ptr())
    context.set_tensor_address("output", output.data_ptr())
    stream = torch.cuda.Stream()

    def run() -> Any:
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT can't run the engine")
        stream.synchronize()
        return engine, runtime, image, output  # the context refers to all of them

    return Session(run, lambda held: held[-1].float().cpu().numpy())
