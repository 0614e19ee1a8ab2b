"""The ONNX file that ONNX Runtime, OpenVINO, MNN and TensorRT start from."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import torch

FILE = "generator.onnx"


def export_onnx(generator: torch.nn.Module, example: np.ndarray, folder: Path, *, half: bool = False) -> Path:
    """Exports `generator` with fixed input shape, opset 18, input "input" and output "output".

    Args:
        half: weights and activations in float16, for strongly typed engines.
    """
    path = folder / FILE
    dtype = torch.float16 if half else torch.float32
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        torch.onnx.export(
            generator.to(dtype),
            (torch.from_numpy(example).to(dtype),),
            str(path),
            dynamo=True,
            opset_version=18,
            input_names=["input"],
            output_names=["output"],
            external_data=False,
        )
    return path
