"""The ways to run a generator, in one table. To add one: a file with its class, and its line in the table."""

from __future__ import annotations

import difflib

from engine.backends.aoti import AOTInductor
from engine.backends.base import Backend, CompiledGenerator, FileBackend, InMemoryBackend, ParityMeasure
from engine.backends.eager import Eager
from engine.backends.fused import Fused
from engine.backends.inductor import Inductor
from engine.backends.onnxruntime import ONNXRuntime
from engine.backends.openvino import OpenVINO, OpenVINODevice
from engine.backends.tensorrt import TensorRT
from engine.backends.tensorrt_rtx import TensorRTForRTX
from engine.backends.torchscript import TorchScript
from engine.errors import BackendError

__all__ = [
    "BACKENDS",
    "Backend",
    "CompiledGenerator",
    "FileBackend",
    "InMemoryBackend",
    "ParityMeasure",
    "get_backend",
]

# `auto` tries them in this order.
_TABLE: tuple[Backend, ...] = (
    Eager(),
    Fused(),
    OpenVINO(),
    OpenVINODevice("GPU", "fp16", "fp32"),
    OpenVINODevice("NPU", "fp16"),
    ONNXRuntime(),
    TorchScript(),
    TensorRT(),
    TensorRTForRTX(),
    AOTInductor(),
    Inductor(),
)

BACKENDS = {backend.name: backend for backend in _TABLE}


def get_backend(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        BackendError: there is none of that name.
    """
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BackendError(f"unknown backend {name!r}: {hint}accepted are auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]
