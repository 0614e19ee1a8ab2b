"""RRDBNet of ESRGAN and Real-ESRGAN (Wang et al., arXiv:1809.00219 and arXiv:2107.10833). RGB in [0, 1]."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.generators.base import Generator, GeneratorConfig, require, require_positive


@dataclasses.dataclass(frozen=True)
class RRDBNetConfig(GeneratorConfig):
    """Dimensions of an RRDBNet.

    Attributes:
        width: channels between the dense blocks.
        growth: channels that each convolution of a dense block adds.
        blocks: number of residual-in-residual dense blocks, three dense blocks each.
        scale: 4, or 2 and 1 where the input is first folded by 2 or 4 (pixel unshuffle) into more channels.
    """

    family: ClassVar[str] = "rrdbnet"

    width: int = 64
    growth: int = 32
    blocks: int = 23
    scale: int = 4

    def __post_init__(self) -> None:
        require_positive(self, "width", "growth", "blocks")
        require(self.scale in (1, 2, 4), f"scale is {self.scale}; accepted are 1, 2 and 4")

    def describe(self) -> str:
        """One line for people."""
        size = f"{self.blocks} blocks, {self.width} channels, growth {self.growth}"
        return f"RRDBNet (ESRGAN), {size}, x{self.scale}{self._describe_channels()}"


class RRDBNet(Generator):
    """Residual dense blocks at the input's (folded) size, two nearest resizes with convolutions, two convolutions."""

    input_range = (0.0, 1.0)
    output_range = (0.0, 1.0)

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        self.multiple = 4 // config.scale
        self.minimum_size = self.multiple
        width = config.width
        self.pixel_unshuffle = nn.PixelUnshuffle(self.multiple)
        self.conv_first = nn.Conv2d(config.in_channels * self.multiple**2, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualInResidualBlock(width, config.growth) for _ in range(config.blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, config.out_channels, 3, padding=1)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, image: Tensor) -> Tensor:
        """Enlarges [N, in_channels, H, W] to [N, out_channels, H * scale, W * scale]."""
        first = self.conv_first(self.pixel_unshuffle(image))
        x = first + self.conv_body(self.body(first))
        x = self.activation(self.conv_up1(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        x = self.activation(self.conv_up2(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.conv_last(self.activation(self.conv_hr(x)))


class ResidualInResidualBlock(nn.Module):
    """x + 0.2 * (three dense blocks)(x)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(channels, growth)
        self.rdb2 = ResidualDenseBlock(channels, growth)
        self.rdb3 = ResidualDenseBlock(channels, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of the input and all earlier results; x + 0.2 * the last."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(channels + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(channels + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(channels + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(channels + 4 * growth, channels, 3, padding=1)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.activation(self.conv1(x))
        x2 = self.activation(self.conv2(torch.cat((x, x1), dim=1)))
        x3 = self.activation(self.conv3(torch.cat((x, x1, x2), dim=1)))
        x4 = self.activation(self.conv4(torch.cat((x, x1, x2, x3), dim=1)))
        return x + 0.2 * self.conv5(torch.cat((x, x1, x2, x3, x4), dim=1))
