"""Generators with fused norms against the modules they stand for, and what is fused in them."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from engine.errors import BackendError
from engine.fused.norms import InstanceNormAct, NormFused, fuse_norms, inside
from engine.generators import Generator, GeneratorConfig, ResNetConfig, TransformerNetConfig, UNetConfig, build
from tests.engine.small_generators import CONFIGS, small_generator
from tests.tolerances import NORM_FUSED_BF16_DB, NORM_FUSED_RTOL

# What the small generators of the other tests don't have.
MORE_CONFIGS: dict[str, GeneratorConfig] = {
    "resnet-9": ResNetConfig(width=4),
    "resnet-reflect-down": ResNetConfig(width=8, blocks=1, downsampling_padding="reflect"),
    "resnet-zeros": ResNetConfig(width=8, blocks=2, outer_padding="zeros", block_padding="zeros"),
    "resnet-batch": ResNetConfig(width=8, blocks=1, norm="batch", bias=False),
    "resnet-no-norm": ResNetConfig(width=8, blocks=1, norm="none"),
    "resnet-separable-instance": ResNetConfig(width=8, blocks=1, separable=True, affine=True),
    "resnet-odd-widths": ResNetConfig(blocks=1, widths=(5, 7, 9, 6, 3), block_widths=(11,), in_channels=1),
    "transformer-5": TransformerNetConfig(width=4),
    "unet-dropout": UNetConfig(width=4, downsamplings=5, norm="instance", dropout=True, bias=True),
}


def made(name: str) -> Generator:
    if name in CONFIGS:
        return small_generator(name)
    torch.manual_seed(0)
    return with_learned_values(build(MORE_CONFIGS[name]))


def with_learned_values(generator: Generator) -> Generator:
    """In eval mode, with norms and biases that do something."""
    for layer in generator.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm)) and layer.weight is not None:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.1, 0.4)
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.bias is not None:
            nn.init.uniform_(layer.bias, -1.0, 1.0)
    return generator.eval().requires_grad_(False)


def image_for(generator: Generator, *, rows: int = 3, columns: int = 2, images: int = 2) -> Tensor:
    """Random values; sides that are so many of the generator's multiple beyond the 40 pixels nearest to it."""
    base = -(-40 // generator.multiple)
    shape = ((base + rows) * generator.multiple, (base + columns) * generator.multiple)
    low, high = generator.input_range
    image = torch.rand(images, generator.config.in_channels, *shape, generator=torch.Generator().manual_seed(1))
    return (image * (high - low) + low).contiguous(memory_format=torch.channels_last)


def exact(generator: Generator, image: Tensor) -> Tensor:
    return copy.deepcopy(generator).double()(image.double())


def relative_error(output: Tensor, expected: Tensor) -> float:
    assert output.shape == expected.shape
    return float((output - expected).abs().max() / expected.abs().max())


def assert_equal_to_modules(fused: NormFused, generator: Generator, image: Tensor) -> None:
    assert relative_error(fused(image), exact(generator, image)) < NORM_FUSED_RTOL


def layer_of(fused: NormFused, node: fx.Node) -> nn.Module | None:
    return fused.body.get_submodule(str(node.target)) if node.op == "call_module" else None


def kinds(fused: NormFused) -> Counter[str]:
    """How often each layer or function is called."""
    names: Counter[str] = Counter()
    for node in fused.body.graph.nodes:
        layer = layer_of(fused, node)
        if layer is not None:
            names[type(layer).__name__] += 1
        elif node.op in ("call_function", "call_method"):
            names[getattr(node.target, "__name__", str(node.target))] += 1
    return names


def norm_calls(fused: NormFused) -> list[fx.Node]:
    return [node for node in fused.body.graph.nodes if isinstance(layer_of(fused, node), InstanceNormAct)]


def absorbed(fused: NormFused) -> Counter[str]:
    """How often `instance_norm_act` is called, and how often with each of what it takes in."""
    counts: Counter[str] = Counter()
    for node in norm_calls(fused):
        counts["norm"] += 1
        counts["activation"] += "activation" in node.kwargs
        counts["residual"] += len(node.args) == 2
        counts["pad"] += "pad" in node.kwargs
    return +counts


@pytest.mark.parametrize("name", [*CONFIGS, *MORE_CONFIGS])
def test_is_equal_to_the_modules(name: str) -> None:
    generator = made(name)
    fused = fuse_norms(generator)
    for rows, columns, images in ((3, 2, 2), (0, 1, 1)):  # through one module, and no square
        assert_equal_to_modules(fused, generator, image_for(generator, rows=rows, columns=columns, images=images))


@pytest.mark.parametrize("name", ["resnet", "resnet-blur", "resnet-reflect-down", "transformer-5", "animegan", "srvgg"])
@pytest.mark.parametrize("size", [(41, 38), (17, 55)])
def test_sizes_that_are_no_multiple(name: str, size: tuple[int, int]) -> None:
    generator = made(name)
    low, high = generator.input_range
    image = torch.rand(1, 3, *size) * (high - low) + low
    assert_equal_to_modules(fuse_norms(generator), generator, image)


@pytest.mark.parametrize("name", ["resnet", "animegan"])
def test_an_image_that_is_not_channels_last(name: str) -> None:
    generator = made(name)
    assert_equal_to_modules(fuse_norms(generator), generator, image_for(generator).contiguous())


@pytest.mark.parametrize("name", ["resnet", "unet", "animegan", "transformer_net"])
def test_the_smallest_size(name: str) -> None:
    generator = made(name)
    side = generator.minimum_size
    low, high = generator.input_range
    assert_equal_to_modules(fuse_norms(generator), generator, torch.rand(1, 3, side, side) * (high - low) + low)


def test_resnet_9_is_norms_between_convolutions() -> None:
    fused = fuse_norms(made("resnet-9"))
    assert kinds(fused) == {
        "ReflectionPad2d": 1,  # of the image
        "Conv2d": 22,
        "ConvTranspose2d": 2,
        "InstanceNormAct": 23,
        "inside": 9,  # what the nine blocks add to
    }
    # Padded: the input of each block, between its convolutions, and before the last convolution.
    assert absorbed(fused) == {"norm": 23, "activation": 14, "residual": 9, "pad": 19}
    assert fused.ends_in_tanh
    first = next(iter(fused.body.graph.nodes)).next
    assert isinstance(layer_of(fused, first), nn.ReflectionPad2d)


# What is absorbed, and what is left beside convolutions and norms.
EXPECTED: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "resnet-nearest": (
        {"norm": 7, "activation": 6, "residual": 1, "pad": 3},
        {"ReflectionPad2d": 1, "Upsample": 2, "inside": 1},
    ),
    "resnet-reflect-down": (
        {"norm": 7, "activation": 6, "residual": 1, "pad": 5},
        {"ReflectionPad2d": 1, "inside": 1},
    ),
    "resnet-zeros": ({"norm": 9, "activation": 7, "residual": 2}, {}),
    "resnet-separable-instance": (  # the norm between depthwise and pointwise has nothing behind it
        {"norm": 9, "activation": 6, "residual": 1, "pad": 3},
        {"ReflectionPad2d": 1, "inside": 1},
    ),
    # The second filter down is not behind a norm, and the block pads what it gives.
    "resnet-blur": (
        {"norm": 7, "activation": 6, "residual": 1, "pad": 5},
        {"ReflectionPad2d": 2, "conv2d": 2, "conv_transpose2d": 2, "pad": 2},
    ),
    "resnet-batch": ({}, {"ReflectionPad2d": 4, "ReLU": 6, "add": 1}),
    "transformer-5": (
        {"norm": 15, "activation": 10, "residual": 5, "pad": 13},
        {"ReflectionPad2d": 3, "Upsample": 2, "inside": 5},  # padded: the image, and behind the two resizes
    ),
    # A norm on the way down is read with and without the activation, one on the way up by torch.cat.
    "unet-instance": ({"norm": 7}, {"LeakyReLU": 4, "ReLU": 5, "cat": 4}),
    "unet-dropout": ({"norm": 7}, {"LeakyReLU": 4, "ReLU": 5, "cat": 4}),
    "unet": ({}, {"LeakyReLU": 4, "ReLU": 5, "cat": 4}),
    "animegan": (
        {"norm": 18, "activation": 16, "residual": 1, "pad": 11},
        {"ReflectionPad2d": 3, "interpolate": 2, "inside": 1, "getattr": 4, "getitem": 4},
    ),
    "srvgg": ({}, {"PReLU": 2, "PixelShuffle": 1, "interpolate": 1, "add": 1}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_absorbed_and_what_is_left(name: str) -> None:
    fused = fuse_norms(made(name))
    left = kinds(fused)
    for kind in ("Conv2d", "ConvTranspose2d", "InstanceNormAct"):
        del left[kind]
    assert (absorbed(fused), left) == EXPECTED[name]


def test_a_convolution_that_pads_by_reflection_is_padded_by_the_norm_before_it() -> None:
    """Behind a norm; the ones behind a resize or a filter keep theirs."""
    fused = fuse_norms(made("resnet-reflect-down"))
    modes = [layer.padding_mode for layer in fused.body.modules() if isinstance(layer, nn.Conv2d)]
    assert "reflect" not in modes
    layers = fuse_norms(made("resnet-blur")).body.named_modules()
    padding = {name for name, layer in layers if isinstance(layer, nn.Conv2d) and layer.padding_mode == "reflect"}
    assert padding == {"model.8", "model.14", "model.18"}


def test_biases_that_the_norm_subtracts_are_dropped() -> None:
    layers = dict(fuse_norms(made("resnet-9")).body.named_modules())
    with_bias = {name for name, layer in layers.items() if getattr(layer, "bias", None) is not None}
    assert with_bias == {"model.26"}  # the last one
    # One mean for all channels does not subtract a bias per channel.
    depthwise = fuse_norms(made("animegan")).body.get_submodule("block_c.1.layers.1.1")
    assert isinstance(depthwise, nn.Conv2d)
    assert depthwise.bias is not None


@pytest.mark.parametrize("name", ["resnet-9", "resnet-blur", "unet", "resnet-separable"])
def test_weights_of_convolutions_are_channels_last(name: str) -> None:
    fused = fuse_norms(made(name)).to(torch.bfloat16)
    layers = [layer for layer in fused.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    assert layers
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers)


@pytest.mark.parametrize("name", ["resnet-separable", "resnet-batch", "unet"])
def test_batch_norm_is_folded(name: str) -> None:
    fused = fuse_norms(made(name))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
    assert "BatchNorm2d" not in kinds(fused)


def test_the_generator_is_left_as_it_was() -> None:
    generator = made("resnet-reflect-down")
    before, description = copy.deepcopy(generator.state_dict()), str(generator)
    fuse_norms(generator).half()
    after = generator.state_dict()
    assert str(generator) == description
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(after[name].dtype == torch.float32 for name in after)


@pytest.mark.parametrize("name", ["resnet-nearest", "transformer-5", "animegan", "unet-instance"])
def test_bfloat16_leaves_the_weights_of_norms_alone(name: str) -> None:
    generator = made(name)
    fused = fuse_norms(generator)
    before = copy.deepcopy(fused.state_dict())
    fused.to(torch.bfloat16)
    norms = [layer for layer in fused.modules() if isinstance(layer, InstanceNormAct)]
    of_norms = [tensor for layer in norms for tensor in layer.state_dict().values()]
    assert len(of_norms) == 2 * len(norms) > 0
    assert all(tensor.dtype == torch.float32 for tensor in of_norms)
    for path, layer in fused.named_modules():
        for key, tensor in layer.state_dict().items() if isinstance(layer, InstanceNormAct) else ():
            assert torch.equal(tensor, before[f"{path}.{key}"])
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            assert layer.weight.dtype == torch.bfloat16
    image = image_for(generator)
    output = fused(image.to(torch.bfloat16))
    assert output.dtype == torch.bfloat16
    expected = exact(generator, image)
    noise = (output - expected).square().mean() / expected.var()
    assert -10 * math.log10(noise) > NORM_FUSED_BF16_DB


def test_dtypes_and_devices_of_norms() -> None:
    norm = InstanceNormAct(nn.InstanceNorm2d(4, affine=True).half())
    for converted in (norm, norm.half(), norm.to(torch.bfloat16), norm.float(), norm.double()):
        assert converted.weight is not None
        assert converted.weight.dtype == torch.float32
    moved = norm.to("meta", torch.float16).weight
    assert moved is not None
    assert (moved.device.type, moved.dtype) == ("meta", torch.float32)


def test_a_copy_runs_and_is_independent() -> None:
    generator = made("resnet")
    fused = fuse_norms(generator)
    image = image_for(generator)
    expected = fused(image)
    duplicate = copy.deepcopy(fused)
    assert torch.equal(duplicate(image), expected)
    duplicate.to(torch.bfloat16)
    assert duplicate(image.to(torch.bfloat16)).dtype == torch.bfloat16
    assert torch.equal(fused(image), expected)


def test_no_gradients_are_kept() -> None:
    generator = made("resnet-nearest").requires_grad_(True)
    fused = fuse_norms(generator)
    assert not fused(image_for(generator)).requires_grad
    assert all(parameter.requires_grad for parameter in generator.parameters())


def test_the_body_ends_before_the_tanh() -> None:
    generator = made("resnet")
    fused = fuse_norms(generator)
    image = image_for(generator)
    assert torch.equal(fused(image), torch.tanh(fused.body(image)))
    assert not fuse_norms(made("transformer_net")).ends_in_tanh


def test_inside_is_a_view_of_what_was_padded() -> None:
    tensor = torch.randn(2, 3, 5, 7)
    pad = (1, 2, 3, 4)
    padded = F.pad(tensor, pad, mode="reflect")
    assert torch.equal(inside(padded, pad), tensor)
    assert inside(padded, pad).untyped_storage().data_ptr() == padded.untyped_storage().data_ptr()


# Layers that are not finite.


@pytest.mark.parametrize(
    ("name", "path", "kind", "value"),
    [
        ("resnet", "model.10.conv_block.1", "Conv2d", math.inf),
        ("resnet", "model.10.conv_block.1", "Conv2d", math.nan),
        ("resnet", "model.11.conv_block.6", "InstanceNormAct", math.inf),
        ("resnet", "model.15", "ConvTranspose2d", math.inf),
        ("transformer-5", "res3.conv2.conv2d", "Conv2d", math.nan),
        ("unet-instance", "model.model.1.model.3.model.1", "Conv2d", -math.inf),
    ],
)
def test_the_first_layer_that_is_not_finite(name: str, path: str, kind: str, value: float) -> None:
    generator = made(name)
    fused = fuse_norms(generator)
    image = image_for(generator)
    assert fused.first_non_finite(image) is None
    layer = fused.body.get_submodule(path)
    if isinstance(layer, InstanceNormAct):
        layer.bias = torch.full((32,), value)
    else:
        layer.weight.data[0] = value
    assert fused.first_non_finite(image) == f"{path} ({kind})"


def test_inputs_filters_and_functions_that_are_not_finite() -> None:
    fused = fuse_norms(made("resnet-blur"))
    image = image_for(made("resnet-blur"))
    assert fused.first_non_finite(image / 0) == "image (input)"
    fused.body.get_submodule("model.7").filt[0] = math.nan
    assert fused.first_non_finite(image) == "model.7.filt (tensor)"
    own = Own({"norm": nn.InstanceNorm2d(3)}, lambda layers, image: layers["norm"](image).log() + 1)
    assert fuse_norms(own).first_non_finite(image) == "log"


# Generators of our own: one rule each.


class Own(Generator):
    """Calls `run` with its layers and the image."""

    def __init__(self, layers: dict[str, nn.Module], run: Callable[[nn.ModuleDict, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = GeneratorConfig()
        self.layers = nn.ModuleDict(layers)
        self.run = run
        self.multiple = 4
        with_learned_values(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.run(self.layers, image)


def norm(channels: int = 3) -> dict[str, nn.Module]:
    return {"norm": nn.InstanceNorm2d(channels, affine=True)}


def reflect(x: Tensor, *pad: int) -> Tensor:
    return F.pad(x, pad, mode="reflect")


def chain(*layers: nn.Module) -> Own:
    """The layers one after the other."""
    return Own({"chain": nn.Sequential(*layers)}, lambda layers, image: layers["chain"](image))


def same_branches(layers: nn.ModuleDict, image: Tensor) -> Tensor:
    """One norm, called twice with something else behind it."""
    return F.relu(layers["norm"](image)) + reflect(layers["norm"](image * 2 + 1), 1, 1, 1, 1)[:, :, 1:-1, 1:-1]


def two_pads(layers: nn.ModuleDict, image: Tensor, *, first: int, second: int) -> Tensor:
    x = layers["norm"](image)
    return F.avg_pool2d(reflect(x, *(first,) * 4), 4).sum() + F.max_pool2d(reflect(x, *(second,) * 4), 4).sum() + x * 2


RULES: dict[str, tuple[Own, dict[str, int]]] = {
    "relu function": (Own(norm(), lambda m, x: F.relu(m["norm"](x))), {"norm": 1, "activation": 1}),
    "relu method": (Own(norm(), lambda m, x: m["norm"](x).relu()), {"norm": 1, "activation": 1}),
    "relu in place": (Own(norm(), lambda m, x: torch.relu_(m["norm"](x))), {"norm": 1, "activation": 1}),
    "leaky_relu function": (Own(norm(), lambda m, x: F.leaky_relu(m["norm"](x), 0.3)), {"norm": 1, "activation": 1}),
    "leaky_relu default": (Own(norm(), lambda m, x: F.leaky_relu(m["norm"](x))), {"norm": 1, "activation": 1}),
    "leaky_relu in place": (Own(norm(), lambda m, x: F.leaky_relu_(m["norm"](x))), {"norm": 1, "activation": 1}),
    "leaky_relu by name": (
        Own(norm(), lambda m, x: F.leaky_relu(m["norm"](x), negative_slope=0.4, inplace=True)),
        {"norm": 1, "activation": 1},
    ),
    "relu of a sum": (  # the operator adds after the activation
        Own(norm(), lambda m, x: F.relu(m["norm"](x) + x)),
        {"norm": 1, "residual": 1},
    ),
    "two activations": (Own(norm(), lambda m, x: F.leaky_relu(F.relu(m["norm"](x)))), {"norm": 1, "activation": 1}),
    "another activation": (Own(norm(), lambda m, x: torch.sigmoid(m["norm"](x))), {"norm": 1}),
    "a module named relu": (
        Own({**norm(), "relu": nn.Hardtanh()}, lambda m, x: m["relu"](m["norm"](x))),
        {"norm": 1},
    ),
    "activation with another reader": (
        Own(norm(), lambda m, x: (lambda n: torch.cat((F.relu(n), n), dim=1))(m["norm"](x))),
        {"norm": 1},
    ),
    "identity and dropout": (
        chain(
            nn.InstanceNorm2d(3), nn.Identity(), nn.Dropout(), nn.LeakyReLU(0.1), nn.Dropout2d(), nn.ReflectionPad2d(2)
        ),
        {"norm": 1, "activation": 1, "pad": 1},
    ),
    "residual first": (Own(norm(), lambda m, x: x + m["norm"](x)), {"norm": 1, "residual": 1}),
    "residual second": (Own(norm(), lambda m, x: torch.add(m["norm"](x), x)), {"norm": 1, "residual": 1}),
    "residual computed later": (
        Own(norm(), lambda m, x: (lambda n: n + torch.sin(x))(m["norm"](x))),
        {"norm": 1, "residual": 1},
    ),
    "residual by name": (Own(norm(), lambda m, x: torch.add(m["norm"](x), other=x)), {"norm": 1}),
    "scaled residual": (Own(norm(), lambda m, x: torch.add(m["norm"](x), x, alpha=3)), {"norm": 1}),
    "added to itself": (Own(norm(), lambda m, x: (lambda n: n + n)(m["norm"](x))), {"norm": 1}),
    "a number is added": (Own(norm(), lambda m, x: m["norm"](x) + 1.5), {"norm": 1}),
    "broadcast over the picture": (
        Own(norm(), lambda m, x: m["norm"](x) + x.mean(dim=(2, 3), keepdim=True)),
        {"norm": 1},
    ),
    "broadcast over images": (
        Own(norm(), lambda m, x: m["norm"](x) + x.mean(dim=0, keepdim=True)),
        {"norm": 1},
    ),
    "two residuals": (Own(norm(), lambda m, x: m["norm"](x) + x + x * x), {"norm": 1, "residual": 1}),
    "two norms are added": (
        Own({**norm(), "other": nn.GroupNorm(1, 3)}, lambda m, x: m["norm"](x) + m["other"](x)),
        {"norm": 2, "residual": 1},
    ),
    "the input is the residual": (  # its convolution keeps the bias
        Own({**norm(), "conv": nn.Conv2d(3, 3, 1)}, lambda m, x: (lambda y: m["norm"](y) + y)(m["conv"](x))),
        {"norm": 1, "residual": 1},
    ),
    "pad function": (Own(norm(), lambda m, x: reflect(m["norm"](x), 1, 2, 3, 0)), {"norm": 1, "pad": 1}),
    "pad by zeros": (Own(norm(), lambda m, x: F.pad(m["norm"](x), (1, 1, 1, 1))), {"norm": 1}),
    "pad by repetition": (chain(nn.InstanceNorm2d(3), nn.ReplicationPad2d(1)), {"norm": 1}),
    "pad by the size": (
        Own(norm(), lambda m, x: F.pad(m["norm"](x), (0, x.shape[3] // 4, 0, 1), mode="reflect")),
        {"norm": 1},
    ),
    "pad of one axis": (
        Own(norm(), lambda m, x: F.pad(m["norm"](x).flatten(2), (1, 1), mode="reflect")),
        {"norm": 1},
    ),
    "pad then activation": (chain(nn.InstanceNorm2d(3), nn.ReflectionPad2d(1), nn.ReLU()), {"norm": 1, "pad": 1}),
    "equal pads": (
        Own(norm(), lambda m, x: two_pads(m, x, first=2, second=2)),
        {"norm": 1, "pad": 1},
    ),
    "unequal pads": (Own(norm(), lambda m, x: two_pads(m, x, first=2, second=1)), {"norm": 1}),
    "one norm twice": (Own(norm(), same_branches), {"norm": 2, "activation": 1, "residual": 1, "pad": 1}),
    "groups": (chain(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.ReLU()), {}),
    "groups of one channel": (
        chain(nn.Conv2d(3, 6, 3), nn.GroupNorm(6, 6), nn.ReLU()),
        {"norm": 1, "activation": 1},
    ),
    "group norm of a sequence": (
        Own({"norm": nn.GroupNorm(1, 3)}, lambda m, x: F.relu(m["norm"](x.flatten(2)))),
        {},
    ),
    "running statistics": (chain(nn.InstanceNorm2d(3, track_running_stats=True), nn.ReLU()), {}),
    "batch norm alone": (chain(nn.BatchNorm2d(3), nn.InstanceNorm2d(3), nn.ReLU()), {"norm": 1, "activation": 1}),
    "batch norm of the batch": (chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), {}),
    "batch norm of grouped transposed": (chain(nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), {}),
    "convolution with two readers": (
        Own(
            {"conv": nn.Conv2d(3, 3, 1), "batch": nn.BatchNorm2d(3), **norm()},
            lambda m, x: (lambda y: m["batch"](y) + m["norm"](y) * y)(m["conv"](x)),
        ),
        {"norm": 1},
    ),
    "one convolution twice": (
        Own(
            {"conv": nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "batch": nn.BatchNorm2d(3), **norm()},
            lambda m, x: m["conv"](m["norm"](m["conv"](x))) * m["batch"](m["conv"](x)),
        ),
        {"norm": 1},
    ),
    "epsilon": (chain(nn.InstanceNorm2d(3, eps=0.5), nn.ReLU()), {"norm": 1, "activation": 1}),
    "tanh method": (Own(norm(), lambda m, x: m["norm"](x).tanh()), {"norm": 1}),
    "only tanh": (chain(nn.Tanh()), {}),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules(rule: str) -> None:
    generator, expected = RULES[rule]
    fused = fuse_norms(generator)
    assert absorbed(fused) == expected
    for size in ((12, 20), (9, 13)):
        image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
        assert_equal_to_modules(fused, generator, image)


def test_a_tanh_that_is_not_last_stays() -> None:
    generator = Own({}, lambda m, x: (lambda y: y * y.tanh())(x))
    fused = fuse_norms(generator)
    assert not fused.ends_in_tanh
    assert kinds(fused)["tanh"] == 1


# What is refused.


def in_place_read_twice(layers: nn.ModuleDict, image: Tensor) -> Tensor:
    x = layers["norm"](image)
    y = layers["relu"](x)
    return x * 2 + y


def in_place_behind_dropout(layers: nn.ModuleDict, image: Tensor) -> Tensor:
    x = layers["norm"](image)
    y = layers["relu"](layers["dropout"](x))
    return x * 2 + y


@pytest.mark.parametrize("run", [in_place_read_twice, in_place_behind_dropout])
def test_a_change_in_place_of_what_is_read_again_is_refused(run: Callable[[nn.ModuleDict, Tensor], Tensor]) -> None:
    generator = Own({**norm(), "relu": nn.ReLU(inplace=True), "dropout": nn.Dropout()}, run)
    with pytest.raises(BackendError, match=r"^layers\.relu \(ReLU\) changes a value in place"):
        fuse_norms(generator)


@pytest.mark.parametrize(
    "change",
    [lambda x: x.add_(1), lambda x: torch.relu_(x), lambda x: F.leaky_relu(x, inplace=True)],
)
def test_functions_that_change_in_place_are_refused(change: Callable[[Tensor], Tensor]) -> None:
    generator = Own(norm(), lambda m, x: (lambda n: change(n) + n)(m["norm"](x)))
    with pytest.raises(BackendError, match="in place"):
        fuse_norms(generator)


def test_control_flow_is_refused_in_one_line() -> None:
    generator = Own(norm(), lambda m, x: m["norm"](x) if x.mean() > 0 else x)
    with pytest.raises(BackendError, match=r"^Own can't be traced[^\n]*control flow[^\n]*$"):
        fuse_norms(generator)


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_training_mode_is_refused(name: str) -> None:
    with pytest.raises(BackendError, match="training mode"):
        fuse_norms(made(name).train())
    generator = made(name)
    next(layer for layer in generator.modules() if isinstance(layer, (nn.InstanceNorm2d, nn.BatchNorm2d))).train()
    with pytest.raises(BackendError, match="training mode"):
        fuse_norms(generator)
