"""ONNX Runtime, all graph optimisations, weights stored optimised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Session, Spec, missing

PER_PRECISION = True


def unavailable(device: str, spec: Spec) -> str | None:
    """The runtime, and the exporter's package."""
    reason = missing("onnxruntime", "onnxruntime") or missing("onnxscript", "onnxscript")
    if reason is None and device == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "this build of onnxruntime has no CUDA provider: pip install onnxruntime-gpu"
    return reason


def convert(generator: Any, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Exports to ONNX."""
    from bench.peers.onnx_export import export_onnx

    export_onnx(generator, example, folder, half=spec.precision == "fp16")


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """A session with its input bound."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    provider = "CUDAExecutionProvider" if spec.device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(str(folder / "generator.onnx"), options, providers=[provider])
    used = session.get_providers()[0]
    if used != provider:
        raise RuntimeError(f"ONNX Runtime runs on {used} instead of {provider}")
    kind = np.float16 if spec.precision == "fp16" else np.float32
    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(example, dtype=kind), spec.device, 0)
    binding.bind_ortvalue_input("input", value)
    binding.bind_output("output", spec.device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return Session(run, lambda _: binding.copy_outputs_to_cpu()[0].astype(np.float32))
