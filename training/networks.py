"""`--netG`, `--norm`, `--init_type` and their like -> generators with fresh weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.checkpoint import load_generator
from engine.errors import CheckpointError, EngineError
from engine.generators import (
    Generator,
    GeneratorConfig,
    ResNetConfig,
    RRDBNetConfig,
    SRResNetConfig,
    TransformerNetConfig,
    UNetConfig,
    build,
)

GENERATORS = (
    "resnet_9blocks, resnet_6blocks, resnet_Nblocks, unet_256, unet_128, unet_N, transformer, srresnet, rrdbnet"
)

NORMS = ("instance", "batch", "none")
INIT_TYPES = ("normal", "xavier", "kaiming", "orthogonal", "default")


def generator_config(
    name: str,
    *,
    width: int = 64,
    norm: str = "instance",
    dropout: bool = False,
    upsampling: str = "transposed",
    downsampling_padding: str = "zeros",
    in_channels: int = 3,
    out_channels: int = 3,
    scale: int = 4,
    blocks: int | None = None,
) -> GeneratorConfig:
    """The configuration that `--netG` names.

    Args:
        name: `resnet_Nblocks` (N residual blocks), `unet_N` (N a power of two: as many halvings), `transformer`
            (Johnson et al.'s style network), `srresnet` or `rrdbnet` (super-resolution).
        width: --ngf, channels after the first convolution.
        norm: "instance", "batch" or "none", where the family has one.
        dropout: in the blocks of a ResNet, in the inner levels of a U-Net.
        upsampling: of a ResNet, "transposed" convolution or "nearest" resize and convolution.
        downsampling_padding: of a ResNet's strided convolutions, "zeros" or "reflect".
        scale: of super-resolution.
        blocks: of super-resolution; None: as published, 16 or 23.

    Raises:
        EngineError: no such generator, or not with these values.
    """
    channels: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels}
    bias = norm == "instance"  # as the reference has it; files are told apart by it
    resnet, unet = re.fullmatch(r"resnet_(\d+)blocks", name), re.fullmatch(r"unet_(\d+)", name)
    try:
        if resnet:
            return ResNetConfig(
                **channels,
                width=width,
                blocks=int(resnet[1]),
                norm=norm,
                bias=bias,
                dropout=dropout,
                upsampling=upsampling,
                downsampling_padding=downsampling_padding,
            )
        if unet and int(unet[1]).bit_count() == 1 and int(unet[1]) > 1:
            levels = int(unet[1]).bit_length() - 1
            return UNetConfig(**channels, width=width, downsamplings=levels, norm=norm, bias=bias, dropout=dropout)
        if name == "transformer":
            return TransformerNetConfig(**channels, width=width // 2)
        if name == "srresnet":
            return SRResNetConfig(**channels, width=width, blocks=blocks or 16, scale=scale)
        if name == "rrdbnet":
            return RRDBNetConfig(**channels, width=width, growth=max(1, width // 2), blocks=blocks or 23, scale=scale)
    except ValueError as error:
        raise EngineError(f"--netG {name} can't be built so: {error}") from None
    raise EngineError(f"unknown generator {name!r}: accepted are {GENERATORS}")


def build_generator(config: GeneratorConfig, *, init_type: str = "normal", init_gain: float = 0.02) -> Generator:
    """Builds the generator with fresh weights, in training mode.

    Raises:
        EngineError: it can't be built, or no such initialisation.
    """
    try:
        generator = build(config)
    except CheckpointError as error:
        raise EngineError(str(error)) from None
    initialise(generator, init_type, init_gain)
    return generator


def start_from(generator: Generator, path: Path) -> None:
    """Gives a generator the weights of a checkpoint file of any known layout.

    Raises:
        EngineError: no such file, or it holds another generator.
    """
    loaded = load_generator(path)
    try:
        generator.load_state_dict(loaded.state_dict())
    except RuntimeError:
        raise EngineError(
            f"--pretrained {path} is {loaded.config.describe()}, and what is to be trained is "
            f"{generator.config.describe()}"
        ) from None


def initialise(network: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Fresh weights for all convolutions, linear layers and BatchNorms, as the reference implementation draws them.

    Args:
        init_type: "normal" with standard deviation `gain`, "xavier" with `gain`, "kaiming" (fan in), "orthogonal" with
            `gain`; biases are 0 and BatchNorm weights are drawn around 1. "default" leaves PyTorch's.

    Raises:
        EngineError: no such initialisation.
    """
    if init_type not in INIT_TYPES:
        raise EngineError(f"unknown initialisation {init_type!r}: accepted are {', '.join(INIT_TYPES)}")
    if init_type == "default":
        return
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, gain)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            _draw(getattr(layer, "weight_orig", layer.weight), init_type, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _draw(weight: torch.Tensor, init_type: str, gain: float) -> None:
    if init_type == "normal":
        nn.init.normal_(weight, 0.0, gain)
    elif init_type == "xavier":
        nn.init.xavier_normal_(weight, gain=gain)
    elif init_type == "kaiming":
        nn.init.kaiming_normal_(weight, a=0.0, mode="fan_in")
    else:
        nn.init.orthogonal_(weight, gain=gain)
