"""TensorRT, strongly typed, in float32 without TF32 or in float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Session, Spec, missing
from bench.peers.tensorrt_engine import build, load_engine

PER_PRECISION = True


def unavailable(device: str, spec: Spec) -> str | None:
    """A GPU, the package, and the exporter's."""
    if device != "cuda":
        return "needs a CUDA device"
    return missing("tensorrt", "tensorrt") or missing("onnxscript", "onnxscript")


def convert(generator: Any, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Builds the engine."""
    import tensorrt as trt

    build(trt, generator, example, folder, spec)


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Loads the engine."""
    import tensorrt as trt

    return load_engine(trt, folder, example, spec)
