"""ONNX Runtime on the CPU or a CUDA GPU, from an ONNX file that every machine and version of it can read.

Its TensorRT provider is a backend of its own, `onnxruntime-tensorrt`: it builds an engine for one GPU from that file.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engine.backends.base import BuildOptions, CompiledGenerator, FileBackend, fits, missing
from engine.device import gpu_name
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
        if reason is not None or device.type == "cpu" or has_provider("cuda"):
            return reason
        return "this build of onnxruntime has no CUDA provider: pip install onnxruntime-gpu in place of onnxruntime"

    def unbuildable(self, device: torch.device) -> str | None:
        return missing(self.extra, *self.build_modules, *self.modules)  # files don't depend on the device

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        self._require_precision(example, precision)
        return _written(generator, example, path, dynamic=options.get("dynamic", False))

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


class ONNXRuntimeTensorRT(FileBackend):
    """The TensorRT provider, in half precision: it computes float32 in TF32, and has no option against it.

    All of the file is in float16, the session has no other provider, and falling back to the CPU is an error. So every
    layer is TensorRT's, and in float16 as far as the network is strongly typed: always from TensorRT 11 on; before,
    TensorRT may take a layer in float32 where that is faster. The provider does not tell its layers' types, as those
    of `tensorrt` and `tensorrt-rtx` are told. **Not run on a GPU yet.**
    """

    name = "onnxruntime-tensorrt"
    extra = "onnx"
    modules = ("onnxruntime",)
    distributions = ("onnxruntime-gpu", "tensorrt")
    devices = ("cuda",)
    precisions = ("fp16", "fast")
    build_cost = "minutes"
    only_when_named = True
    suffix = ".onnx"
    build_modules = ("onnx",)
    same_runtime = True

    def unavailable(self, device: torch.device) -> str | None:
        reason = super().unavailable(device)
        if reason is not None or has_provider("tensorrt"):
            return reason
        return "this build of onnxruntime has no TensorRT provider: pip install onnxruntime-gpu and tensorrt"

    def version(self, device: torch.device) -> str:
        return f"{super().version(device)}, {gpu_name(device)}"

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        """Writes an ONNX file, and has the engine built into a file beside it, in some minutes."""
        self._require_precision(example, precision)
        facts = _written(generator, example, path)
        self.load(path, example, precision)
        engines = [file.name for file in path.parent.iterdir() if file.suffix == ".engine"]
        if len(engines) != 1:
            raise BackendError(
                f"ONNX Runtime's TensorRT provider made {len(engines)} engines of the generator, not one"
            )
        return facts

    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        self._require_precision(example, precision)
        with contextlib.suppress(ImportError):
            import tensorrt  # noqa: F401 (loads the libraries that the provider looks for)
        settings = {
            "device_id": str(example.device.index or 0),
            "trt_fp16_enable": "1",  # for networks that are not strongly typed
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(path.parent),
            "trt_builder_optimization_level": "5",
        }
        return _session(path, example, "TensorrtExecutionProvider", settings)

    def _require_precision(self, example: Tensor, precision: str) -> None:
        if precision not in self.precisions or example.dtype != torch.float16:
            raise BackendError(
                f"ONNX Runtime's TensorRT provider is used for fp16 and fast (fp16), not for {precision}"
            )


def _written(generator: Generator, example: Tensor, path: Path, *, dynamic: bool = False) -> dict[str, Any]:
    """Writes an ONNX file; returns its opset and how many nodes it has of each kind."""
    from engine.backends.onnx_model import OPSET, count_nodes, export_onnx

    model = export_onnx(generator, example, path, dynamic=dynamic)
    return {"opset": OPSET, "nodes": count_nodes(model)}


def has_provider(name: str) -> bool:
    """Whether the installed onnxruntime comes with a provider, e.g. "cuda". Does not import it."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec else None
    return any(any(Path(folder).glob(f"capi/*onnxruntime_providers_{name}*")) for folder in folders or ())


def _session(path: Path, example: Tensor, name: str, settings: dict[str, str]) -> CompiledGenerator:
    """Loads the file with the provider called `name`, which has to run all of it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as well
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[(name, settings)])
    except Exception as error:  # its exceptions have no common base
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
