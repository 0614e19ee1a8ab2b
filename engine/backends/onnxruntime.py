"""ONNX Runtime on the CPU or a CUDA GPU, from an ONNX file that every machine and version of it can read."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.backends.base import BuildOptions, CompiledGenerator, FileBackend, fits, load_module, missing
from engine.errors import BackendError, last_line
from engine.generators import Generator

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ONNXRuntime(FileBackend):
    """The device's own provider has to run all of the file: float32 on the CPU, and float16 too on a GPU."""

    name = "onnxruntime"
    extra = "onnx"
    modules = ("onnxruntime",)
    distributions = ("onnxruntime", "onnxruntime-gpu")
    build_cost = "seconds"
    suffix = ".onnx"
    build_modules = ("onnx",)
    export_format = "onnx"
    export_precision = "fp32"

    def unavailable(self, device: torch.device) -> str | None:
        reason = super().unavailable(device)
        if reason is not None or device.type == "cpu" or _has_cuda_provider():
            return reason
        return "this build of onnxruntime has no CUDA provider: pip install onnxruntime-gpu in place of onnxruntime"

    def unbuildable(self, device: torch.device) -> str | None:
        return missing(self.extra, *self.build_modules, *self.modules)  # files don't depend on the device

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        self._require_precision(example, precision)
        from engine.backends.onnx_model import OPSET, count_nodes, export_onnx

        model = export_onnx(generator, example, path, dynamic=options.get("dynamic", False))
        return {"opset": OPSET, "nodes": count_nodes(model)}

    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        self._require_precision(example, precision)
        if example.device.type == "cpu":
            return _session(path, example, "CPUExecutionProvider", {})
        # float32 means float32: with TF32, convolutions round to 10 bits
        cuda = {"device_id": str(example.device.index or 0), "use_tf32": "0"}
        return _session(path, example, "CUDAExecutionProvider", cuda)

    def _require_precision(self, example: Tensor, precision: str) -> None:
        accepted = {"cpu": ("fp32",), "cuda": ("fp32", "fp16", "fast")}[example.device.type]
        if precision not in accepted or example.dtype not in (torch.float32, torch.float16):
            raise BackendError(
                f"ONNX Runtime has kernels for {', '.join(accepted)} on {example.device.type}, not for {precision}"
            )


def _has_cuda_provider() -> bool:
    """Whether the installed onnxruntime comes with the CUDA provider. Does not import it."""
    return bool(_cuda_libraries())


def _cuda_libraries() -> list[Path]:
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec else None
    return [library for folder in folders or () for library in Path(folder).glob("capi/*onnxruntime_providers_cuda*")]


def _not_loaded() -> str | None:
    """Which library the CUDA provider lacks, if one; ONNX Runtime tells its log alone."""
    try:
        for library in _cuda_libraries():
            ctypes.CDLL(str(library))
    except OSError as error:
        return str(error) if "cannot open shared object" in str(error) else None
    return None


def _session(path: Path, example: Tensor, name: str, settings: dict[str, str]) -> CompiledGenerator:
    """Loads the file with the provider called `name`, which has to run all of it."""
    onnxruntime = load_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as well
    onnxruntime.set_default_logger_severity(4)
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[(name, settings)])
    except Exception as error:  # its exceptions have no common base
        if "assigned to the default CPU EP" in str(error):
            why = _not_loaded() or "it lacks an operator"
            raise BackendError(f"ONNX Runtime can't run all of {path.name} on {name}: {why}") from error
        raise BackendError(f"ONNX Runtime can't load {path.name}: {last_line(error)}") from error
    used = session.get_providers()[0]
    if used != name:
        raise BackendError(f"ONNX Runtime runs on {used} instead of {name}")
    return _Session(session, example, path)


class _Session:
    """A loaded file. Calls take and return tensors on the device and in the dtype of the example."""

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
