"""MNN, converted from ONNX: Winograd convolutions, high precision (float32).

The converter is called through MNN's extension module: the package MNN.tools installs a logging client with pip when it
is imported, which nobody asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Session, Spec, missing, only_cpu


def unavailable(device: str, spec: Spec) -> str | None:
    """The runtime, and the exporter's package."""
    return only_cpu(device) or missing("MNN", "MNN") or missing("onnxscript", "onnxscript")


def convert(generator: Any, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Exports to ONNX, and that to MNN's own format."""
    import _tools  # MNN's converter

    from bench.peers.onnx_export import export_onnx

    onnx, mnn = export_onnx(generator, example, folder), folder / "generator.mnn"
    files = ["--modelFile", str(onnx), "--MNNModel", str(mnn)]
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", "MNN"])
    if not mnn.exists():
        raise RuntimeError("mnnconvert wrote no model")


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """A module in a runtime with `spec.threads` threads."""
    from MNN import expr, nn

    settings = {"backend": "CPU", "precision": "high", "numThread": spec.threads, "power": "high"}
    runtime = nn.create_runtime_manager((settings,))
    module = nn.load_module_from_file(str(folder / "generator.mnn"), ["input"], ["output"], runtime_manager=runtime)
    image = expr.placeholder(list(example.shape), expr.NCHW, expr.float)
    image.write(example)

    def run() -> Any:
        output = module.forward([image])[0]
        output.read()  # computes: forward() only builds the expression
        return output

    return Session(run, lambda output: np.array(expr.convert(output, expr.NCHW).read(), dtype=np.float32))
