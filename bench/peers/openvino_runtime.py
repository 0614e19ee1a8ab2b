"""OpenVINO's CPU plugin with the latency hint, in float32 or bfloat16 inference precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Session, Spec, missing, only_cpu


def unavailable(device: str, spec: Spec) -> str | None:
    """The runtime, and the exporter's package."""
    return only_cpu(device) or missing("openvino", "openvino") or missing("onnxscript", "onnxscript")


def convert(generator: Any, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Exports to ONNX, and that to OpenVINO's own format."""
    import openvino

    from bench.peers.onnx_export import export_onnx

    model = openvino.convert_model(export_onnx(generator, example, folder))
    openvino.save_model(model, folder / "generator.xml", compress_to_fp16=False)


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """An inference request with its input set."""
    import openvino

    hint = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[spec.precision]
    try:
        compiled = openvino.Core().compile_model(
            folder / "generator.xml",
            "CPU",
            {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": spec.threads, "INFERENCE_PRECISION_HINT": hint},
        )
    except RuntimeError as error:  # lines about its source files, and then the reason
        reason = str(error).strip().splitlines()[-1]
        raise RuntimeError(f"OpenVINO can't compile the generator in {hint} here: {reason}") from error
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != hint:
        raise RuntimeError(f"OpenVINO runs in {used} instead of {hint} on this processor")
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(example))

    def run() -> Any:
        request.infer()
        return request

    return Session(run, lambda done: done.get_output_tensor().data.astype(np.float32))
