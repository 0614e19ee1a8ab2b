"""`--netG`, `--norm`, `--init_type` and their like -> generators with fresh weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.checkpoint import load_generator
from engine.errors import EngineError
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
_DRAW: dict[str, Callable[[torch.Tensor, float], object]] = {
    "normal": lambda weight, gain: nn.init.normal_(weight, 0.0, gain),
    "xavier": nn.init.xavier_normal_,
    "kaiming": lambda weight, gain: nn.init.kaiming_normal_(weight, a=0.0, mode="fan_in"),
    "orthogonal": nn.init.orthogonal_,
}
INIT_TYPES = (*_DRAW, "default")


def generator_config(
    name: str,
    *,
    width: int = 64,
    norm: str = "instance",
    dropout: bool = False,
    upsampling: str = "transposed",
    downsampling: str = "strided",
    downsampling_padding: str = "zeros",
    in_channels: int = 3,
    out_channels: int = 3,
    scale: int = 4,
    blocks: int | None = None,
) -> GeneratorConfig:
    """The configuration that `--netG` names.

    Args:
        name: `resnet_Nblocks` (N residual blocks), `unet_N` (log2 N halvings), `transformer` (Johnson et al.'s style
            network), `srresnet` or `rrdbnet` (super-resolution).
        width: --ngf, channels after the first convolution.
        norm: "instance", "batch" or "none", where the family has one.
        dropout: in the blocks of a ResNet, in the inner levels of a U-Net.
        upsampling: for ResNets, "transposed" convolution, "nearest" resize or "blur" (anti-aliased) and convolution.
        downsampling: for ResNets, "strided" convolution, or convolution and "blur" (anti-aliased).
        downsampling_padding: for the strided convolutions of ResNets, "zeros" or "reflect".
        scale, blocks: for super-resolution; blocks None: as published, 16 or 23.

    Raises:
        EngineError: the name is unknown, or the values don't fit the family.
    """
    common: dict[str, Any] = {"in_channels": in_channels, "out_channels": out_channels, "width": width}
    bias = norm == "instance"  # as the reference has it; files are told apart by it
    resnet, unet = re.fullmatch(r"resnet_(\d+)blocks", name), re.fullmatch(r"unet_(\d+)", name)
    try:
        if resnet:
            forms: dict[str, Any] = {"upsampling": upsampling, "downsampling": downsampling}
            forms["downsampling_padding"] = downsampling_padding
            return ResNetConfig(**common, blocks=int(resnet[1]), norm=norm, bias=bias, dropout=dropout, **forms)
        if unet and int(unet[1]).bit_count() == 1 and int(unet[1]) > 1:
            levels = int(unet[1]).bit_length() - 1
            return UNetConfig(**common, downsamplings=levels, norm=norm, bias=bias, dropout=dropout)
        if name == "transformer":
            return TransformerNetConfig(**{**common, "width": width // 2})
        if name == "srresnet":
            return SRResNetConfig(**common, blocks=blocks or 16, scale=scale)
        if name == "rrdbnet":
            return RRDBNetConfig(**common, growth=max(1, width // 2), blocks=blocks or 23, scale=scale)
    except ValueError as error:
        raise EngineError(f"--netG {name} can't be built so: {error}") from None
    raise EngineError(f"unknown generator {name!r}: accepted are {GENERATORS}")


def build_generator(config: GeneratorConfig, *, init_type: str = "normal", init_gain: float = 0.02) -> Generator:
    """Builds the generator with fresh weights, in training mode. Raises EngineError as `initialise`."""
    generator = build(config)
    initialise(generator, init_type, init_gain)
    return generator


def start_from(generator: Generator, path: Path, *, option: str = "--pretrained") -> None:
    """Loads the weights of a checkpoint of any known layout. Raises EngineError if it is of another generator."""
    loaded = load_generator(path)
    try:
        generator.load_state_dict(loaded.state_dict())
    except RuntimeError:
        theirs, ours = loaded.config.describe(), generator.config.describe()
        raise EngineError(f"{option}: {path} is {theirs}, but the generator to train is {ours}") from None


def initialise(network: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Fresh weights for all convolutions, linear layers and BatchNorms, as the reference implementation draws them.

    Biases are 0, and BatchNorm weights are drawn around 1.

    Args:
        init_type: "normal" with standard deviation `gain`, "xavier" with `gain`, "kaiming" (fan in), "orthogonal" with
            `gain`, or "default", which leaves PyTorch's weights.
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
            _DRAW[init_type](getattr(layer, "weight_orig", layer.weight), gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
