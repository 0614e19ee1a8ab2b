"""ONNX Runtime on the CPU or a CUDA GPU, from an ONNX file that every machine and version of it can read.

Its TensorRT provider is a backend of its own, `onnxruntime-tensorrt`: what it builds is tied to one GPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.backends.interface import CompiledGenerator
from engine.backends.runtimes import fits, last_line, missing
from engine.errors import BackendError
from engine.generators import Generator

SUFFIX = ".onnx"
SAME_RUNTIME = False
EXTRA = "onnx"


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on `device`, in one line; None if it can."""
    absent = missing(EXTRA, "onnxruntime")
    if absent is not None or device.type == "cpu" or has_provider("cuda"):
        return absent
    return "this build of onnxruntime has no CUDA provider: pip install onnxruntime-gpu in place of onnxruntime"


def has_provider(name: str) -> bool:
    """Whether the installed onnxruntime comes with a provider, e.g. "cuda". Does not import it."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec else None
    return any(any(Path(folder).glob(f"capi/*onnxruntime_providers_{name}*")) for folder in folders or ())


def unbuildable(device: torch.device) -> str | None:
    """Why files can't be written here, in one line; None if they can."""
    return missing(EXTRA, "onnx", "onnxruntime")


def version(device: torch.device) -> str:
    """What the file is written for. Files don't depend on the device."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"


def build(
    generator: Generator,
    example: Tensor,
    precision: str,
    path: Path,
    *,
    dynamic: bool = False,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes an ONNX file and returns its opset and how many nodes it has of each kind.

    Args:
        generator: eval mode, float32.
        example: input [N, 3, H, W] in the dtype of `precision`.
        precision: fp32 on the CPU; fp32, fp16 or fast (fp16) on a GPU.
        path: of the file.
        dynamic: for any height and width.
        targets: not used.

    Raises:
        BackendError: ONNX Runtime has no kernels for the precision, or a layer can't be written.
    """
    from engine.onnx_model import OPSET, count_nodes, export_onnx

    _check_precision(example, precision)
    model = export_onnx(generator, example, path, dynamic=dynamic)
    return {"opset": OPSET, "nodes": count_nodes(model)}


def load(path: Path, example: Tensor, precision: str) -> CompiledGenerator:
    """Loads the file for inputs like `example`, [N, 3, H, W], and checks that its device's provider runs all of it.

    Raises:
        BackendError: no such precision, a damaged or foreign file, or one for another shape or dtype.
    """
    _check_precision(example, precision)
    if example.device.type == "cpu":
        return open_session(path, example, "CPUExecutionProvider", {})
    # float32 means float32: with TF32, convolutions round to 10 bits
    cuda = {"device_id": str(example.device.index or 0), "use_tf32": "0"}
    return open_session(path, example, "CUDAExecutionProvider", cuda)


def open_session(path: Path, example: Tensor, name: str, settings: dict[str, str]) -> CompiledGenerator:
    """Loads the file with one of ONNX Runtime's providers, which has to run all of it.

    Args:
        path: of a file of `build`.
        example: an input, on the provider's device.
        name, settings: of the provider.

    Raises:
        BackendError: it is not there or can't run the file, or the file is for another shape or dtype.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as well
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = (name, settings)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # its exceptions have no common base
        raise BackendError(f"ONNX Runtime can't load {path.name}: {last_line(error)}") from error
    used = session.get_providers()[0]
    if used != provider[0]:
        raise BackendError(f"ONNX Runtime runs on {used} instead of {provider[0]}")
    return _Session(session, example, path)


class _Session:
    """A loaded file. Calls take and return tensors on the device and in the dtype of the example.

    A file for any size takes all sizes, not only the example's.
    """

    def __init__(self, session: Any, example: Tensor, path: Path) -> None:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        scale = session.get_modelmeta().custom_metadata_map.get("scale", "")
        if len(inputs) != 1 or len(outputs) != 1 or not scale.isdigit():
            raise BackendError(f"{path.name} is an ONNX file, but no generator that this backend has written")
        kind = {torch.float32: "tensor(float)", torch.float16: "tensor(float16)"}[example.dtype]
        if inputs[0].type != kind or not fits(inputs[0].shape, example.shape):
            taken = f"{inputs[0].type} {inputs[0].shape}"
            raise BackendError(f"{path.name} takes {taken}, not {kind} {list(example.shape)}: build it again")
        self._session = session
        self._names = inputs[0].name, outputs[0].name
        self._channels, self._scale = outputs[0].shape[1], int(scale)

    def __call__(self, image: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, C, H * scale, W * scale]
        image = image.contiguous()
        batch, _, height, width = image.shape
        output = image.new_empty(batch, self._channels, height * self._scale, width * self._scale)
        if image.device.type == "cuda":
            torch.cuda.current_stream(image.device).synchronize()  # ONNX Runtime has a stream of its own
        binding = self._session.io_binding()
        kind = {torch.float32: np.float32, torch.float16: np.float16}[image.dtype]
        for bind, name, tensor in (
            (binding.bind_input, self._names[0], image),
            (binding.bind_output, self._names[1], output),
        ):
            bind(name, tensor.device.type, tensor.device.index or 0, kind, tuple(tensor.shape), tensor.data_ptr())
        self._session.run_with_iobinding(binding)  # returns when the output is there
        return output


def _check_precision(example: Tensor, precision: str) -> None:
    accepted = {"cpu": ("fp32",), "cuda": ("fp32", "fp16", "fast")}[example.device.type]
    if precision not in accepted or example.dtype not in (torch.float32, torch.float16):
        raise BackendError(
            f"ONNX Runtime has kernels for {', '.join(accepted)} on {example.device.type}, not for {precision}"
        )
