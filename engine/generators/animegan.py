"""AnimeGANv2's generator (Chen et al., "AnimeGAN: a novel lightweight GAN for photo animation", 2020), PyTorch form."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from engine.generators.base import Generator, GeneratorConfig, require_positive


@dataclasses.dataclass(frozen=True)
class AnimeGANConfig(GeneratorConfig):
    """Dimensions of an AnimeGANv2 generator.

    Attributes:
        width: channels after the first convolution (32 in all published files).
        blocks: inverted residual blocks.
        expansion: inner channels of an inverted residual block over its input channels.
        align_corners: how the bilinear upsampling samples. No file tells it; True is what the authors' code does
            unless told otherwise.
    """

    family: ClassVar[str] = "animegan"

    width: int = 32
    blocks: int = 4
    expansion: int = 2
    align_corners: bool = True

    def __post_init__(self) -> None:
        require_positive(self, "width", "blocks", "expansion")

    def describe(self) -> str:
        """One line for people."""
        return f"AnimeGANv2, {self.blocks} blocks, {self.width} channels{self._describe_channels()}"


class AnimeGAN(Generator):
    """Convolutions and inverted residual blocks with layer norm (GroupNorm of one group); RGB in [-1, 1]."""

    multiple = 4  # other sizes run, but the bilinear resize then shifts the picture by part of a pixel
    minimum_size = 8  # 2 pixels in the blocks for reflect padding by 1

    def __init__(self, config: AnimeGANConfig) -> None:
        super().__init__()
        self.config = config
        self.align_corners = config.align_corners
        width = config.width
        self.block_a = nn.Sequential(
            ConvolutionUnit(config.in_channels, width, kernel=7),
            ConvolutionUnit(width, 2 * width, stride=2),
            ConvolutionUnit(2 * width, 2 * width),
        )
        self.block_b = nn.Sequential(
            ConvolutionUnit(2 * width, 4 * width, stride=2),
            ConvolutionUnit(4 * width, 4 * width),
        )
        self.block_c = nn.Sequential(
            ConvolutionUnit(4 * width, 4 * width),
            InvertedResidualBlock(4 * width, 8 * width, expansion=config.expansion),
            *(
                InvertedResidualBlock(8 * width, 8 * width, expansion=config.expansion)
                for _ in range(config.blocks - 1)
            ),
            ConvolutionUnit(8 * width, 4 * width),
        )
        self.block_d = nn.Sequential(ConvolutionUnit(4 * width, 4 * width), ConvolutionUnit(4 * width, 4 * width))
        self.block_e = nn.Sequential(
            ConvolutionUnit(4 * width, 2 * width),
            ConvolutionUnit(2 * width, 2 * width),
            ConvolutionUnit(2 * width, width, kernel=7),
        )
        self.out_layer = nn.Sequential(nn.Conv2d(width, config.out_channels, 1, bias=False), nn.Tanh())

    def forward(self, image: Tensor) -> Tensor:
        """Translates [N, in_channels, H, W] to [N, out_channels, H, W]."""
        half = self.block_a(image)  # [N, 2 width, H/2, W/2]
        quarter = self.block_c(self.block_b(half))  # [N, 4 width, H/4, W/4]
        x = self.block_d(self._resize(quarter, half))
        x = self.block_e(self._resize(x, image))
        return self.out_layer(x)

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        size = [like.shape[2], like.shape[3]]
        return F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)


class ConvolutionUnit(nn.Sequential):
    """Reflect padding, convolution, norm, LeakyReLU(0.2). With stride 2 only the right and bottom are padded."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        padding = kernel // 2
        super().__init__(
            nn.ReflectionPad2d((0, 1, 0, 1) if stride == 2 else padding),
            nn.Conv2d(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=bias),
            nn.GroupNorm(1, out_channels),
            nn.LeakyReLU(0.2),
        )


class InvertedResidualBlock(nn.Module):
    """1x1 expansion, depthwise 3x3, 1x1 projection; the input is added where the channels are the same."""

    def __init__(self, in_channels: int, out_channels: int, *, expansion: int) -> None:
        super().__init__()
        self.residual = in_channels == out_channels
        inner = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvolutionUnit(in_channels, inner, kernel=1))
        layers += [
            ConvolutionUnit(inner, inner, groups=inner, bias=True),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.GroupNorm(1, out_channels),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.residual:
            return x + self.layers(x)
        return self.layers(x)
