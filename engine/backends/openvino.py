"""OpenVINO: on this processor, and on Intel's GPUs and NPUs. `openvino-gpu` and `openvino-npu` have not run on one yet.

Frames lie in the CPU's memory in any case. OpenVINO reads the generator as an ONNX file.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.backends.base import BuildOptions, CompiledGenerator, FileBackend, fits
from engine.errors import BackendError, EngineLostError, last_line
from engine.generators import Generator

if TYPE_CHECKING:
    from typing_extensions import Unpack

# OpenVINO's names of precisions.
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}

# What compiled files depend on, beside OpenVINO. COMPILED_MODEL_RUNTIME_PROPERTIES has the version of a GPU's driver.
_PROPERTIES = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "COMPILED_MODEL_RUNTIME_PROPERTIES", "NPU_DRIVER_VERSION")


class OpenVINO(FileBackend):
    """The CPU plugin. Files (.xml, and .bin beside it) are in float32: the precision is chosen when they are loaded."""

    name = "openvino"
    extra = "openvino"
    modules = ("openvino",)
    distributions = ("openvino",)
    devices = ("cpu",)
    build_cost = "seconds"
    suffix = ".xml"
    build_modules = ("onnx",)
    export_format = "openvino"
    export_precision = "fp32"

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        import openvino

        if path.suffix != self.suffix:
            raise BackendError(f"{path.name}: OpenVINO reads no file of that name: give it the suffix {self.suffix}")
        model, facts = _converted(generator, example, dynamic=options.get("dynamic", False))
        try:
            openvino.save_model(model, path, compress_to_fp16=False)
        except Exception as error:  # its exceptions have no common base
            raise BackendError(f"OpenVINO can't write the generator: {last_line(error)}") from error
        return facts

    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        """Compiles the file, with as many threads as torch has.

        Returns:
            A callable from and to float32 on the CPU. If the file is for every size, each new one is compiled again.
        """
        try:
            model = core().read_model(path)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO can't load {path.name}: {last_line(error)}") from error
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            ends = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
            raise BackendError(f"{path.name} has {ends}: it is no generator")
        _require_shape(path, model, example)
        return _Network(model, _HINTS[example.dtype], tuple(example.shape))


class OpenVINODevice(FileBackend):
    """A plugin for another device. Compiling takes seconds to minutes, which the file spares: it is for one size.

    Args:
        plugin: OpenVINO's name of it: GPU or NPU.
        precisions: that the device computes in, the fastest first.
    """

    extra = "openvino"
    modules = ("openvino",)
    distributions = ("openvino",)
    devices = ("cpu",)
    computes_elsewhere = True
    build_cost = "minutes"
    only_when_named = True
    suffix = ".blob"
    build_modules = ("onnx",)
    same_runtime = True

    def __init__(self, plugin: str, *precisions: str) -> None:
        self.name = f"openvino-{plugin.lower()}"
        self.plugin = plugin
        self.precisions = precisions

    def unavailable(self, device: torch.device) -> str | None:
        return super().unavailable(device) or _absent(self.plugin)

    def version(self, device: torch.device) -> str:
        return f"{super().version(device)}{_properties(self.plugin)}"

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        model, facts = _converted(generator, example)
        try:
            compiled = _compiled(model, self.plugin, _HINTS[example.dtype])
            stream = io.BytesIO()
            compiled.export_model(stream)
        except RuntimeError as error:
            reason = last_line(error)
            raise BackendError(f"OpenVINO can't compile the generator for the {self.plugin}: {reason}") from error
        path.write_bytes(stream.getvalue())
        return facts

    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        """Loads the file. Its precision was checked when it was built: plugins do not know it of a file.

        Returns:
            A callable from and to float32 on the CPU. It raises EngineLostError where the device does not go on.
        """
        # Plugins take a file for one in their own half precision unless they are told; an NPU's has no such option.
        options = {} if self.plugin == "NPU" else {"INFERENCE_PRECISION_HINT": _HINTS[example.dtype]}
        try:
            compiled = core().import_model(path.read_bytes(), self.plugin, options)
            _require_shape(path, compiled, example)
        except (OSError, RuntimeError) as error:
            raise BackendError(f"OpenVINO can't load {path.name} on the {self.plugin}: {last_line(error)}") from error
        return _DeviceNetwork(compiled, self.plugin)


@functools.cache
def core() -> Any:
    """OpenVINO itself, once per process and kept until its end.

    Its CPU plugin gives the thread that loads it a stack for signals. When the plugin is unloaded by another thread,
    that stack is gone and still in use: the next signal, a Ctrl-C for example, is a segmentation fault.
    """
    import openvino

    return openvino.Core()


@functools.cache
def _absent(plugin: str) -> str | None:
    """Why there is no such device, in one line. OpenVINO looks at the whole machine: it is asked once."""
    try:
        found = [name.partition(".")[0] for name in core().available_devices]
    except Exception as error:  # of any driver
        return f"OpenVINO can't look for devices: {last_line(error)}"
    return None if plugin in found else f"OpenVINO finds no {plugin} here, or no driver of one"


@functools.cache
def _properties(plugin: str) -> str:
    told = ""
    for name in _PROPERTIES:
        with contextlib.suppress(Exception):  # which of them there are depends on the plugin and its version
            told += f", {core().get_property(plugin, name)}"
    return told


def _converted(generator: Generator, example: Tensor, *, dynamic: bool = False) -> tuple[Any, dict[str, Any]]:
    """The generator as OpenVINO's model, in float32, and the opset and kinds of nodes of the ONNX model between."""
    from engine.backends.onnx_model import OPSET, count_nodes, export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.onnx"
        model = export_onnx(generator, example.float(), path, dynamic=dynamic)
        try:
            # What convert_model would do, without its report to the vendor.
            read = core().read_model(path)
        except Exception as error:  # its exceptions have no common base
            raise BackendError(f"OpenVINO can't convert the generator: {last_line(error)}") from error
    return read, {"opset": OPSET, "nodes": count_nodes(model)}


def _compiled(model: Any, plugin: str, hint: str, **settings: Any) -> Any:
    """`model` compiled for a device. OpenVINO raises RuntimeError where it can't.

    Raises:
        BackendError: it would run in another precision than `hint`.
    """
    settings |= {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    compiled = core().compile_model(model, plugin, settings)
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != hint:
        raise BackendError(f"OpenVINO runs in {used} instead of {hint} on this {plugin}")
    return compiled


def _require_shape(path: Path, model: Any, example: Tensor) -> None:
    shape = [side.to_string() if side.is_dynamic else side.get_length() for side in model.input().partial_shape]
    if not fits(shape, example.shape):
        raise BackendError(f"{path.name} takes inputs of {shape}, not of {list(example.shape)}: build it again")


class _DeviceNetwork:
    """A compiled model for one size. Calls take and return float32 on the CPU."""

    input_dtype = torch.float32

    def __init__(self, compiled: Any, plugin: str) -> None:
        self._plugin = plugin
        self._request = compiled.create_infer_request()
        self._output_shape = tuple(compiled.output().shape)

    def __call__(self, image: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, C, H * scale, W * scale]
        import openvino

        image, output = image.contiguous(), torch.empty(self._output_shape)  # OpenVINO does not keep them alive
        try:
            self._request.set_input_tensor(openvino.Tensor(image.numpy(), shared_memory=True))
            self._request.set_output_tensor(openvino.Tensor(output.numpy(), shared_memory=True))
            self._request.infer()
        except RuntimeError as error:
            raise EngineLostError(f"the {self._plugin} does not go on: {last_line(error)}") from error
        return output


class _Network:
    """A model on the CPU, compiled for the size of the last input."""

    input_dtype = torch.float32

    def __init__(self, model: Any, hint: str, shape: tuple[int, ...]) -> None:
        self._model, self._hint = model, hint
        self._compile(shape)

    def _compile(self, shape: tuple[int, ...]) -> None:
        try:
            self._model.reshape(list(shape))  # the kernels are chosen for it
            compiled = _compiled(self._model, "CPU", self._hint, INFERENCE_NUM_THREADS=torch.get_num_threads())
        except RuntimeError as error:
            raise BackendError(f"OpenVINO can't compile the generator for {shape}: {last_line(error)}") from error
        self._shape, self._run = shape, _DeviceNetwork(compiled, "CPU")

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape != self._shape:
            self._compile(tuple(image.shape))
        return self._run(image)
