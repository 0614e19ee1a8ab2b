"""What the rest of the engine knows of a generator: its configuration, value ranges, size multiple and scale."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Everything needed to build a generator again. Subclasses add the dimensions of their family."""

    family: ClassVar[str]

    in_channels: int = 3
    out_channels: int = 3

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values, `family` included; `engine.generators.build` takes it back."""
        return {"family": self.family, **dataclasses.asdict(self)}


class Generator(nn.Module):
    """An image-to-image generator: float [N, C, H, W] in RGB order -> float [N, C', H * scale, W * scale].

    Subclasses set the class or instance attributes below; nothing else of a generator is asked for elsewhere.

    Attributes:
        config: frozen dataclass that rebuilds the module.
        input_range: (low, high) tensor values that stand for the uint8 values 0 and 255 at the input.
        output_range: likewise at the output; values beyond are clamped when a frame is made.
        multiple: input height and width must be multiples of this; `engine.Translator` pads (reflect) and crops.
        minimum_size: smallest height and width that the module takes; smaller frames are padded too.
        scale: output size over input size (1 but for super-resolution).
    """

    config: GeneratorConfig
    input_range: tuple[float, float] = (-1.0, 1.0)
    output_range: tuple[float, float] = (-1.0, 1.0)
    multiple: int = 1
    minimum_size: int = 1
    scale: int = 1

    def forward(self, image: Tensor) -> Tensor:
        """Translates `image`, float [N, in_channels, H, W] with values in `input_range`."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    @torch.jit.unused
    def parameter_count(self) -> int:
        """Number of learned values."""
        return sum(parameter.numel() for parameter in self.parameters())
