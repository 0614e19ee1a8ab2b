"""The generator families, and how to build one from its configuration.

A new family is a module here, a line in `_GENERATORS` and a layout in `engine/checkpoint`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import CheckpointError
from engine.generators.animegan import AnimeGAN, AnimeGANConfig
from engine.generators.base import Generator, GeneratorConfig
from engine.generators.resnet import ResNet, ResNetConfig
from engine.generators.rrdbnet import RRDBNet, RRDBNetConfig
from engine.generators.srresnet import SRResNet, SRResNetConfig
from engine.generators.srvgg import SRVGG, SRVGGConfig
from engine.generators.transformer_net import TransformerNet, TransformerNetConfig
from engine.generators.unet import UNet, UNetConfig

__all__ = [
    "CONFIG_KEY",
    "FAMILIES",
    "SRVGG",
    "AnimeGAN",
    "AnimeGANConfig",
    "Generator",
    "GeneratorConfig",
    "RRDBNet",
    "RRDBNetConfig",
    "ResNet",
    "ResNetConfig",
    "SRResNet",
    "SRResNetConfig",
    "SRVGGConfig",
    "TransformerNet",
    "TransformerNetConfig",
    "UNet",
    "UNetConfig",
    "build",
    "build_from_dict",
    "config_from_dict",
]

CONFIG_KEY = "streamgan.config"
"""Metadata field of native checkpoint files: the configuration as JSON."""

_GENERATORS: dict[type[GeneratorConfig], Callable[[Any], Generator]] = {
    ResNetConfig: ResNet,
    UNetConfig: UNet,
    TransformerNetConfig: TransformerNet,
    AnimeGANConfig: AnimeGAN,
    SRResNetConfig: SRResNet,
    RRDBNetConfig: RRDBNet,
    SRVGGConfig: SRVGG,
}

# Family name -> its configuration class.
FAMILIES: dict[str, type[GeneratorConfig]] = {config.family: config for config in _GENERATORS}


def build(config: GeneratorConfig) -> Generator:
    """Builds the generator that `config` describes, with fresh weights, in training mode.

    Raises:
        CheckpointError: `config` is of no known family.
    """
    if type(config) not in _GENERATORS:
        raise CheckpointError(f"no generator family for {type(config).__name__}; known are {', '.join(FAMILIES)}")
    return _GENERATORS[type(config)](config)


def build_from_dict(values: Mapping[str, Any]) -> Generator:
    """Builds a generator from what `GeneratorConfig.to_dict` gave, fresh from JSON or not.

    Raises:
        CheckpointError: an unknown family or field, or a value that isn't accepted.
    """
    return build(config_from_dict(values))


def config_from_dict(values: Mapping[str, Any]) -> GeneratorConfig:
    """The configuration that `GeneratorConfig.to_dict` wrote.

    Raises:
        CheckpointError: an unknown family or field, or a value that isn't accepted.
    """
    fields = dict(values)
    family = fields.pop("family", None)
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(f"unknown generator family {family!r}; known are {', '.join(FAMILIES)}")
    known = {field.name: field for field in dataclasses.fields(FAMILIES[family])}
    for name, value in fields.items():
        if name not in known:
            raise CheckpointError(f"{family} has no field {name!r}; known are {', '.join(known)}")
        fields[name] = _field_value(family, known[name], value)
    try:
        return FAMILIES[family](**fields)
    except ValueError as error:
        raise CheckpointError(f"{family} configuration is not accepted: {error}") from error


def _field_value(family: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """`value` as the field's type: a tuple for a JSON list, else it has the type of the field's default."""
    expected = type(field.default)
    if expected is tuple and isinstance(value, (list, tuple)) and all(type(item) is int for item in value):
        return tuple(value)
    if type(value) is not expected or expected is tuple:
        raise CheckpointError(
            f"{family} field {field.name!r} is {value!r}; accepted is a value of type {expected.__name__}"
        )
    return value
