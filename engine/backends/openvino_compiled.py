"""OpenVINO's plugins for Intel's GPUs and NPUs: the network, compiled for one frame size, in a file.

Compiling takes seconds to minutes, which the file spares. Frames lie in the CPU's memory, as everything does where
torch has no device: these are backends of the device "cpu" with precisions of their own.
"""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends.interface import CompiledGenerator
from engine.backends.openvino_common import EXTRA, HINTS, converted, core, infer, require_precision
from engine.backends.runtimes import last_line, missing
from engine.errors import BackendError, EngineLostError
from engine.generators import Generator

# What compiled files depend on, beside OpenVINO. COMPILED_MODEL_RUNTIME_PROPERTIES has the version of a GPU's driver.
_PROPERTIES = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "COMPILED_MODEL_RUNTIME_PROPERTIES", "NPU_DRIVER_VERSION")


def unavailable(device: torch.device, *, plugin: str) -> str | None:
    """Why this plugin can't run, in one line; None if it can. OpenVINO is asked once.

    Args:
        plugin: OpenVINO's name of it: GPU or NPU.
    """
    if device.type != "cpu":
        return "OpenVINO takes frames from the CPU, and runs on no CUDA device"
    return missing(EXTRA, "openvino") or _absent(plugin)


@functools.cache
def _absent(plugin: str) -> str | None:
    try:
        found = [name.partition(".")[0] for name in core().available_devices]
    except Exception as error:  # of any driver
        return f"OpenVINO can't look for devices: {last_line(error)}"
    return None if plugin in found else f"OpenVINO finds no {plugin} here, or no driver of one"


def unbuildable(device: torch.device, *, plugin: str) -> str | None:
    """Why files can't be written here, in one line; None if they can."""
    return unavailable(device, plugin=plugin) or missing(EXTRA, "onnx")


def version(device: torch.device, *, plugin: str) -> str:
    """What writes and reads the files: OpenVINO, the device and its driver."""
    return _version(plugin)


@functools.cache
def _version(plugin: str) -> str:
    import openvino

    told = [f"openvino {openvino.__version__}"]
    for name in _PROPERTIES:
        with contextlib.suppress(Exception):  # which of them there are depends on the plugin and its version
            told.append(str(core().get_property(plugin, name)))
    return ", ".join(told)


def build(generator: Generator, example: Tensor, precision: str, path: Path, *, plugin: str) -> dict[str, Any]:
    """Compiles for inputs of the example's shape and writes what came of it; returns facts of the ONNX model between.

    Args:
        generator: eval mode, float32.
        example: input [N, 3, H, W] in the dtype of `precision`.
        precision: one that the plugin has.
        path: of the file.
        plugin: OpenVINO's name of what it is compiled for.

    Raises:
        BackendError: a layer can't be written or compiled, or not in that precision.
    """
    model, facts = converted(generator, example)
    hint = HINTS[example.dtype]
    try:
        compiled = core().compile_model(
            model, plugin, {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        )
        require_precision(compiled, hint, f"this {plugin}")
        stream = io.BytesIO()
        compiled.export_model(stream)
    except RuntimeError as error:
        raise BackendError(f"OpenVINO can't compile the generator for the {plugin}: {last_line(error)}") from error
    path.write_bytes(stream.getvalue())
    return facts


def load(path: Path, example: Tensor, precision: str, *, plugin: str) -> CompiledGenerator:
    """Loads a file for inputs of the shape of `example`, [N, 3, H, W].

    In which precision it computes was checked when it was built; plugins do not know it of a file.

    Returns:
        A callable from and to float32, on the CPU, with the attribute `input_dtype`. It raises EngineLostError where
        the device does not go on.

    Raises:
        BackendError: a damaged or foreign file, one for another shape, or there is no such device.
    """
    # Plugins take a file for one in their own half precision unless they are told; an NPU's knows nothing else.
    options = {} if plugin == "NPU" else {"INFERENCE_PRECISION_HINT": HINTS[example.dtype]}
    try:
        compiled = core().import_model(path.read_bytes(), plugin, options)
        shape = list(compiled.input().shape)
    except (OSError, RuntimeError) as error:
        raise BackendError(f"OpenVINO can't load {path.name} on the {plugin}: {last_line(error)}") from error
    if shape != list(example.shape):
        raise BackendError(f"{path.name} takes inputs of {shape}, not of {list(example.shape)}: build it again")
    return _Network(compiled, plugin)


class _Network:
    """A loaded file. Calls take and return float32 on the CPU."""

    input_dtype = torch.float32

    def __init__(self, compiled: Any, plugin: str) -> None:
        self._plugin = plugin
        self._request = compiled.create_infer_request()
        self._output_shape = tuple(compiled.output().shape)

    def __call__(self, image: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, C, H * scale, W * scale]
        try:
            return infer(self._request, image, self._output_shape)
        except RuntimeError as error:
            raise EngineLostError(f"the {self._plugin} does not go on: {last_line(error)}") from error
