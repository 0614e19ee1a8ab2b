"""U-Net generators of pix2pix (Isola et al., arXiv:1611.07004): encoder and decoder with skips from level to level.

Parameter names are those of the reference pix2pix implementation: blocks that hold the next smaller block.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from engine.generators.base import (
    Generator,
    GeneratorConfig,
    normalisation,
    require,
    require_choice,
    require_positive,
)


@dataclasses.dataclass(frozen=True)
class UNetConfig(GeneratorConfig):
    """Dimensions of a U-Net generator.

    Attributes:
        width: channels after the first convolution; they double per level up to eight times.
        downsamplings: number of halvings; 7 takes multiples of 128 pixels, 8 multiples of 256.
        norm: "batch", "instance" or "none".
        affine: instance norm has a learned weight and bias; batch norm always has.
        bias: convolutions that a norm follows have a bias; the last always has.
        dropout: dropout in the inner levels, for training. No file tells it, and it does nothing in eval mode.
        widths: channels of each level where they aren't the doubling above; empty where they are.
    """

    family: ClassVar[str] = "unet"

    width: int = 64
    downsamplings: int = 8
    norm: str = "batch"
    affine: bool = False
    bias: bool = False
    dropout: bool = False
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_positive(self, "width")
        require(2 <= self.downsamplings <= 16, f"downsamplings is {self.downsamplings}; accepted are 2 to 16")
        require_choice(self, "norm", ("batch", "instance", "none"))
        require(
            len(self.widths) in (0, self.downsamplings),
            f"widths has {len(self.widths)} values; accepted are 0 or {self.downsamplings}",
        )
        require(all(width > 0 for width in self.widths), "a width is below 1")

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Channels after each downsampling."""
        return self.widths or tuple(self.width << min(level, 3) for level in range(self.downsamplings))

    def describe(self) -> str:
        """One line for people."""
        learned = "affine " if self.norm == "instance" and self.affine else ""
        norm = "no norm" if self.norm == "none" else f"{learned}{self.norm} norm"
        own = " (widths of its own per level)" if self.widths else ""
        size = f"U-Net {1 << self.downsamplings}, {self.downsamplings} downsamplings"
        return f"{size}, {self.width} channels{own}, {norm}{self._describe_channels()}"


class UNet(Generator):
    """4x4 stride-2 convolutions down and transposed up, with skips; RGB in [-1, 1]."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _outermost_block(config)
        self.multiple = 1 << config.downsamplings
        self.minimum_size = self.multiple

    def forward(self, image: Tensor) -> Tensor:
        """Translates [N, in_channels, H, W] to [N, out_channels, H, W]."""
        return self.model(image)


class SkipBlock(nn.Module):
    """One level: `layers` go down, through the next level and up; the input is concatenated before the result."""

    def __init__(self, layers: list[nn.Module], *, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C + C', H, W] with the skip
        if self.skip:
            return torch.cat((x, self.model(x)), dim=1)
        return self.model(x)


def _outermost_block(config: UNetConfig) -> SkipBlock:
    widths = config.level_widths
    block = _innermost_block(config)
    for level in range(config.downsamplings - 2, 0, -1):
        block = _middle_block(config, level, block)
    return SkipBlock(
        [
            _down(config.in_channels, widths[0], bias=config.bias),
            block,
            nn.ReLU(),
            _up(2 * widths[0], config.out_channels, bias=True),
            nn.Tanh(),
        ],
        skip=False,
    )


def _middle_block(config: UNetConfig, level: int, inner: SkipBlock) -> SkipBlock:
    outer_width, width = config.level_widths[level - 1 : level + 1]
    layers: list[nn.Module] = [
        nn.LeakyReLU(0.2),
        _down(outer_width, width, bias=config.bias),
        _norm(config, width),
        inner,
        nn.ReLU(),
        _up(2 * width, outer_width, bias=config.bias),
        _norm(config, outer_width),
    ]
    if config.dropout and outer_width == width:
        layers.append(nn.Dropout(0.5))
    return SkipBlock(layers, skip=True)


def _innermost_block(config: UNetConfig) -> SkipBlock:
    outer_width, width = config.level_widths[-2:]
    layers = [
        nn.LeakyReLU(0.2),
        _down(outer_width, width, bias=config.bias),
        nn.ReLU(),
        _up(width, outer_width, bias=config.bias),
        _norm(config, outer_width),
    ]
    return SkipBlock(layers, skip=True)


def _down(in_channels: int, out_channels: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)


def _up(in_channels: int, out_channels: int, *, bias: bool) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=bias)


def _norm(config: UNetConfig, channels: int) -> nn.Module:
    return normalisation(config.norm, channels, affine=config.affine)
