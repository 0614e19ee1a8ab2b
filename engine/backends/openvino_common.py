"""What OpenVINO's CPU plugin and its plugins for Intel's GPUs and NPUs have in common."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.runtimes import last_line
from engine.errors import BackendError
from engine.generators import Generator

EXTRA = "openvino"

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
"""OpenVINO's names of precisions that are computed in."""


@functools.cache
def core() -> Any:
    """OpenVINO itself, once per process and kept until its end.

    Its CPU plugin gives the thread that loads it a stack for signals. When the plugin is unloaded by another thread,
    that stack is gone and still in use: the next signal, a Ctrl-C for example, is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def converted(generator: Generator, example: Tensor, *, dynamic: bool = False) -> tuple[Any, dict[str, Any]]:
    """The generator as OpenVINO's model, in float32, and the opset and kinds of nodes of the ONNX model between.

    Args:
        generator: eval mode, float32.
        example: input [N, 3, H, W].
        dynamic: for any height and width.

    Raises:
        BackendError: a layer can't be written, or OpenVINO does not know it.
    """
    from engine.onnx_model import OPSET, count_nodes, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.onnx"
        model = export_onnx(generator, example.float(), path, dynamic=dynamic)
        facts = {"opset": OPSET, "nodes": count_nodes(model)}
        try:
            # What convert_model would do, without its report to the vendor.
            read = core().read_model(path)
        except Exception as error:  # its exceptions have no common base
            raise BackendError(f"OpenVINO can't convert the generator: {last_line(error)}") from error
    return read, facts


def require_precision(compiled: Any, hint: str, where: str) -> None:
    """Raises BackendError unless a compiled model computes in what was asked for; `where` is what it runs on."""
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != hint:
        raise BackendError(f"OpenVINO runs in {used} instead of {hint} on {where}")


def infer(request: Any, image: Tensor, output_shape: tuple[int, ...]) -> Tensor:
    """Runs a compiled model: float32 on the CPU, to float32 on the CPU."""
    import openvino

    image, output = image.contiguous(), torch.empty(output_shape)  # OpenVINO does not keep them alive
    request.set_input_tensor(openvino.Tensor(image.numpy(), shared_memory=True))
    request.set_output_tensor(openvino.Tensor(output.numpy(), shared_memory=True))
    request.infer()
    return output
