"""`instance_norm_act` inside TensorRT engines: norm, activation, residual and reflect padding as one layer.

TensorRT keeps them apart: statistics, scale and bias, ReLU, addition, and a copy for the padding. This is a quick
deployable plugin that calls the CUDA operator on TensorRT's own memory and stream. An engine with it needs this package
to run; a CUDA graph of it needs Python no more once it is captured. **Not run on a GPU yet.**
"""

# Without `from __future__ import annotations`: TensorRT reads the types of the functions that it is given.

import contextlib
import functools
import importlib.util
import json
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.backends.base import load_module, missing
from engine.errors import BackendError, first_line

NAMESPACE = "streamgan"

# Name of the plugin -> what it takes. TensorRT has no optional inputs.
PLUGINS = {
    "instance_norm_act": ("input", "weight", "bias"),
    "instance_norm_act_residual": ("input", "weight", "bias", "residual"),
}

_REGISTERING = threading.Lock()

# Memory order of a picture for each element type: TensorRT's names, planar and interleaved.
_INTERLEAVED = {"FLOAT": "HWC", "HALF": "HWC8"}
_HWC8_CHANNELS = 8  # that HWC8 rounds up to

_TYPES = {"FLOAT": torch.float32, "HALF": torch.float16}


def unavailable() -> str | None:
    """Why engines can't have the plugin, in one line; None if they can."""
    if (absent := missing("tensorrt", "tensorrt")) is not None:
        return absent
    try:
        load_module("tensorrt")
    except BackendError as error:
        return str(error)
    if importlib.util.find_spec("tensorrt.plugin") is None:
        return "this TensorRT has no quick deployable plugins"
    from engine import ops

    return ops.cuda_unavailable()


def register() -> None:
    """Makes the plugins known to TensorRT. To be called before an engine with them is loaded.

    Raises:
        BackendError: it does not take them.
    """
    with _REGISTERING:
        if (reason := _register_once()) is not None:
            raise BackendError(f"TensorRT does not take our plugins: {reason}")


def register_converter() -> None:
    """Makes the plugins known to Torch-TensorRT. To be called before an engine with them is built.

    Raises:
        BackendError: it does not take them.
    """
    with _REGISTERING:
        if (reason := _register_converter_once()) is not None:
            raise BackendError(f"Torch-TensorRT does not take our plugins: {reason}")


@functools.cache
def _register_once() -> str | None:
    """Why it failed, if it did. It is tried once: a name can't be taken twice."""
    try:
        import tensorrt.plugin as trtp

        _register_without_residual(trtp)
        _register_with_residual(trtp)
    except Exception as error:  # of versions whose interface is another one
        return first_line(error)
    return None


@functools.cache
def _register_converter_once() -> str | None:
    try:
        _register_converter()
    except Exception as error:  # of versions whose interface is another one
        return first_line(error)
    return None


def _register_without_residual(trtp: Any) -> None:
    name = f"{NAMESPACE}::instance_norm_act"

    @trtp.register(name)
    def describe(
        input: trtp.TensorDesc,
        weight: trtp.TensorDesc,
        bias: trtp.TensorDesc,
        settings: str,
    ) -> trtp.TensorDesc:
        return _padded(trtp, input, settings)

    @trtp.autotune(name)
    def forms(
        input: trtp.TensorDesc, weight: trtp.TensorDesc, bias: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc]
    ) -> list[trtp.AutoTuneCombination]:
        return _forms(trtp, input, "instance_norm_act")

    @trtp.impl(name)
    def run(
        input: trtp.Tensor,
        weight: trtp.Tensor,
        bias: trtp.Tensor,
        settings: str,
        outputs: tuple[trtp.Tensor],
        stream: int,
    ) -> None:
        run_plugin((input, weight, bias), settings, outputs[0], stream)


def _register_with_residual(trtp: Any) -> None:
    name = f"{NAMESPACE}::instance_norm_act_residual"

    @trtp.register(name)
    def describe(
        input: trtp.TensorDesc,
        weight: trtp.TensorDesc,
        bias: trtp.TensorDesc,
        residual: trtp.TensorDesc,
        settings: str,
    ) -> trtp.TensorDesc:
        return _padded(trtp, input, settings)

    @trtp.autotune(name)
    def forms(
        input: trtp.TensorDesc,
        weight: trtp.TensorDesc,
        bias: trtp.TensorDesc,
        residual: trtp.TensorDesc,
        outputs: tuple[trtp.TensorDesc],
    ) -> list[trtp.AutoTuneCombination]:
        return _forms(trtp, input, "instance_norm_act_residual")

    @trtp.impl(name)
    def run(
        input: trtp.Tensor,
        weight: trtp.Tensor,
        bias: trtp.Tensor,
        residual: trtp.Tensor,
        settings: str,
        outputs: tuple[trtp.Tensor],
        stream: int,
    ) -> None:
        run_plugin((input, weight, bias, residual), settings, outputs[0], stream)


def _padded(trtp: Any, input: Any, settings: str) -> Any:
    """What describes the output: the input's shape with the padding around it."""
    left, right, top, bottom = json.loads(settings)["pad"]
    images, channels, height, width = input.shape_expr
    output = input.like()
    output.shape_expr = trtp.ShapeExprs.from_tuple((images, channels, height + (top + bottom), width + (left + right)))
    return output


def _forms(trtp: Any, input: Any, name: str) -> list[Any]:
    """The types and memory orders that the plugin takes: pictures all planar or all interleaved, weights in float32."""
    kind = input.dtype.name
    spelled = {"FLOAT": "FP32", "HALF": "FP16"}[kind]
    orders = ["LINEAR"]
    if kind == "FLOAT" or input.shape[1] % _HWC8_CHANNELS == 0:
        orders.append(_INTERLEAVED[kind])
    is_picture = [value not in ("weight", "bias") for value in (*PLUGINS[name], "output")]
    types = ", ".join(spelled if picture else "FP32" for picture in is_picture)
    return [
        trtp.AutoTuneCombination(types, ", ".join(order if picture else "LINEAR" for picture in is_picture))
        for order in orders
    ]


def _register_converter() -> None:
    import tensorrt.plugin as trtp
    from torch_tensorrt.dynamo.conversion import dynamo_tensorrt_converter
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    target = torch.ops.streamgan.instance_norm_act.default

    @dynamo_tensorrt_converter(target, supports_dynamic_shapes=True)
    def convert(context: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        plugin, values, attributes = plugin_call(*args, **kwargs)
        tensors = [get_trt_tensor(context, value, f"{name}_{label}") for label, value in values.items()]
        build = getattr(getattr(trtp.op, NAMESPACE), plugin)
        layer = context.net.add_plugin(build(*tensors, **attributes), aot=False)
        layer.name = name
        return (layer.get_output(0),)  # the operator's statistics are for its backward


def plugin_call(
    input: Any,
    weight: Any,
    bias: Any,
    residual: Any,
    epsilon: float,
    slope: float,
    over_channels: bool,
    pad: Sequence[int],
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A call of `torch.ops.streamgan.instance_norm_act` as one of a plugin.

    Returns:
        The plugin's name, its inputs by their names, and its attribute: JSON, because TensorRT 11.1 reads neither
        numbers back with NumPy 2.4 and later, nor declarations of arrays with Python 3.13 or NumPy 2.5.
    """
    channels = input.shape[1]
    values = {
        "input": input,
        "weight": torch.ones(channels) if weight is None else weight,
        "bias": torch.zeros(channels) if bias is None else bias,
    }
    if residual is not None:
        values["residual"] = residual
    (name,) = (name for name, inputs in PLUGINS.items() if inputs == tuple(values))
    settings = {"epsilon": epsilon, "slope": slope, "over_channels": bool(over_channels), "pad": list(pad)}
    return name, values, {"settings": json.dumps(settings)}


def run_plugin(inputs: Sequence[Any], settings: str, output: Any, stream: int) -> None:
    """Runs the operator on tensors as `tensorrt.plugin` describes them, on a stream given by its address."""
    input, weight, bias, *residual = (_picture(tensor) for tensor in inputs)
    values = json.loads(settings)
    with _on_stream(stream):
        torch.ops.streamgan.instance_norm_act_out(
            *(input, weight, bias, residual[0] if residual else None),
            *(values["epsilon"], values["slope"], values["over_channels"], values["pad"], _picture(output)),
        )


def _picture(tensor: Any) -> Tensor:
    """TensorRT's memory as a tensor: [N, C, H, W] in the memory order that it has, or [C]."""
    shape = tuple(int(side) for side in tensor.shape)
    dtype, order = _TYPES[tensor.dtype.name], tensor.format.name
    if order == "LINEAR":
        return _tensor_at(tensor.data_ptr, shape, dtype)
    images, channels, height, width = shape
    return _tensor_at(tensor.data_ptr, (images, height, width, channels), dtype).permute(0, 3, 1, 2)


def _tensor_at(pointer: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What lies on the current GPU at this address, in rows."""
    kind = {torch.float32: "<f4", torch.float16: "<f2"}[dtype]
    described = {"data": (pointer, False), "shape": shape, "typestr": kind, "strides": None, "version": 3}
    memory = type("Memory", (), {"__cuda_array_interface__": described})()
    return torch.as_tensor(memory, device="cuda")


def _on_stream(stream: int) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.stream(torch.cuda.ExternalStream(stream))
