"""SRVGGNetCompact, Real-ESRGAN's small network for video (Wang et al., arXiv:2107.10833). RGB in [0, 1]."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from engine.generators.base import Generator, GeneratorConfig, require, require_positive


@dataclasses.dataclass(frozen=True)
class SRVGGConfig(GeneratorConfig):
    """Dimensions of an SRVGGNetCompact.

    Attributes:
        width: channels of all convolutions but the last.
        convolutions: convolutions between the first and the last.
        scale: enlargement, by one pixel shuffle at the end.
    """

    family: ClassVar[str] = "srvgg"

    width: int = 64
    convolutions: int = 16
    scale: int = 4

    def __post_init__(self) -> None:
        require_positive(self, "width")
        require(0 <= self.convolutions <= 1024, f"convolutions is {self.convolutions}; accepted are 0 to 1024")
        require(1 <= self.scale <= 16, f"scale is {self.scale}; accepted are 1 to 16")
        require(self.in_channels == self.out_channels, "in_channels and out_channels differ: the input is added")

    def describe(self) -> str:
        """One line for people."""
        size = f"{self.convolutions} inner convolutions, {self.width} channels"
        return f"SRVGGNetCompact, {size}, x{self.scale}{self._describe_channels()}"


class SRVGG(Generator):
    """3x3 convolutions with PReLU, pixel shuffle; the nearest enlarged input is added."""

    input_range = (0.0, 1.0)
    output_range = (0.0, 1.0)

    def __init__(self, config: SRVGGConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = config.scale
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(config.in_channels, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(config.convolutions):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        layers.append(nn.Conv2d(width, config.out_channels * config.scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)
        self.pixel_shuffle = nn.PixelShuffle(config.scale)

    def forward(self, image: Tensor) -> Tensor:
        """Enlarges [N, C, H, W] to [N, C, H * scale, W * scale]."""
        enlarged = F.interpolate(image, scale_factor=float(self.scale), mode="nearest")
        return enlarged + self.pixel_shuffle(self.body(image))
