"""TransformerNet of fast neural style (Johnson et al., arXiv:1603.08155) with instance norm and nearest upsampling.

Parameter names are those of PyTorch's fast_neural_style example. Values are in [0, 255] at both ends.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from engine.generators.base import Generator, GeneratorConfig, require_positive


@dataclasses.dataclass(frozen=True)
class TransformerNetConfig(GeneratorConfig):
    """Dimensions of a TransformerNet.

    Attributes:
        width: channels after the first convolution; doubled twice.
        blocks: number of residual blocks.
    """

    family: ClassVar[str] = "transformer_net"

    width: int = 32
    blocks: int = 5

    def __post_init__(self) -> None:
        require_positive(self, "width", "blocks")

    def describe(self) -> str:
        """One line for people."""
        channels = self._describe_channels()
        return f"TransformerNet (fast neural style), {self.blocks} blocks, {self.width} channels{channels}"


class TransformerNet(Generator):
    """9x9 convolution, two downsamplings, residual blocks, two upsamplings, 9x9 convolution, no activation."""

    input_range = (0.0, 255.0)
    output_range = (0.0, 255.0)
    multiple = 4
    minimum_size = 8  # 2 pixels in the blocks for reflect padding by 1

    def __init__(self, config: TransformerNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        # The children run in the order they are added; the names of those with weights are the names in files.
        self._add_stage(1, "conv1", ReflectConvolution(config.in_channels, width, kernel=9), width)
        self._add_stage(2, "conv2", ReflectConvolution(width, 2 * width, kernel=3, stride=2), 2 * width)
        self._add_stage(3, "conv3", ReflectConvolution(2 * width, 4 * width, kernel=3, stride=2), 4 * width)
        for number in range(1, config.blocks + 1):
            self.add_module(f"res{number}", ResidualBlock(4 * width))
        self.add_module("resize1", nn.Upsample(scale_factor=2.0, mode="nearest"))
        self._add_stage(4, "deconv1", ReflectConvolution(4 * width, 2 * width, kernel=3), 2 * width)
        self.add_module("resize2", nn.Upsample(scale_factor=2.0, mode="nearest"))
        self._add_stage(5, "deconv2", ReflectConvolution(2 * width, width, kernel=3), width)
        self.add_module("deconv3", ReflectConvolution(width, config.out_channels, kernel=9))

    def forward(self, image: Tensor) -> Tensor:
        """Translates [N, in_channels, H, W] to [N, out_channels, H, W]."""
        x = image
        for layer in self.children():
            x = layer(x)
        return x

    @torch.jit.unused
    def _add_stage(self, number: int, name: str, convolution: ReflectConvolution, channels: int) -> None:
        self.add_module(name, convolution)
        self.add_module(f"in{number}", nn.InstanceNorm2d(channels, affine=True))
        self.add_module(f"relu{number}", nn.ReLU())


class ReflectConvolution(nn.Module):
    """Reflect padding by half the kernel, then a convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.reflection_pad = nn.ReflectionPad2d(kernel // 2)
        self.conv2d = nn.Conv2d(in_channels, out_channels, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2d(self.reflection_pad(x))


class ResidualBlock(nn.Module):
    """x + (convolution, norm, ReLU, convolution, norm)(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ReflectConvolution(channels, channels, kernel=3)
        self.in1 = nn.InstanceNorm2d(channels, affine=True)
        self.relu = nn.ReLU()
        self.conv2 = ReflectConvolution(channels, channels, kernel=3)
        self.in2 = nn.InstanceNorm2d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> the same shape
        inner = self.relu(self.in1(self.conv1(x)))
        return x + self.in2(self.conv2(inner))
