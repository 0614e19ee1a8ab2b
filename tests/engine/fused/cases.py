"""What the tests of fused generators share: small generators of every family, pictures, errors, changed programs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from engine.fused.program import FusedGenerator, Packing, Step, steps_of
from engine.generators import (
    AnimeGANConfig,
    Generator,
    GeneratorConfig,
    ResNetConfig,
    RRDBNetConfig,
    SRResNetConfig,
    SRVGGConfig,
    TransformerNetConfig,
    UNetConfig,
    build,
)

# All of the families, small; widths that are no multiple of a channel block among them.
CONFIGS: dict[str, GeneratorConfig] = {
    "resnet": ResNetConfig(width=16, blocks=2),
    "resnet affine": ResNetConfig(width=8, blocks=1, affine=True),
    "resnet batch norm": ResNetConfig(width=8, blocks=1, norm="batch", bias=False),
    "resnet no norm": ResNetConfig(width=8, blocks=1, norm="none"),
    "resnet nearest": ResNetConfig(width=16, blocks=1, upsampling="nearest"),
    "resnet zero padding": ResNetConfig(width=16, blocks=1, block_padding="zeros", outer_padding="zeros"),
    "resnet reflect down": ResNetConfig(width=16, blocks=1, downsampling_padding="reflect"),
    "resnet odd widths": ResNetConfig(blocks=1, widths=(10, 18, 34, 20, 12), block_widths=(22,)),
    "resnet no blocks": ResNetConfig(width=16, blocks=0, downsamplings=1),
    "resnet one to two channels": ResNetConfig(width=16, blocks=1, in_channels=1, out_channels=2),
    "resnet separable": ResNetConfig(width=16, blocks=2, separable=True),
    "resnet separable odd widths": ResNetConfig(
        blocks=2, widths=(10, 18, 34, 20, 12), block_widths=(22, 40), separable=True, affine=True
    ),
    "resnet separable batch norm": ResNetConfig(width=8, blocks=1, separable=True, norm="batch", bias=False),
    "resnet blur": ResNetConfig(width=16, blocks=1, downsampling="blur", upsampling="blur"),
    "resnet blur odd widths": ResNetConfig(
        blocks=1, widths=(10, 18, 34, 20, 12), downsampling="blur", upsampling="blur", affine=True
    ),
    "animegan": AnimeGANConfig(width=8, blocks=3),
    "animegan half-pixel centres": AnimeGANConfig(width=10, blocks=2, align_corners=False),
    "transformer": TransformerNetConfig(width=16, blocks=2),
    "unet": UNetConfig(width=8, downsamplings=4),
    "unet instance norm": UNetConfig(width=16, downsamplings=3, norm="instance", bias=True),
    "unet one to two channels": UNetConfig(width=8, downsamplings=3, in_channels=1, out_channels=2),
    "srvgg": SRVGGConfig(width=32, convolutions=2),
    "srvgg x1 odd widths": SRVGGConfig(width=10, convolutions=1, scale=1),
    "srvgg x2 grey": SRVGGConfig(width=10, convolutions=1, scale=2, in_channels=1, out_channels=1),
    "srresnet": SRResNetConfig(width=32, blocks=1),
    "srresnet x3 odd widths": SRResNetConfig(width=10, blocks=2, scale=3),
    "rrdbnet": RRDBNetConfig(width=16, growth=16, blocks=2),
    "rrdbnet x2 odd widths": RRDBNetConfig(width=20, growth=10, blocks=1, scale=2),
    "rrdbnet x1 grey": RRDBNetConfig(width=8, growth=8, blocks=1, scale=1, in_channels=1, out_channels=1),
}


def made(config: GeneratorConfig) -> Generator:
    """A generator whose layers all matter: weights that keep the size of activations, norms that do something."""
    torch.manual_seed(0)
    return with_weights(build(config))


def with_weights(generator: Generator) -> Generator:
    generator.eval()
    for layer in generator.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            fan_in = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.weight[:, 0].numel() / 4
            nn.init.normal_(layer.weight, std=(1.5 / fan_in) ** 0.5)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.2)
        elif isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm)) and layer.weight is not None:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, -0.2, 1.2)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return generator.requires_grad_(False)


def picture_for(generator: Generator, *, height: int = 48, width: int = 64, count: int = 1) -> Tensor:
    source = torch.Generator().manual_seed(1)
    low, high = generator.input_range
    shape = (count, generator.config.in_channels, height, width)
    return torch.rand(shape, generator=source) * (high - low) + low


def expected_of(generator: Generator, image: Tensor) -> Tensor:
    return copy.deepcopy(generator).double()(image.double())


def error_db(actual: Tensor, expected: Tensor) -> float:
    """Signal over noise in dB."""
    noise = (actual.double() - expected).square().mean()
    return float(10 * torch.log10(expected.var() / noise))


def writing_bfloat16(fused: FusedGenerator) -> FusedGenerator:
    """The same, with bfloat16 between its layers, as far as may be."""
    steps = steps_of(fused)
    added = {slot for step in steps for slot in (step.residual, step.second_residual)}
    for step in steps[:-1]:
        can = step.packing not in (Packing.DEPTHWISE, Packing.BILINEAR) and not step.appends
        step.writes_bfloat16 = int(can and step.output not in added)
    return with_steps(fused, steps)


def with_steps(fused: FusedGenerator, steps: list[Step]) -> FusedGenerator:
    numbers = fused.program[:4].tolist() + [number for step in steps for number in step.numbers()]
    return fused.with_program(torch.tensor(numbers))


def damaged(fused: FusedGenerator, position: int, value: int) -> FusedGenerator:
    program = fused.program.clone()
    program[position] = value
    return fused.with_program(program)


def runs_on(fused: FusedGenerator, image: Tensor) -> bool:
    try:
        fused(image)
    except RuntimeError:
        return False
    return True
