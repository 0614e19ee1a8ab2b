"""ResNet generators of CycleGAN, CUT and GAN Compression (Johnson et al., arXiv:1603.08155, sections 3 and A).

Parameter names are those of the reference CycleGAN implementation: one `model` sequence, blocks as `conv_block`.
"""

# No `from __future__ import annotations`: TorchScript reads the annotation of `filt` as a type, not as a string.

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.generators.base import (
    Generator,
    GeneratorConfig,
    normalisation,
    require,
    require_choice,
    require_positive,
)

PADDINGS = ("reflect", "zeros")


@dataclasses.dataclass(frozen=True)
class ResNetConfig(GeneratorConfig):
    """Dimensions of a ResNet generator.

    Attributes:
        width: channels after the first convolution; every downsampling doubles them.
        blocks: number of residual blocks.
        downsamplings: number of halvings before, and doublings after, the blocks.
        norm: "instance", "batch" or "none".
        affine: instance norm has a learned weight and bias; batch norm always has.
        bias: convolutions that a norm follows have a bias; the last convolution always has.
        dropout: a dropout layer in each block. It does nothing in eval mode, but shifts the names of the layers.
        downsampling: "strided" convolution, or convolution and "blur" (anti-aliased, as in CUT).
        upsampling: "transposed" convolution, "nearest" resize or "blur" (anti-aliased), each with a 3x3 convolution.
        outer_padding: padding of the first and the last 7x7 convolution.
        block_padding: padding in the blocks.
        downsampling_padding: padding of the strided convolutions.
        upsampling_padding: padding of the convolution after a nearest resize.
        separable: blocks of depthwise and pointwise convolutions (GAN Compression's mobile blocks).
        widths: channels after the first convolution, each downsampling and each upsampling, where they aren't
            `width` doubled and halved; empty where they are.
        block_widths: inner channels of each block, where they aren't those of its input; empty where they are.
    """

    family: ClassVar[str] = "resnet"

    width: int = 64
    blocks: int = 9
    downsamplings: int = 2
    norm: str = "instance"
    affine: bool = False
    bias: bool = True
    dropout: bool = False
    downsampling: str = "strided"
    upsampling: str = "transposed"
    outer_padding: str = "reflect"
    block_padding: str = "reflect"
    downsampling_padding: str = "zeros"
    upsampling_padding: str = "zeros"
    separable: bool = False
    widths: tuple[int, ...] = ()
    block_widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_positive(self, "width", *(["blocks"] if self.blocks else []))
        require(0 <= self.blocks <= 1024, f"blocks is {self.blocks}; accepted are 0 to 1024")
        require(0 <= self.downsamplings <= 8, f"downsamplings is {self.downsamplings}; accepted are 0 to 8")
        require_choice(self, "norm", ("instance", "batch", "none"))
        require_choice(self, "downsampling", ("strided", "blur"))
        require_choice(self, "upsampling", ("transposed", "nearest", "blur"))
        for name in ("outer_padding", "block_padding", "downsampling_padding", "upsampling_padding"):
            require_choice(self, name, PADDINGS)
        stages = 2 * self.downsamplings + 1
        require(len(self.widths) in (0, stages), f"widths has {len(self.widths)} values; accepted are 0 or {stages}")
        require(
            len(self.block_widths) in (0, self.blocks),
            f"block_widths has {len(self.block_widths)} values; accepted are 0 or {self.blocks}",
        )
        require(all(width > 0 for width in self.widths + self.block_widths), "a width is below 1")

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels after the first convolution, each downsampling and each upsampling."""
        if self.widths:
            return self.widths
        down = [self.width << level for level in range(self.downsamplings + 1)]
        return (*down, *reversed(down[:-1]))

    @property
    def inner_widths(self) -> tuple[int, ...]:
        """Channels between the two convolutions of each block."""
        return self.block_widths or (self.stage_widths[self.downsamplings],) * self.blocks

    def describe(self) -> str:
        """One line for people."""
        details = [f"{self.blocks} {'separable ' if self.separable else ''}blocks", f"{self.width} channels"]
        if self.widths or self.block_widths:
            details[-1] += " (widths of its own per layer)"
        if self.downsamplings != 2:
            details.append(f"{self.downsamplings} downsamplings")
        learned = "affine " if self.norm == "instance" and self.affine else ""
        details.append("no norm" if self.norm == "none" else f"{learned}{self.norm} norm")
        if self.dropout:
            details.append("dropout")
        if self.downsampling == "blur":
            details.append("anti-aliased downsampling")
        elif self.downsampling_padding == "reflect":
            details.append("reflect-padded downsampling")
        upsampling = {"transposed": "transposed", "nearest": "resize-convolution", "blur": "anti-aliased"}
        details.append(f"{upsampling[self.upsampling]} upsampling")
        return f"ResNet, {', '.join(details)}{self._describe_channels()}"


class ResNet(Generator):
    """7x7 convolution, downsamplings, residual blocks, upsamplings, 7x7 convolution, tanh; RGB in [-1, 1]."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.model = nn.Sequential(*_layers(config))
        self.multiple = 1 << config.downsamplings
        self.minimum_size = _minimum_size(config)

    def forward(self, image: Tensor) -> Tensor:
        """Translates [N, in_channels, H, W] to [N, out_channels, H, W]."""
        return self.model(image)


class ResidualBlock(nn.Module):
    """x + (pad, convolution, norm, ReLU, pad, convolution, norm)(x)."""

    def __init__(self, config: ResNetConfig, channels: int, inner_channels: int) -> None:
        super().__init__()
        layers = _padded_convolution(config, channels, inner_channels)
        layers += [_norm(config, inner_channels), nn.ReLU(inplace=True)]
        if config.dropout:
            layers.append(nn.Dropout(0.5))
        layers += _padded_convolution(config, inner_channels, channels)
        layers.append(_norm(config, channels))
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> the same shape
        return x + self.conv_block(x)


class SeparableConvolution(nn.Module):
    """Depthwise 3x3 convolution, norm, pointwise 1x1 convolution."""

    def __init__(self, config: ResNetConfig, in_channels: int, out_channels: int, *, padding: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 3, padding=padding, groups=in_channels, bias=config.bias),
            _norm(config, in_channels),
            nn.Conv2d(in_channels, out_channels, 1, bias=config.bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class BlurDownsample(nn.Module):
    """Halves the size: reflect padding, then a depthwise [1 2 1] x [1 2 1] / 16 filter with stride 2."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("filt", _binomial_filter([1.0, 2.0, 1.0], channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=self.channels)


class BlurUpsample(nn.Module):
    """Doubles the size: replicate padding, then a depthwise [1 3 3 1] x [1 3 3 1] / 16 transposed filter."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("filt", 4.0 * _binomial_filter([1.0, 3.0, 3.0, 1.0], channels))

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        # padding=3 crops the filter's margin of 2 and one row and column of the padding on each side
        return F.conv_transpose2d(padded, self.filt, stride=2, padding=3, groups=self.channels)


def _layers(config: ResNetConfig) -> list[nn.Module]:
    widths = config.stage_widths
    layers = _outer_convolution(config, config.in_channels, widths[0], bias=config.bias)
    layers += [_norm(config, widths[0]), nn.ReLU(inplace=True)]
    for level in range(config.downsamplings):
        layers += _downsampling(config, widths[level], widths[level + 1])
    channels = widths[config.downsamplings]
    layers += [ResidualBlock(config, channels, inner) for inner in config.inner_widths]
    for level in range(config.downsamplings, 2 * config.downsamplings):
        layers += _upsampling(config, widths[level], widths[level + 1])
    layers += _outer_convolution(config, widths[-1], config.out_channels, bias=True)
    return [*layers, nn.Tanh()]


def _downsampling(config: ResNetConfig, in_channels: int, out_channels: int) -> list[nn.Module]:
    blur = config.downsampling == "blur"
    convolution = nn.Conv2d(
        in_channels,
        out_channels,
        3,
        stride=1 if blur else 2,
        padding=1,
        padding_mode=config.downsampling_padding,  # type: ignore[arg-type]
        bias=config.bias,
    )
    layers = [convolution, _norm(config, out_channels), nn.ReLU(inplace=True)]
    return [*layers, BlurDownsample(out_channels)] if blur else layers


def _upsampling(config: ResNetConfig, in_channels: int, out_channels: int) -> list[nn.Module]:
    layers: list[nn.Module]
    if config.upsampling == "transposed":
        layers = [
            nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=config.bias)
        ]
    else:
        layers = [
            BlurUpsample(in_channels) if config.upsampling == "blur" else nn.Upsample(scale_factor=2.0, mode="nearest"),
            nn.Conv2d(
                in_channels,
                out_channels,
                3,
                padding=1,
                padding_mode=config.upsampling_padding,  # type: ignore[arg-type]
                bias=config.bias,
            ),
        ]
    return [*layers, _norm(config, out_channels), nn.ReLU(inplace=True)]


def _outer_convolution(config: ResNetConfig, in_channels: int, out_channels: int, *, bias: bool) -> list[nn.Module]:
    if config.outer_padding == "reflect":
        return [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, out_channels, 7, bias=bias)]
    return [nn.Conv2d(in_channels, out_channels, 7, padding=3, bias=bias)]


def _padded_convolution(config: ResNetConfig, in_channels: int, out_channels: int) -> list[nn.Module]:
    """A 3x3 convolution of a block with its padding: a layer of its own for reflect, as in the reference."""
    reflect = config.block_padding == "reflect"
    padding = 0 if reflect else 1
    convolution: nn.Module
    if config.separable:
        convolution = SeparableConvolution(config, in_channels, out_channels, padding=padding)
    else:
        convolution = nn.Conv2d(in_channels, out_channels, 3, padding=padding, bias=config.bias)
    return [nn.ReflectionPad2d(1), convolution] if reflect else [convolution]


def _norm(config: ResNetConfig, channels: int) -> nn.Module:
    return normalisation(config.norm, channels, affine=config.affine)


def _binomial_filter(row: list[float], channels: int) -> Tensor:
    """The outer product of `row` with itself, of sum 1, once per channel: [channels, 1, K, K]."""
    vector = torch.tensor(row)
    matrix = torch.outer(vector, vector)
    return (matrix / matrix.sum()).repeat(channels, 1, 1, 1)


def _minimum_size(config: ResNetConfig) -> int:
    """Reflect padding by p needs p + 1 pixels; instance norm needs more than one."""
    inner_reflect = config.blocks > 0 and config.block_padding == "reflect"
    inner = 2 if inner_reflect or config.norm == "instance" else 1
    outer = 4 if config.outer_padding == "reflect" else 1
    multiple = 1 << config.downsamplings
    return max(inner * multiple, -(-outer // multiple) * multiple)
