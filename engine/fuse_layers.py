"""The layers of each generator in the order of its forward."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from engine.generators import AnimeGAN, Generator, RRDBNet, SRResNet, resnet, transformer_net


class Skip(nn.Sequential):
    """x + the layers' result."""


def layers_of(generator: Generator) -> Iterable[nn.Module]:
    """The layers in the order of the forward."""
    if isinstance(generator, AnimeGAN):
        return _animegan(generator)
    if isinstance(generator, SRResNet):
        return _srresnet(generator)
    if isinstance(generator, RRDBNet):
        return _rrdbnet(generator)
    return generator.children()


def _animegan(g: AnimeGAN) -> Iterable[nn.Module]:
    enlarge = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=g.align_corners)
    return (g.block_a, g.block_b, g.block_c, enlarge, g.block_d, enlarge, g.block_e, g.out_layer)


def _srresnet(g: SRResNet) -> Iterable[nn.Module]:
    up = (g.upconv1, g.pixel_shuffle1, g.activation, g.upconv2, g.pixel_shuffle2, g.second_activation)
    return (g.conv_first, g.activation, g.body, *up, g.conv_hr, g.activation, g.conv_last)


def _rrdbnet(g: RRDBNet) -> Iterable[nn.Module]:
    enlarge = nn.Upsample(scale_factor=2.0, mode="nearest")
    up = (enlarge, g.conv_up1, g.activation, enlarge, g.conv_up2, g.activation)
    return (g.pixel_unshuffle, g.conv_first, Skip(g.body, g.conv_body), *up, g.conv_hr, g.activation, g.conv_last)


def flattened(layers: Iterable[nn.Module]) -> Iterable[nn.Module]:
    """What lies in sequences of layers, which stand for no more than that."""
    for layer in layers:
        is_list = isinstance(layer, (nn.Sequential, transformer_net.ReflectConvolution, resnet.SeparableConvolution))
        if is_list and not isinstance(layer, Skip):
            yield from flattened(layer.children())
        else:
            yield layer
