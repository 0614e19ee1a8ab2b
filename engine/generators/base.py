"""What the rest of the engine knows of a generator: its configuration, value ranges, size multiple and scale."""

# No `from __future__ import annotations`: TorchScript reads the annotations of `Generator` as types, not as strings.

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Everything needed to build a generator again. Subclasses add the dimensions of their family.

    Every field has a default and is a plain JSON value or a tuple of integers, so that `to_dict` can be undone.
    """

    family: ClassVar[str]

    in_channels: int = 3
    out_channels: int = 3

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values, `family` included; `engine.generators.build_from_dict` takes it."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}
        return {"family": self.family, **values}

    def describe(self) -> str:
        """One line for people, e.g. "ResNet, 9 blocks, 64 channels, instance norm, transposed upsampling"."""
        raise TypeError(f"{type(self).__name__} defines no describe")

    def _describe_channels(self) -> str:
        """Names the picture channels where they aren't RGB to RGB."""
        if (self.in_channels, self.out_channels) == (3, 3):
            return ""
        return f", {self.in_channels} -> {self.out_channels} picture channels"


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

    # TorchScript has no type for a dataclass, and no forward reads it.
    __jit_ignored_attributes__: ClassVar[list[str]] = ["config"]

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


def require(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless `condition` holds; configurations check their fields with it."""
    if not condition:
        raise ValueError(message)


def require_positive(config: GeneratorConfig, *names: str) -> None:
    """Raises ValueError unless the named fields of `config` are at least 1 and small enough to be meant."""
    for name in ("in_channels", "out_channels", *names):
        value = getattr(config, name)
        require(1 <= value <= 65536, f"{name} is {value}; accepted are 1 to 65536")


def require_choice(config: GeneratorConfig, name: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless the named field of `config` is one of `choices`."""
    value = getattr(config, name)
    require(value in choices, f"{name} is {value!r}; accepted are {', '.join(choices)}")


def normalisation(norm: str, channels: int, *, affine: bool) -> nn.Module:
    """The layer for `norm`; "none" is an Identity, so that the indices of the layers after it stay."""
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=affine)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.Identity()
