"""Generators with fused norms against the modules they stand for, and what is fused in them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.fused.norms import InstanceNormAct, fuse_norms, inside
from tests.engine.fused.norm_cases import (
    MORE_CONFIGS,
    Own,
    absorbed,
    assert_equal_to_modules,
    exact,
    image_for,
    kinds,
    layer_of,
    made,
)
from tests.engine.small_generators import CONFIGS
from tests.tolerances import NORM_FUSED_BF16_DB


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
