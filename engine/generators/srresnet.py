"""MSRResNet, the SRResNet without batch norm of BasicSR (Wang et al., arXiv:1809.00219). RGB in [0, 1]."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from engine.generators.base import Generator, GeneratorConfig, require, require_positive


@dataclasses.dataclass(frozen=True)
class SRResNetConfig(GeneratorConfig):
    """Dimensions of an MSRResNet.

    Attributes:
        width: channels of all layers but the first and the last.
        blocks: number of residual blocks.
        scale: 2, 3 or 4. 4 doubles twice.
    """

    family: ClassVar[str] = "srresnet"

    width: int = 64
    blocks: int = 16
    scale: int = 4

    def __post_init__(self) -> None:
        require_positive(self, "width", "blocks")
        require(self.scale in (2, 3, 4), f"scale is {self.scale}; accepted are 2, 3 and 4")
        require(self.in_channels == self.out_channels, "in_channels and out_channels differ: the input is added")

    def describe(self) -> str:
        """One line for people."""
        channels = self._describe_channels()
        return f"SRResNet (MSRResNet), {self.blocks} blocks, {self.width} channels, x{self.scale}{channels}"


class SRResNet(Generator):
    """Residual blocks at the input's size, pixel shuffle, two convolutions; the bilinear enlarged input is added."""

    input_range = (0.0, 1.0)
    output_range = (0.0, 1.0)

    def __init__(self, config: SRResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        width = config.width
        factor = 2 if config.scale == 4 else config.scale
        self.conv_first = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks)))
        self.upconv1 = nn.Conv2d(width, width * factor * factor, 3, padding=1)
        # No layer and no weights where one enlargement is enough.
        self.upconv2 = nn.Conv2d(width, width * 4, 3, padding=1) if config.scale == 4 else nn.Identity()
        self.pixel_shuffle1 = nn.PixelShuffle(factor)
        self.pixel_shuffle2 = nn.PixelShuffle(2) if config.scale == 4 else nn.Identity()
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, config.out_channels, 3, padding=1)
        self.activation = nn.LeakyReLU(0.1)
        self.second_activation = nn.LeakyReLU(0.1) if config.scale == 4 else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Enlarges [N, C, H, W] to [N, C, H * scale, W * scale]."""
        x = self.body(self.activation(self.conv_first(image)))
        x = self.activation(self.pixel_shuffle1(self.upconv1(x)))
        x = self.second_activation(self.pixel_shuffle2(self.upconv2(x)))
        x = self.conv_last(self.activation(self.conv_hr(x)))
        return x + F.interpolate(image, scale_factor=float(self.scale), mode="bilinear", align_corners=False)


class ResidualBlock(nn.Module):
    """x + (convolution, ReLU, convolution)(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu(self.conv1(x)))
