"""OpenVINO's CPU plugin, in float32 or, on processors that have it, in bfloat16 or float16.

The files are OpenVINO's own (.xml and .bin), always in float32: the precision is chosen when they are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.interface import CompiledGenerator
from engine.backends.openvino_common import EXTRA, HINTS, converted, core, infer, require_precision
from engine.backends.runtimes import fits, last_line, missing
from engine.errors import BackendError
from engine.generators import Generator

SUFFIX = ".xml"
SAME_RUNTIME = False


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

    model, facts = converted(generator, example, dynamic=dynamic)
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except Exception as error:  # its exceptions have no common base
        raise BackendError(f"OpenVINO can't write the generator: {last_line(error)}") from error
    return facts


def load(path: Path, example: Tensor, precision: str) -> CompiledGenerator:
    """Compiles the file for inputs like `example`, [N, 3, H, W], with as many threads as torch has.

    Returns:
        A callable from and to float32, on the CPU, with the attribute `input_dtype`. Of a file for any size it takes
        other sizes too, and compiles again for each change.

    Raises:
        BackendError: a damaged or foreign file, one for another shape, or OpenVINO runs in another precision.
    """
    try:
        model = core().read_model(path)
    except RuntimeError as error:
        raise BackendError(f"OpenVINO can't load {path.name}: {last_line(error)}") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        ends = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise BackendError(f"{path.name} has {ends}: it is no generator")
    shape = [side.to_string() if side.is_dynamic else side.get_length() for side in model.input().partial_shape]
    if not fits(shape, example.shape):
        raise BackendError(f"{path.name} takes inputs of {shape}, not of {list(example.shape)}: build it again")
    return _Network(model, HINTS[example.dtype], tuple(example.shape))


class _Network:
    """A loaded file, compiled for the size of the last input. Calls take and return float32 on the CPU.

    Raises:
        BackendError: OpenVINO does not know a layer, or runs in another precision than `hint`.
    """

    input_dtype = torch.float32

    def __init__(self, model: Any, hint: str, shape: tuple[int, ...]) -> None:
        self._model, self._hint = model, hint
        self._compile(shape)

    def _compile(self, shape: tuple[int, ...]) -> None:
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": self._hint,
        }
        try:
            self._model.reshape(list(shape))  # the kernels are chosen for it
            compiled = core().compile_model(self._model, "CPU", options)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO can't compile the generator for {shape}: {last_line(error)}") from error
        require_precision(compiled, self._hint, "this processor")
        self._request = compiled.create_infer_request()
        self._shape, self._output_shape = shape, tuple(compiled.output().shape)

    def __call__(self, image: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, C, H * scale, W * scale]
        if image.shape != self._shape:
            self._compile(tuple(image.shape))
        return infer(self._request, image, self._output_shape)
