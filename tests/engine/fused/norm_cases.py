"""What the tests of `fuse_norms` share: generators, pictures, and what a fused graph consists of."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from engine.fused.norms import InstanceNormAct, NormFused
from engine.generators import Generator, GeneratorConfig, ResNetConfig, TransformerNetConfig, UNetConfig, build
from tests.engine.small_generators import CONFIGS, small_generator
from tests.tolerances import NORM_FUSED_RTOL

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
