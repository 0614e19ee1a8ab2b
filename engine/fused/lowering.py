"""A generator as a list of convolutions that normalise on read and count statistics on write.

`fuse` walks a generator's modules in the order of its forward. What stands between two convolutions (norm, activation,
padding, resizing, the addition of a residual block) is kept in a `Value`, and becomes part of the next convolution's
reading. The result is a `FusedGenerator`: packed weights (engine.fused.packing) and a program (engine.fused.program).
engine.fused.steps makes the steps of single layers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from engine import _native, generators
from engine.errors import BackendError
from engine.fused.layers import Skip, flattened, layers_of
from engine.fused.packing import rounded_up
from engine.fused.program import (
    NONE,
    TILES,
    Activation,
    Base,
    FusedGenerator,
    Packing,
    Padding,
    float_bits,
    program_of,
    write_bfloat16,
)
from engine.fused.steps import Steps
from engine.fused.values import Buffer, Value, require
from engine.generators import animegan, resnet, rrdbnet, srresnet, transformer_net
from engine.generators.unet import SkipBlock

# The tiles that are taken where nothing is said.
_USUAL_TILES = {"fp32": (8, 8), "bf16": (2, 2), "fast": (4, 4)}

# What is added to the picture of generators for super-resolution: the enlarged image.
_BASES = {generators.SRVGG: Base.NEAREST, generators.SRResNet: Base.BILINEAR}

# With so few channels memory is a part of the time, and `fast` keeps bfloat16 between the layers.
_NARROW_CHANNELS = 16

# What RRDBNet multiplies the results of its blocks by.
_RESIDUAL_SCALE = 0.2


def fuse(
    generator: generators.Generator,
    precision: str,
    *,
    tile: tuple[int, int] | None = None,
    matrix: bool = False,
    first_terms: int = 2,
    half_storage: bool = False,
) -> FusedGenerator:
    """The generator as one operator.

    Args:
        generator: in eval mode, on the CPU, float32.
        precision: "fp32", "bf16", or "fast", which is bfloat16 with fewer and less exact multiplications. It is of
            what is multiplied; sums are float32 in all, and so is what lies between layers, but for "fast" on few
            channels.
        tile: one of TILES, else the precision's own.
        matrix: whether convolutions are packed for a matrix unit (AMX). They run everywhere, but where there is none
            it is emulated, which takes a hundred times as long: see `has_matrix_unit`.
        first_terms: on a matrix unit, how many bfloat16 numbers the first layer's weights are the sum of, 1 or 2. One
            loses some 1 dB, and gains a twentieth of the time if the first layer has few channels.
        half_storage: whether bfloat16 lies between layers, though float32 is multiplied: bf16 for a CPU whose
            arithmetic of bfloat16 is slow, see `multiplies_bf16_fast`. Not for a matrix unit.

    Raises:
        BackendError: it has a layer that the fused operator does not know.
    """
    square = TILES[tile or _USUAL_TILES[precision]]
    if square == Packing.WINOGRAD8 and precision != "fp32":
        raise BackendError("tiles of 8x8 are for fp32 only")
    layers = layers_of(generator)
    builder = Lowering(generator, precision, square, matrix=matrix, first_terms=first_terms)
    value = builder.walk(layers, Value((NONE,), (generator.config.in_channels,)))
    if value.sources != (NONE,) or not builder.steps:
        raise BackendError("the generator does not end with a convolution to a picture")
    builder.steps[-1].base = _BASES.get(type(generator), Base.NONE)
    if matrix and precision != "fp32":
        write_bfloat16(builder.steps, residuals=True)
    elif half_storage or (precision == "fast" and builder.steps[0].out_channels <= _NARROW_CHANNELS):
        write_bfloat16(builder.steps, residuals=False)
    return FusedGenerator(
        builder.weights.tensor(),
        program_of(builder.steps, builder.dtype),
        generator.config.out_channels,
        generator.scale,
    )


def has_matrix_unit() -> bool:
    """Whether the instruction set in use multiplies tiles."""
    return _native.active_isa() == "avx512_amx"


@functools.cache
def multiplies_bf16_fast(isa: str) -> bool:
    """Whether an instruction set multiplies bfloat16 faster than float32: measured on registers, once, in 4 ms.

    AVX512-BF16 has twice the rate of float32 on AMD's Zen 4 and half of it on Intel's Xeons.
    """
    float32, bf16 = (_native.peak(kind, 1, 0.002, isa) for kind in ("float32", "bf16"))
    return bf16 is not None and float32 is not None and bf16 > float32


class Lowering(Steps):
    """Turns layers and blocks into steps."""

    def walk(self, layers: Iterable[nn.Module], value: Value, *, keep: bool = False) -> Value:
        """Applies layers one after the other.

        Args:
            keep: the first convolution keeps its input as it reads it, in the slot `self.kept`.
        """
        flat = list(flattened(layers))
        for layer, following in zip(flat, [*flat[1:], None], strict=True):
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                value = self.convolution(layer, value, keep=keep, following=following)
                keep = False
            else:
                value = self._apply(layer, value)
        return value

    def _apply(self, layer: nn.Module, value: Value) -> Value:
        if isinstance(layer, resnet.ResidualBlock):
            return self._residual_block([layer.conv_block], value)
        if isinstance(layer, transformer_net.ResidualBlock):
            return self._residual_block([layer.conv1, layer.in1, layer.relu, layer.conv2, layer.in2], value)
        if isinstance(layer, srresnet.ResidualBlock):
            return self._residual_block([layer.conv1, layer.relu, layer.conv2], value)
        if isinstance(layer, rrdbnet.ResidualInResidualBlock):
            return self._dense_blocks(layer, value)
        if isinstance(layer, Skip):
            return self._residual_block([*layer], value)
        if isinstance(layer, SkipBlock):
            return self._skip_block(layer, value)
        if isinstance(layer, animegan.InvertedResidualBlock):
            inside = [layer.layers]
            return self._residual_block(inside, value) if layer.residual else self.walk(inside, value)
        if isinstance(layer, nn.ReflectionPad2d) and layer.padding[:2] == layer.padding[2:]:
            return dataclasses.replace(value, padding=Padding.REFLECT, pad=(layer.padding[0], layer.padding[1]))
        if isinstance(layer, nn.ReLU):
            return self._activated(value, Activation.RELU, 0.0)
        if isinstance(layer, nn.LeakyReLU):
            return self._activated(value, Activation.LEAKY_RELU, layer.negative_slope)
        if isinstance(layer, nn.PReLU):
            parts = layer.weight.detach().expand(sum(value.channels)).split(value.channels)
            return self._activated(value, Activation.PRELU, 0.0, slopes=self.stored_slopes(parts))
        if isinstance(layer, nn.PixelUnshuffle) and value.is_picture and not self.steps:
            return dataclasses.replace(value, unshuffled=layer.downscale_factor)
        if isinstance(layer, nn.PixelShuffle) and layer not in self.folded and layer.upscale_factor > 1:
            return self.shuffled_picture(layer, value)
        if isinstance(layer, nn.PixelShuffle):
            return value
        if isinstance(layer, nn.Upsample) and layer.mode == "nearest" and layer.scale_factor == 2:
            return dataclasses.replace(value, enlarged=True)
        if isinstance(layer, nn.Upsample) and layer.mode == "bilinear" and layer.scale_factor == 2:
            return self.interpolated(layer, value)
        if isinstance(layer, (resnet.BlurDownsample, resnet.BlurUpsample)):
            return self.blurred(layer, value)
        if isinstance(layer, nn.InstanceNorm2d) and not layer.track_running_stats:
            return self._normalised(layer, value)
        if isinstance(layer, nn.GroupNorm) and layer.num_groups == 1:
            return self._normalised(layer, value, channels=layer.num_channels)
        if isinstance(layer, nn.Tanh) and value.is_picture and self.steps:
            self.steps[-1].tanh = 1
            return value
        if isinstance(layer, (nn.Dropout, nn.Identity)) or layer in self.folded:
            return value
        raise BackendError(f"the fused backend does not know {layer}")

    def _activated(self, value: Value, activation: int, slope: float, *, slopes: int = NONE) -> Value:
        # ReLU of a LeakyReLU is a ReLU.
        known = value.activation == Activation.NONE or activation == Activation.RELU
        if not known or value.residual != NONE or value.is_padded or value.is_picture:
            raise BackendError("the fused backend knows no activation in this place")
        return dataclasses.replace(value, activation=activation, slope=slope, slopes=slopes)

    def _normalised(self, layer: nn.InstanceNorm2d | nn.GroupNorm, value: Value, *, channels: int = 0) -> Value:
        """Args: channels: that are normalised together; 0: each by itself."""
        if not value.is_plain or value.is_picture or self.steps[-1].output != value.sources[0]:
            raise BackendError("the fused backend knows InstanceNorm right after a convolution only")
        step = self.steps[-1]
        step.has_norm, step.epsilon_bits, step.norm_channels = 1, float_bits(layer.eps), channels
        if layer.affine:
            step.norm_weight = self.weights.append_floats(layer.weight, step.out_channels)
            step.norm_bias = self.weights.append_floats(layer.bias, step.out_channels)
        return dataclasses.replace(value, is_normalised=True)

    def _residual_block(self, layers: Sequence[nn.Module], value: Value) -> Value:
        require(not value.is_padded and not value.enlarged and len(value.sources) == 1, "a residual block")
        value = self.finished(value)
        inner = self.walk(layers, value, keep=not value.is_plain)
        ends_plainly = inner.activation == Activation.NONE and inner.residual == NONE and not inner.is_padded
        require(ends_plainly and inner.channels == value.channels, "a residual block's end")
        return dataclasses.replace(inner, residual=value.sources[0] if value.is_plain else self.kept)

    def _skip_block(self, block: SkipBlock, value: Value) -> Value:
        inner = self.walk([block.model], value)
        if not block.skip:
            return inner
        around = (value, inner)
        raw = all(v.activation == Activation.NONE and v.residual == NONE and not v.is_padded for v in around)
        require(raw and all(len(v.sources) == 1 and not v.is_picture for v in around), "a skip connection")
        channels = value.channels + inner.channels
        return Value(value.sources + inner.sources, channels, value.reduction, is_normalised=True)

    def _dense_blocks(self, block: rrdbnet.ResidualInResidualBlock, value: Value) -> Value:
        first = self._dense_block(block.rdb1, value)
        last = self._dense_block(block.rdb3, self._dense_block(block.rdb2, first), scale=_RESIDUAL_SCALE)
        return dataclasses.replace(last, second_residual=first.residual)

    def _dense_block(self, block: rrdbnet.ResidualDenseBlock, value: Value, *, scale: float = 1.0) -> Value:
        """`scale` times the block's result. Its convolutions read and write one activation, input and results alike."""
        is_raw = value.activation == Activation.NONE and not value.is_normalised and not value.is_picture
        require(is_raw and not value.is_padded and len(value.channels) == 1, block)
        width, growth, slope = value.channels[0], block.conv1.out_channels, block.activation.negative_slope
        buffer = Buffer(self.new_slot(), rounded_up(width) + 4 * rounded_up(growth))
        goes_there = self.finishes and not value.is_plain
        if goes_there:
            self.makers[value.sources[0]].out_room = buffer.channels
            value = self.finished(value, slot=buffer.slot, border=1)
        self.convolution(block.conv1, value, keep=not goes_there, buffer=buffer)
        self.steps[-1].kept_channels = buffer.channels
        inside = Value((buffer.slot,), (width, growth), value.reduction)
        if not self.finishes:
            parts = [torch.ones(width), *[torch.full([growth], slope)] * 4]
            inside = dataclasses.replace(inside, activation=Activation.PRELU, slopes=self.stored_slopes(parts))
        for layer in (block.conv2, block.conv3, block.conv4, block.conv5):
            is_last = layer is block.conv5
            same = self.steps[-1].in_channels
            if self.finishes:
                self.steps[-1].out_activation, self.steps[-1].out_slope_bits = Activation.LEAKY_RELU, float_bits(slope)
            result = self.convolution(
                layer, inside, buffer=None if is_last else buffer, gain=_RESIDUAL_SCALE * scale if is_last else 1.0
            )
            self.steps[-1].kept_channels, self.steps[-1].same_channels = buffer.channels, same
            inside = dataclasses.replace(inside, channels=(*inside.channels, growth))
        return dataclasses.replace(result, residual=buffer.slot, residual_scale=scale)
