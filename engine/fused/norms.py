"""A generator with `instance_norm_act` between library convolutions: the form that runs on a GPU.

`fuse_norms` traces a generator and rewrites its graph. Convolutions stay PyTorch's (cuDNN's on CUDA); of what stands
between two of them, norm, activation, residual and reflect padding become one call of `engine.ops.instance_norm_act`.
Nothing depends on the device, the dtype or the size of a frame.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from engine import ops
from engine.errors import BackendError, first_line
from engine.generators import Generator
from engine.sizes import padded_size

Padding = tuple[int, int, int, int]  # left, right, top, bottom

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_RELU = {F.relu, torch.relu, torch.relu_, "relu", "relu_"}
_LEAKY_RELU = {F.leaky_relu, F.leaky_relu_}
_TANH = {torch.tanh, F.tanh, "tanh"}
_ADDITIONS = {operator.add, torch.add, "add", "add_"}


class NormFused(nn.Module):
    """A generator as `fuse_norms` rewrote it: the same input and output, any frame size that the generator takes.

    Converting it to another dtype leaves the weights of the norms in float32, as the operator wants them.

    Attributes:
        body: image -> output, before the final tanh if there is one.
        ends_in_tanh: whether there is one; it is left to whoever quantises.
    """

    def __init__(self, body: fx.GraphModule, *, ends_in_tanh: bool) -> None:
        super().__init__()
        self.body = body
        self.ends_in_tanh = ends_in_tanh

    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.body(image)
        return torch.tanh(output) if self.ends_in_tanh else output

    def new_slot(self) -> fx.GraphModule:
        """The body, for one of several frames under way: it keeps nothing between calls."""
        return self.body

    def first_non_finite(self, image: Tensor) -> str | None:
        """The first layer whose output holds a NaN or an infinity, e.g. "model.10.conv_block.1 (Conv2d)"; else None.

        Slow: runs layer by layer and looks at each result. What was fused into a norm is part of that norm.
        """
        search = _NonFiniteSearch(self.body)
        search.run(image)
        return search.found


class InstanceNormAct(nn.Module):
    """`engine.ops.instance_norm_act` with the weights of a norm layer, which are float32 whatever becomes of the rest.

    Args:
        norm: an InstanceNorm2d without running statistics, or a GroupNorm of one group or of one for each channel.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, norm: nn.InstanceNorm2d | nn.GroupNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.over_channels = isinstance(norm, nn.GroupNorm) and norm.num_groups != norm.num_channels
        for name in ("weight", "bias"):
            values = getattr(norm, name)
            self.register_buffer(name, None if values is None else values.detach().float())

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        *,
        activation: Literal["none", "relu", "leaky_relu"] = "none",
        negative_slope: float = 0.0,
        pad: Padding = (0, 0, 0, 0),
    ) -> Tensor:
        return ops.instance_norm_act(
            input,
            weight=self.weight,
            bias=self.bias,
            residual=residual,
            eps=self.eps,
            activation=activation,
            negative_slope=negative_slope,
            over_channels=self.over_channels,
            pad=pad,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InstanceNormAct:
        def keeping_float32(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return applied if applied.dtype == tensor.dtype else tensor.to(applied.device)

        super()._apply(keeping_float32, recurse)
        return self


def fuse_norms(generator: Generator) -> NormFused:
    """The generator with everything between its convolutions that `instance_norm_act` does in calls of that operator.

    - BatchNorm becomes part of the convolution before it.
    - InstanceNorm, and GroupNorm of one group, take in the activation, the addition and the reflect padding that
      follow. Where more than the padding reads a value, as the stream of a residual network is read, the padded value
      is what is written, and the others read its inside, a view.
    - A convolution's bias that InstanceNorm would subtract again is left out.
    - Weights of convolutions are channels_last.

    Args:
        generator: in eval mode, on any device. It is copied, and not changed; the copy's weights take no gradients.

    Raises:
        BackendError: the generator is in training mode, can't be traced, or changes a value in place that is read
            again.
    """
    if any(module.training for module in generator.modules()):
        raise BackendError(
            "norms are fused in a generator in eval mode, and this one is in training mode: call .eval()"
        )
    body = _traced(copy.deepcopy(generator).requires_grad_(False))
    _drop_idle_layers(body)
    _check_nothing_is_changed_in_place(body)
    _fold_batch_norms(body)
    values = _values_of(body, _example_for(generator))
    norms = _replace_norms(body, values)
    for norm in norms:
        _drop_cancelled_bias(body, norm)
    for norm in norms:
        _absorb_activation(body, norm)
        _absorb_residual(norm, values)
        _absorb_reflect_padding(body, norm, values)
    ends_in_tanh = _drop_final_tanh(body)
    body.delete_all_unused_submodules()
    body.graph.lint()
    body.recompile()
    body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return NormFused(body, ends_in_tanh=ends_in_tanh).eval()


def inside(padded: Tensor, pad: Padding) -> Tensor:
    """What was padded: a view of [N, C, top + H + bottom, left + W + right] as [N, C, H, W]."""
    left, right, top, bottom = pad
    return padded[:, :, top : padded.shape[2] - bottom, left : padded.shape[3] - right]


def _traced(generator: Generator) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(generator)
    except Exception as error:  # whatever the forward of an unknown generator raises when it meets no tensor
        raise BackendError(
            f"{type(generator).__name__} can't be traced to fuse its norms: {first_line(error)}"
        ) from error


def _layer(body: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that the node calls, if it calls one."""
    return body.get_submodule(str(node.target)) if node.op == "call_module" else None


def _calls(node: fx.Node, functions: set[Any]) -> bool:
    """Whether the node calls one of these functions, or a method of one of these names."""
    return node.op in ("call_function", "call_method") and node.target in functions


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _replace(node: fx.Node, by: fx.Node) -> None:
    """Lets all that reads `node` read `by` instead, and removes `node`."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def _drop_idle_layers(body: fx.GraphModule) -> None:
    """Removes what does nothing in eval mode: Identity, Dropout and padding by nothing."""
    for node in list(body.graph.nodes):
        layer = _layer(body, node)
        pads_nothing = isinstance(layer, nn.ReflectionPad2d) and not any(layer.padding)
        if pads_nothing or isinstance(layer, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            _replace(node, node.all_input_nodes[0])


def _check_nothing_is_changed_in_place(body: fx.GraphModule) -> None:
    """What is moved in the graph must find the values that it would have found before."""
    for node in body.graph.nodes:
        if _works_in_place(body, node) and len(node.all_input_nodes[0].users) > 1:
            raise BackendError(f"{_name_of(body, node)} changes a value in place that something else reads")


def _works_in_place(body: fx.GraphModule, node: fx.Node) -> bool:
    if node.op not in ("call_module", "call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if getattr(_layer(body, node), "inplace", False) or node.kwargs.get("inplace", False):
        return True
    return node.op != "call_module" and name.endswith("_") and not name.endswith("__")


def _is_called_once(node: fx.Node) -> bool:
    """Whether no other node calls the module of this one, so that the module may be changed."""
    return sum(other.op == "call_module" and other.target == node.target for other in node.graph.nodes) == 1


def _fold_batch_norms(body: fx.GraphModule) -> None:
    for node in list(body.graph.nodes):
        norm = _layer(body, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
            continue
        source = node.all_input_nodes[0]
        convolution = _layer(body, source)
        if isinstance(convolution, _CONVOLUTIONS) and len(source.users) == 1 and _is_called_once(source):
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            if transposed and convolution.groups > 1:
                continue  # not known to fuse_conv_bn_eval
            body.set_submodule(str(source.target), fuse_conv_bn_eval(convolution, norm, transposed))
            _replace(node, source)


@dataclasses.dataclass(frozen=True)
class _Value:
    """What is known of a node's result."""

    shape: torch.Size
    dtype: torch.dtype


class _ValueRecorder(fx.Interpreter):
    """Runs a graph and notes the shapes of its tensors."""

    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__(body)
        self.values: dict[fx.Node, _Value] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n] = _Value(result.shape, result.dtype)
        return result


def _example_for(generator: Generator) -> Tensor:
    """A small image. Two of them, not square: nothing that is broadcast has the shape of what it is added to."""
    height, _ = padded_size(generator, 8, 8)
    weight = next(generator.parameters(), torch.empty(0))
    shape = (2, generator.config.in_channels, height, height + generator.multiple)
    return torch.zeros(shape, dtype=weight.dtype, device=weight.device)


def _values_of(body: fx.GraphModule, image: Tensor) -> dict[fx.Node, _Value]:
    recorder = _ValueRecorder(body)
    recorder.run(image)
    return recorder.values


def _replace_norms(body: fx.GraphModule, values: dict[fx.Node, _Value]) -> list[fx.Node]:
    """Puts `InstanceNormAct` where norms are that it can be. Returns the nodes that call it, in their order."""
    for node in body.graph.nodes:
        norm = _layer(body, node)
        if isinstance(norm, nn.InstanceNorm2d):
            known = norm.running_mean is None
        elif isinstance(norm, nn.GroupNorm):
            known = norm.num_groups in (1, norm.num_channels) and len(values[node].shape) == 4
        else:
            continue
        if known:
            body.set_submodule(str(node.target), InstanceNormAct(norm))
    norms = [node for node in body.graph.nodes if isinstance(_layer(body, node), InstanceNormAct)]
    for node in norms:
        node.args, node.kwargs = (node.all_input_nodes[0],), {}
    return norms


def _drop_cancelled_bias(body: fx.GraphModule, norm: fx.Node) -> None:
    source = norm.all_input_nodes[0]
    convolution, layer = _layer(body, source), _layer(body, norm)
    assert isinstance(layer, InstanceNormAct)
    is_free = len(source.users) == 1 and _is_called_once(source)
    if isinstance(convolution, _CONVOLUTIONS) and is_free and not layer.over_channels:
        convolution.bias = None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _absorb_activation(body: fx.GraphModule, norm: fx.Node) -> None:
    user = _only_user(norm)
    activation = _activation_of(body, user) if user else None
    if user and activation:
        norm.kwargs = {**norm.kwargs, **activation}
        _replace(user, norm)


def _activation_of(body: fx.GraphModule, node: fx.Node) -> dict[str, Any] | None:
    """The activation as arguments of `instance_norm_act`, or None for any other node."""
    layer = _layer(body, node)
    if isinstance(layer, nn.ReLU) or _calls(node, _RELU):
        return {"activation": "relu"}
    if isinstance(layer, nn.LeakyReLU):
        return {"activation": "leaky_relu", "negative_slope": layer.negative_slope}
    if _calls(node, _LEAKY_RELU):
        return {"activation": "leaky_relu", "negative_slope": _argument(node, 1, "negative_slope", 0.01)}
    return None


def _absorb_residual(norm: fx.Node, values: dict[fx.Node, _Value]) -> None:
    user = _only_user(norm)
    if user is None or not _calls(user, _ADDITIONS) or user.kwargs.get("alpha", 1) != 1:
        return
    (other,) = [operand for operand in user.args if operand is not norm] or [None]
    if isinstance(other, fx.Node) and values.get(other) == values[norm]:
        norm.args = (norm.args[0], other)
        user.prepend(norm)  # the residual may be computed after the place where the norm was
        _replace(user, norm)


def _absorb_reflect_padding(body: fx.GraphModule, norm: fx.Node, values: dict[fx.Node, _Value]) -> None:
    pads = {user: pad for user in norm.users if (pad := _reflect_padding_of(body, user))}
    if len(set(pads.values())) != 1:
        return
    (pad,) = set(pads.values())
    others = [user for user in norm.users if user not in pads]
    norm.kwargs = {**norm.kwargs, "pad": pad}
    for user in pads:
        layer = _layer(body, user)
        if isinstance(layer, nn.Conv2d):
            layer.padding, layer.padding_mode = (0, 0), "zeros"
        else:
            _replace(user, norm)
    if others:
        with norm.graph.inserting_after(norm):
            view = norm.graph.call_function(inside, (norm, pad))
        values[view] = values[norm]
        for user in others:
            user.replace_input_with(norm, view)


def _reflect_padding_of(body: fx.GraphModule, node: fx.Node) -> Padding | None:
    """How the node pads its input by reflection: as a layer, a function or a convolution. None if it does not."""
    layer = _layer(body, node)
    pad: Any = None
    if isinstance(layer, nn.ReflectionPad2d):
        pad = layer.padding
    elif isinstance(layer, nn.Conv2d) and layer.padding_mode == "reflect" and _is_called_once(node):
        pad = layer._reversed_padding_repeated_twice
    elif _calls(node, {F.pad}) and _argument(node, 2, "mode", "constant") == "reflect":
        pad = _argument(node, 1, "pad", None)
    if pad is None or not any(pad) or not all(isinstance(side, int) and side >= 0 for side in pad):
        return None
    left, right, top, bottom = pad
    return left, right, top, bottom


def _drop_final_tanh(body: fx.GraphModule) -> bool:
    """Removes the tanh that the output comes from. Returns whether there was one."""
    (output,) = (node for node in body.graph.nodes if node.op == "output")
    last = output.args[0]
    if not isinstance(last, fx.Node):
        return False
    if not isinstance(_layer(body, last), nn.Tanh) and not _calls(last, _TANH):
        return False
    _replace(last, last.all_input_nodes[0])
    return True


class _NonFiniteSearch(fx.Interpreter):
    """Runs a graph and notes the first node whose result is not finite."""

    found: str | None = None

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if self.found is None and isinstance(result, Tensor) and not result.isfinite().all():
            assert isinstance(self.module, fx.GraphModule)
            self.found = _name_of(self.module, n)
        return result


def _name_of(body: fx.GraphModule, node: fx.Node) -> str:
    """The node as people know it: the path in the generator and what is there."""
    layer = _layer(body, node)
    if layer is not None:
        return f"{node.target} ({type(layer).__name__})"
    if node.op in ("placeholder", "get_attr"):
        return f"{node.target} ({'input' if node.op == 'placeholder' else 'tensor'})"
    stack = list(node.meta.get("nn_module_stack", {}).values())
    function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    path = stack[-1][0] if stack else ""
    return f"{path} ({function})" if path else function
