"""The layers of each generator in the order of its forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from engine import generators
from engine.errors import BackendError
from engine.generators import resnet, transformer_net


class Skip(nn.Sequential):
    """x + the layers' result."""


def _animegan(g: generators.AnimeGAN) -> Iterable[nn.Module]:
    enlarge = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=g.align_corners)
    return (g.block_a, g.block_b, g.block_c, enlarge, g.block_d, enlarge, g.block_e, g.out_layer)


def _srresnet(g: generators.SRResNet) -> Iterable[nn.Module]:
    up = (g.upconv1, g.pixel_shuffle1, g.activation, g.upconv2, g.pixel_shuffle2, g.second_activation)
    return (g.conv_first, g.activation, g.body, *up, g.conv_hr, g.activation, g.conv_last)


def _rrdbnet(g: generators.RRDBNet) -> Iterable[nn.Module]:
    enlarge = nn.Upsample(scale_factor=2.0, mode="nearest")
    up = (enlarge, g.conv_up1, g.activation, enlarge, g.conv_up2, g.activation)
    return (g.pixel_unshuffle, g.conv_first, Skip(g.body, g.conv_body), *up, g.conv_hr, g.activation, g.conv_last)


_FAMILIES: dict[type[generators.Generator], Callable[[Any], Iterable[nn.Module]]] = {
    generators.AnimeGAN: _animegan,
    generators.ResNet: nn.Module.children,
    generators.RRDBNet: _rrdbnet,
    generators.SRResNet: _srresnet,
    generators.SRVGG: nn.Module.children,
    generators.TransformerNet: nn.Module.children,
    generators.UNet: nn.Module.children,
}


def layers_of(generator: generators.Generator) -> Iterable[nn.Module]:
    """The layers in the order of the forward."""
    for family, layers in _FAMILIES.items():
        if isinstance(generator, family):
            return layers(generator)
    raise BackendError(f"the fused backend has no form of {type(generator).__name__} yet")


def flattened(layers: Iterable[nn.Module]) -> Iterable[nn.Module]:
    """What lies in sequences of layers, which stand for no more than that."""
    for layer in layers:
        is_list = isinstance(layer, (nn.Sequential, transformer_net.ReflectConvolution, resnet.SeparableConvolution))
        if is_list and not isinstance(layer, Skip):
            yield from flattened(layer.children())
        else:
            yield layer
