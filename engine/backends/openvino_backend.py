"""OpenVINO's CPU plugin, in float32 or, on processors that have it, in bfloat16 or float16.

The files are OpenVINO's own (.xml and .bin), always in float32: the precision is chosen when they are loaded. OpenVINO
has plugins for Intel's GPUs and NPUs too, for which `torch.device`, as this project uses it, has no name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.interface import CompiledGenerator
from engine.backends.runtimes import fits, last_line, missing
from engine.errors import BackendError
from engine.generators import Generator

SUFFIX = ".xml"
EXTRA = "openvino"

# OpenVINO's names of precisions that are computed in.
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on `device`, in one line; None if it can."""
    return missing(EXTRA, "openvino") if device.type == "cpu" else "OpenVINO runs on the CPU here"


def unbuildable(device: torch.device) -> str | None:
    """Why files can't be written here, in one line; None if they can."""
    return unavailable(device) or missing(EXTRA, "onnx")


def version(device: torch.device) -> str:
    """What writes and reads the files."""
    import openvino

    return f"openvino {openvino.__version__}"


def build(
    generator: Generator,
    example: Tensor,
    precision: str,
    path: Path,
    *,
    dynamic: bool = False,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes `path` (.xml) and the weights beside it (.bin); returns the ONNX model's opset and kinds of nodes.

    Args:
        generator: eval mode, float32.
        example: input [N, 3, H, W] in the dtype of `precision`.
        precision: any; one that the processor has no arithmetic for is refused by `load`.
        path: of the file that names the layers.
        dynamic: for any height and width.
        targets: not used.

    Raises:
        BackendError: a layer can't be written, or OpenVINO does not know it.
    """
    import openvino

    from engine.onnx_model import OPSET, count_nodes, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "generator.onnx"
        model = export_onnx(generator, example.float(), onnx_path, dynamic=dynamic)
        try:
            # What convert_model would do, without its report to the vendor.
            openvino.save_model(openvino.Core().read_model(onnx_path), path, compress_to_fp16=False)
        except Exception as error:  # its exceptions have no common base
            raise BackendError(f"OpenVINO can't convert the generator: {last_line(error)}") from error
    return {"opset": OPSET, "nodes": count_nodes(model)}


def load(path: Path, example: Tensor, precision: str) -> CompiledGenerator:
    """Compiles the file for inputs like `example`, [N, 3, H, W], with as many threads as torch has.

    Returns:
        A callable from and to float32, on the CPU, with the attribute `input_dtype`.

    Raises:
        BackendError: a damaged or foreign file, one for another shape, or OpenVINO runs in another precision.
    """
    import openvino

    core = openvino.Core()
    hint = _HINTS[example.dtype]
    try:
        model = core.read_model(path)
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise BackendError(
                f"{path.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: no generator"
            )
        shape = [side.to_string() if side.is_dynamic else side.get_length() for side in model.input().partial_shape]
        if not fits(shape, example.shape):
            raise BackendError(f"{path.name} takes inputs of {shape}, not of {list(example.shape)}: build it again")
        model.reshape(list(example.shape))
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": hint,
            },
        )
    except RuntimeError as error:
        raise BackendError(f"OpenVINO can't load {path.name}: {last_line(error)}") from error
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != hint:
        raise BackendError(f"OpenVINO runs in {used} instead of {hint} on this processor")
    return _Request(compiled)


class _Request:
    """A compiled file. Calls take and return float32 on the CPU, whatever it computes in."""

    input_dtype = torch.float32

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._output_shape = tuple(compiled.output().shape)

    def __call__(self, image: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, C, H * scale, W * scale]
        import openvino

        image, output = image.contiguous(), torch.empty(self._output_shape)  # OpenVINO does not keep them alive
        self._request.set_input_tensor(openvino.Tensor(image.numpy(), shared_memory=True))
        self._request.set_output_tensor(openvino.Tensor(output.numpy(), shared_memory=True))
        self._request.infer()
        return output
