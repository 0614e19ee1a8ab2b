"""A generator as an ONNX file with one node per layer, which ONNX Runtime, OpenVINO and TensorRT start from.

torch.export gives the layers; each kind is written as one ONNX node by a function of `_WRITERS`. All attributes are
constants and nothing depends on the frame's size, so there is no shape arithmetic: one file serves every size.
BatchNorm is folded into the convolution before it. Pixel unshuffle, whose channels ONNX's SpaceToDepth orders in
another way, is a depthwise convolution that copies one pixel per output channel.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights

from engine.backends.base import INPUT, OUTPUT
from engine.errors import BackendError
from engine.generators import Generator

OPSET = 21  # the first whose GroupNormalization has a scale per channel

Value = fx.Node | None
"""What computes an argument of a layer that can be left out."""

_ELEMENT_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.int64: TensorProto.INT64}


def export_onnx(generator: Generator, example: Tensor, path: Path, *, dynamic: bool = False) -> onnx.ModelProto:
    """Writes what `onnx_model` returns as one file, weights inside.

    Raises:
        BackendError: as `onnx_model`, or the file would be larger than 2 GB.
    """
    model = onnx_model(generator, example, dynamic=dynamic)
    try:
        onnx.save(model, path)
    except (ValueError, EncodeError) as error:  # protobuf's limit
        raise BackendError(f"the generator can't be written as one ONNX file: {error}") from error
    return model


def onnx_model(generator: Generator, example: Tensor, *, dynamic: bool = False) -> onnx.ModelProto:
    """`generator` as an ONNX model: input "input", output "output", opset 21, and the scale as a property "scale".

    Args:
        generator: in eval mode, float32, on any device.
        example: an input [N, C, H, W], float32 or float16; weights and activations in the model are of its dtype.
        dynamic: the model takes any height and width that the generator takes, else those of `example` only.

    Raises:
        BackendError: another dtype, a generator in training mode, or a layer that can't be written.
    """
    if example.dtype not in (torch.float32, torch.float16):
        raise BackendError(f"ONNX models are written in float32 and float16, not in {example.dtype}")
    if any(layer.training for layer in generator.modules()):
        raise BackendError("a generator in training mode can't be written as ONNX: call eval() first")
    device = next(generator.parameters()).device
    with torch.no_grad():
        program = torch.export.export(generator, (torch.zeros(example.shape, device=device),), strict=False)
    writer = _Writer(program, example.dtype)
    for node in program.graph.nodes:
        if node.op == "call_function":
            writer.write(node)
    model = writer.model(example.shape, dynamic=dynamic)
    helper.set_model_props(model, {"scale": str(generator.scale)})
    return model


def count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each kind there are, e.g. {"Conv": 24, "InstanceNormalization": 23}."""
    return dict(collections.Counter(node.op_type for node in model.graph.node))


class _Writer:
    """Collects the nodes and weights of an ONNX graph. Values have the names of torch.export's nodes."""

    def __init__(self, program: torch.export.ExportedProgram, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._names: dict[fx.Node, str] = {}  # what a node's value is called in the file
        signature = program.graph_signature
        weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        state = {**program.state_dict, **program.constants}
        self._weights: dict[fx.Node, tuple[str, Tensor]] = {}
        for node in program.graph.nodes:
            if node.name in weights:
                name = weights[node.name]
                self._weights[node] = name, state[name].detach().float()
            elif node.op == "placeholder":
                self._names[node] = INPUT
            elif node.op == "output":
                self._output = node.args[0][0]

    def write(self, node: fx.Node) -> None:
        """Writes the ONNX node of a node of torch.export's graph."""
        if node.target not in _WRITERS:
            raise BackendError(f"no ONNX operator is known for {node.target}")
        self._names[node] = OUTPUT if node is self._output else node.name
        _WRITERS[node.target](self, node, **arguments_of(node))

    def add(self, node: fx.Node, kind: str, *inputs: fx.Node | str, **attributes: Any) -> None:
        """Adds the ONNX node of type `kind` whose output is the value of `node`; inputs are values or weights."""
        names = [self._names[value] if isinstance(value, fx.Node) else value for value in inputs]
        self._nodes.append(helper.make_node(kind, names, [self._names[node]], node.name, **attributes))

    def same(self, node: fx.Node, other: fx.Node) -> None:
        """`node` computes nothing: its value is that of `other`."""
        if node is self._output:
            self.add(node, "Identity", other)
        else:
            self._names[node] = self._names[other]

    def weight(self, node: fx.Node) -> tuple[str, Tensor]:
        """Name and float32 value of a parameter or buffer."""
        return self._weights[node]

    def constant(self, name: str, value: Tensor, dtype: torch.dtype | None = None) -> str:
        """Stores `value` under `name`, once, in the model's dtype or `dtype`, and returns `name`."""
        if name not in self._initializers:
            stored = value.to(device="cpu", dtype=dtype or self._dtype).contiguous()
            raw = stored.reshape(-1).view(torch.uint8).numpy().tobytes()
            kind = _ELEMENT_TYPES[stored.dtype]
            self._initializers[name] = helper.make_tensor(name, kind, list(stored.shape), raw, raw=True)
        return name

    def model(self, shape: torch.Size, *, dynamic: bool) -> onnx.ModelProto:
        """The graph written so far, with inputs of `shape`, or of any height and width."""
        output_shape: list[int | str] = [*self._output.meta["val"].shape]
        input_shape: list[int | str] = [*shape]
        if dynamic:
            input_shape[2:], output_shape[2:] = ["height", "width"], ["output_height", "output_width"]
        kind = _ELEMENT_TYPES[self._dtype]
        graph = helper.make_graph(
            self._nodes,
            "generator",
            [helper.make_tensor_value_info(INPUT, kind, input_shape)],
            [helper.make_tensor_value_info(OUTPUT, kind, output_shape)],
            list(self._initializers.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),  # so that older runtimes read it
            producer_name="streamgan",
        )


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call of an ATen operator by the names of its schema, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    values = {argument.name: argument.default_value for argument in schema}
    values.update(zip((argument.name for argument in schema), node.args, strict=False))
    values.update(node.kwargs)
    return values


# --- one function per layer; parameters have the names of the ATen operator's ---


def _convolution(
    writer: _Writer, node: fx.Node, input: fx.Node, weight: fx.Node, bias: Value, groups: int, **arguments: Any
) -> None:
    is_transposed = node.target is _CONV_TRANSPOSE
    name, kernel = writer.weight(weight)
    offset = None if bias is None else writer.weight(bias)[1]
    norm = _folded_norm(node)
    if norm is not None:
        kernel, offset = _fold(writer, norm, kernel, offset, transpose=is_transposed)
    inputs = [writer.constant(name, kernel)]
    if offset is not None:
        inputs.append(writer.constant(f"{name.removesuffix('weight')}bias", offset))
    attributes = {
        "kernel_shape": list(kernel.shape[2:]),
        "strides": _pair(arguments["stride"]),
        "pads": _pair(arguments["padding"]) * 2,
        "dilations": _pair(arguments["dilation"]),
        "group": groups,
    }
    if is_transposed:
        attributes["output_padding"] = _pair(arguments["output_padding"])
    writer.add(node, "ConvTranspose" if is_transposed else "Conv", input, *inputs, **attributes)


def _folded_norm(node: fx.Node) -> fx.Node | None:
    """The BatchNorm that alone takes the result of a convolution, and that can be part of the convolution."""
    user = next(iter(node.users))
    grouped_transpose = node.target is _CONV_TRANSPOSE and arguments_of(node)["groups"] != 1
    is_norm = len(node.users) == 1 and user.target is _ATEN.batch_norm.default
    return user if is_norm and not grouped_transpose else None


def _fold(
    writer: _Writer, norm: fx.Node, kernel: Tensor, offset: Tensor | None, *, transpose: bool
) -> tuple[Tensor, Tensor]:
    values = arguments_of(norm)
    mean, variance = (writer.weight(values[name])[1] for name in ("running_mean", "running_var"))
    scale, bias = (None if values[name] is None else writer.weight(values[name])[1] for name in ("weight", "bias"))
    folded = fuse_conv_bn_weights(kernel, offset, mean, variance, values["eps"], scale, bias, transpose)
    return folded[0].detach(), folded[1].detach()


def _batch_norm(writer: _Writer, node: fx.Node, input: fx.Node, eps: float, **arguments: Any) -> None:
    if input.op == "call_function" and _folded_norm(input) is node and _WRITERS.get(input.target) is _convolution:
        writer.same(node, input)
        return
    weights = (arguments[name] for name in ("weight", "bias", "running_mean", "running_var"))
    inputs = (writer.constant(*writer.weight(value)) for value in weights)
    writer.add(node, "BatchNormalization", input, *inputs, epsilon=eps)


def _instance_norm(
    writer: _Writer, node: fx.Node, input: fx.Node, weight: Value, bias: Value, eps: float, **arguments: Any
) -> None:
    if not arguments["use_input_stats"]:
        raise BackendError("an InstanceNorm with running statistics can't be written as ONNX")
    scale, offset = _affine(writer, weight, bias, input)
    writer.add(node, "InstanceNormalization", input, scale, offset, epsilon=eps)


def _group_norm(
    writer: _Writer, node: fx.Node, input: fx.Node, num_groups: int, weight: Value, bias: Value, eps: float, **_: Any
) -> None:
    # Not LayerNormalization, though one group is the same: TensorRT makes a quarter more kernels of that.
    scale, offset = _affine(writer, weight, bias, input)
    writer.add(node, "GroupNormalization", input, scale, offset, num_groups=num_groups, epsilon=eps)


def _affine(writer: _Writer, weight: Value, bias: Value, input: fx.Node) -> tuple[str, str]:
    """Names of a norm's scale and offset, [C]; norms without learned ones share constants."""
    channels = input.meta["val"].shape[1]
    scale = (f"ones_{channels}", torch.ones(channels)) if weight is None else writer.weight(weight)
    offset = (f"zeros_{channels}", torch.zeros(channels)) if bias is None else writer.weight(bias)
    return writer.constant(*scale), writer.constant(*offset)


def _pad(writer: _Writer, node: fx.Node, self: fx.Node, pad: list[int], mode: str, value: float | None) -> None:
    if not any(pad):
        writer.same(node, self)
        return
    left, right, top, bottom = pad
    amounts = torch.tensor([0, 0, top, left, 0, 0, bottom, right])
    inputs = [writer.constant(f"pads_{'_'.join(map(str, pad))}", amounts, torch.int64)]
    if mode == "constant" and value:
        inputs.append(writer.constant(f"value_{value}", torch.tensor(value)))
    mode = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    writer.add(node, "Pad", self, *inputs, mode=mode)


def _leaky_relu(writer: _Writer, node: fx.Node, self: fx.Node, negative_slope: float) -> None:
    writer.add(node, "LeakyRelu", self, alpha=negative_slope)


def _prelu(writer: _Writer, node: fx.Node, self: fx.Node, weight: fx.Node) -> None:
    name, slope = writer.weight(weight)
    writer.add(node, "PRelu", self, writer.constant(name, slope.reshape(-1, 1, 1)))


def _unary(kind: str) -> Callable[..., None]:
    def write(writer: _Writer, node: fx.Node, self: fx.Node) -> None:
        writer.add(node, kind, self)

    return write


def _binary(kind: str) -> Callable[..., None]:
    def write(writer: _Writer, node: fx.Node, self: fx.Node, other: fx.Node | float, alpha: float = 1) -> None:
        if alpha != 1:
            raise BackendError(f"{node.target} with a factor can't be written as ONNX")
        value = other if isinstance(other, fx.Node) else writer.constant(f"scalar_{other}", torch.tensor(float(other)))
        writer.add(node, kind, self, value)

    return write


def _dropout(writer: _Writer, node: fx.Node, input: fx.Node, **_: Any) -> None:
    writer.same(node, input)


def _cat(writer: _Writer, node: fx.Node, tensors: list[fx.Node], dim: int) -> None:
    writer.add(node, "Concat", *tensors, axis=dim)


def _pixel_shuffle(writer: _Writer, node: fx.Node, self: fx.Node, upscale_factor: int) -> None:
    writer.add(node, "DepthToSpace", self, blocksize=upscale_factor, mode="CRD")


def _pixel_unshuffle(writer: _Writer, node: fx.Node, self: fx.Node, downscale_factor: int) -> None:
    if downscale_factor == 1:
        writer.same(node, self)
        return
    factor, channels = downscale_factor, self.meta["val"].shape[1]
    pixels = torch.eye(factor * factor).reshape(-1, 1, factor, factor).repeat(channels, 1, 1, 1)
    kernel = writer.constant(f"pixels_{channels}_{factor}", pixels)
    sides = [factor, factor]
    writer.add(node, "Conv", self, kernel, kernel_shape=sides, strides=sides, group=channels)


def _upsample_nearest(writer: _Writer, node: fx.Node, input: fx.Node, **_: Any) -> None:
    _resize(writer, node, input, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")


def _upsample_bilinear(writer: _Writer, node: fx.Node, input: fx.Node, align_corners: bool, **_: Any) -> None:
    coordinates = "align_corners" if align_corners else "half_pixel"
    _resize(writer, node, input, mode="linear", coordinate_transformation_mode=coordinates)


def _resize(writer: _Writer, node: fx.Node, input: fx.Node, **attributes: Any) -> None:
    before, after = input.meta["val"].shape[2:], node.meta["val"].shape[2:]
    factors = [large // small for large, small in zip(after, before, strict=True)]
    if [small * factor for small, factor in zip(before, factors, strict=True)] != list(after):
        raise BackendError(f"{node.target} from {list(before)} to {list(after)} is no enlargement by a whole factor")
    scales = torch.tensor([1.0, 1.0, *map(float, factors)])
    stored = writer.constant(f"scales_{factors[0]}_{factors[1]}", scales, torch.float32)
    writer.add(node, "Resize", input, "", stored, **attributes)


def _pair(values: list[int]) -> list[int]:
    """ATen takes [2] for [2, 2]."""
    return list(values) * 2 if len(values) == 1 else list(values)


_ATEN: Any = torch.ops.aten
_CONV_TRANSPOSE = _ATEN.conv_transpose2d.input
_WRITERS: dict[Any, Callable[..., None]] = {
    _ATEN.conv2d.default: _convolution,
    _CONV_TRANSPOSE: _convolution,
    _ATEN.batch_norm.default: _batch_norm,
    _ATEN.instance_norm.default: _instance_norm,
    _ATEN.group_norm.default: _group_norm,
    _ATEN.pad.default: _pad,
    _ATEN.relu.default: _unary("Relu"),
    _ATEN.relu_.default: _unary("Relu"),
    _ATEN.tanh.default: _unary("Tanh"),
    _ATEN.leaky_relu.default: _leaky_relu,
    _ATEN.prelu.default: _prelu,
    _ATEN.add.Tensor: _binary("Add"),
    _ATEN.mul.Tensor: _binary("Mul"),
    _ATEN.dropout.default: _dropout,
    _ATEN.cat.default: _cat,
    _ATEN.pixel_shuffle.default: _pixel_shuffle,
    _ATEN.pixel_unshuffle.default: _pixel_unshuffle,
    _ATEN.upsample_nearest2d.vec: _upsample_nearest,
    _ATEN.upsample_bilinear2d.vec: _upsample_bilinear,
}
