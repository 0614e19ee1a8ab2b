"""A generator as a list of convolutions that normalise on read and count statistics on write.

`fuse` walks a generator's modules in the order of its forward. What stands between two convolutions (norm, activation,
padding, resizing, the addition of a residual block) is kept in a `_Value`, and becomes part of the next convolution's
reading. The result is a `FusedGenerator`: packed weights (engine.fuse_kernels) and a program (engine.fuse_program).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import _native
from engine.errors import BackendError
from engine.fuse_kernels import (
    PackedWeights,
    Phase,
    as_columns,
    direct_kernel,
    enlarged_phases,
    group_of,
    joined_phases,
    matrix_kernel,
    padded,
    rounded_up,
    shuffled,
    transposed_phases,
    transposed_taps,
    unshuffled_kernel,
    whole_blocks,
    winograd_kernel,
)
from engine.fuse_layers import Skip, flattened, layers_of
from engine.fuse_program import (
    BILINEAR,
    BILINEAR_BASE,
    COLUMNS,
    DEPTHWISE,
    DIRECT,
    IMAGE_CHANNELS,
    LEAKY_RELU,
    MATRIX,
    MATRIX_PICTURE,
    NEAREST_BASE,
    NO_ACTIVATION,
    NO_BASE,
    NONE,
    PRELU,
    REFLECT,
    RELU,
    REPLICATE,
    SHUFFLE,
    TILES,
    WINOGRAD8,
    WINOGRAD_PAIRS,
    WINOGRAD_STRIDED,
    WINOGRAD_TRANSPOSED,
    ZEROS,
    FusedGenerator,
    Step,
    float_bits,
    is_vertical,
    program_of,
)
from engine.generators import (
    SRVGG,
    AnimeGAN,
    Generator,
    ResNet,
    RRDBNet,
    SRResNet,
    TransformerNet,
    UNet,
    animegan,
    resnet,
    rrdbnet,
    srresnet,
    transformer_net,
)
from engine.generators.unet import SkipBlock

# The tiles that are taken where nothing is said.
_USUAL_TILES = {"fp32": (8, 8), "bf16": (2, 2), "fast": (4, 4)}

# What is added to the picture of generators for super-resolution: the enlarged image.
_BASES = {SRVGG: NEAREST_BASE, SRResNet: BILINEAR_BASE}

# A convolution of at least so many channels gains by Winograd; that of pairs, if it has so many pixels a side on
# pictures of the usual size, or the generator's smallest if that is larger.
_WINOGRAD_CHANNELS = 32
_WINOGRAD_DEEP_CHANNELS = 128
_WINOGRAD_SIDE = 16
_USUAL_SIDE = 256

# Generators without norms, whose activations are finished when they are written: a convolution on the matrix unit then
# multiplies them as they lie in memory.
_FINISHED = (SRVGG, SRResNet, RRDBNet)

# With so many channels the first layer is a hundredth of a generator's arithmetic, and multiplies float32 where the
# others multiply bfloat16.
_WIDE_CHANNELS = 64

# With so few channels memory is a part of the time, and `fast` keeps bfloat16 between the layers.
_NARROW_CHANNELS = 16

# Side of the block of pixels that the last layer makes at once on a matrix unit.
_PICTURE_BLOCK = 2
# What RRDBNet multiplies the results of its blocks by.
_RESIDUAL_SCALE = 0.2

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fast": torch.bfloat16}


def fuse(
    generator: Generator,
    precision: str,
    *,
    tile: tuple[int, int] | None = None,
    matrix: bool = False,
    first_parts: int = 2,
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
        first_parts: on a matrix unit, how many bfloat16 numbers the first layer's weights are the sum of, 1 or 2. One
            loses some 1 dB, and gains a twentieth of the time if the first layer has few channels.

    Raises:
        BackendError: it has a layer that the fused operator does not know.
    """
    if not isinstance(generator, (ResNet, TransformerNet, UNet, AnimeGAN, SRVGG, SRResNet, RRDBNet)):
        raise BackendError(f"the fused backend has no form of {type(generator).__name__} yet")
    method = TILES[tile or _USUAL_TILES[precision]]
    if method == WINOGRAD8 and precision != "fp32":
        raise BackendError("tiles of 8x8 are for fp32 only")
    builder = _Builder(generator, precision, method, matrix=matrix, first_parts=first_parts)
    value = builder.walk(layers_of(generator), _Value((NONE,), (generator.config.in_channels,)))
    if value.sources != (NONE,) or not builder.steps:
        raise BackendError("the generator does not end with a convolution to a picture")
    builder.steps[-1].base = _BASES.get(type(generator), NO_BASE)
    if matrix and precision != "fp32":
        _write_bfloat16(builder.steps, residuals=True)
    elif precision == "fast" and builder.steps[0].out_channels <= _NARROW_CHANNELS:
        _write_bfloat16(builder.steps, residuals=False)
    return FusedGenerator(
        builder.weights.tensor(),
        program_of(builder.steps, builder.dtype),
        generator.config.out_channels,
        generator.scale,
    )


def has_matrix_unit() -> bool:
    """Whether the instruction set in use multiplies tiles."""
    return _native.active_isa() == "avx512_amx"


def _write_bfloat16(steps: list[Step], *, residuals: bool) -> None:
    """Has convolutions write bfloat16.

    Args:
        residuals: what is added to something later too, where the matrix unit's steps read it.
    """
    on_matrix_unit = (MATRIX, MATRIX_PICTURE)
    added = {
        slot
        for step in steps
        for slot in (step.residual, step.second_residual)
        if not residuals or step.method not in on_matrix_unit
    }
    # A slot that several steps write is of one type.
    writers: dict[int, list[tuple[Step, str]]] = {}
    for step in steps:
        writers.setdefault(step.output, []).append((step, "writes_bfloat16"))
        writers.setdefault(step.save, []).append((step, "saves_bfloat16"))
    for slot, writing in writers.items():
        can_write = all(
            (residuals and step.method in on_matrix_unit)
            if name == "saves_bfloat16"
            else step.method not in (DEPTHWISE, BILINEAR, COLUMNS, SHUFFLE, MATRIX_PICTURE)
            for step, name in writing
        )
        if slot != NONE and slot not in added and can_write:
            for step, name in writing:
                setattr(step, name, 1)


@dataclasses.dataclass(frozen=True)
class _Buffer:
    """An activation that several convolutions write side by side; the first of them keeps its own input there.

    Attributes:
        channels: for all of them.
    """

    slot: int
    channels: int


@dataclasses.dataclass(frozen=True)
class _Value:
    """What the next layer reads: slots, and what is still to be done to them on the way.

    Attributes:
        sources: one slot, or two, one after the other along the channels; `NONE` is the image, at the beginning, and
            the picture, at the end.
        channels: of each source; of one source perhaps in several parts, each stored in whole blocks.
        reduction: how many times smaller than the image it is.
        slopes: of PReLU, where they are in the weights.
        residual: slot that is added after norm and activation, times `residual_scale`.
        second_residual: slot that is added too.
        pad: of a padding layer, before (left and top) and after.
        is_plain: whether the one slot holds the very values, with nothing to be done.
    """

    sources: tuple[int, ...]
    channels: tuple[int, ...]
    reduction: Fraction = Fraction(1)
    is_normalised: bool = False
    activation: int = NO_ACTIVATION
    slope: float = 0.0
    slopes: int = NONE
    residual: int = NONE
    residual_scale: float = 1.0
    second_residual: int = NONE
    padding: int = ZEROS
    pad: tuple[int, int] = (0, 0)
    enlarged: bool = False
    unshuffled: int = 1  # by how much a pixel unshuffle is still to make the image smaller

    @property
    def is_plain(self) -> bool:
        is_raw = not self.is_normalised and self.activation == NO_ACTIVATION and self.residual == NONE
        return is_raw and len(self.sources) == 1

    @property
    def is_padded(self) -> bool:
        return self.pad != (0, 0)

    @property
    def is_picture(self) -> bool:
        return self.sources == (NONE,)


class _Builder:
    """Turns layers into steps and packs their weights."""

    def __init__(
        self, generator: Generator, precision: str, square_method: int, *, matrix: bool, first_parts: int
    ) -> None:
        convolutions = [layer for layer in generator.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
        self._square_method = square_method
        self._matrix = matrix
        self.dtype = DTYPES[precision]
        self._finishes = matrix and precision != "fp32" and isinstance(generator, _FINISHED)
        self._last = convolutions[-1]
        self._first_is_small = convolutions[0].out_channels >= _WIDE_CHANNELS
        self._first_parts = first_parts
        self._image_range = generator.input_range
        self._side = max(generator.minimum_size, _USUAL_SIDE)
        self.steps: list[Step] = []
        self.slots = 0
        self._makers: dict[int, Step] = {}  # of slots that one convolution writes
        self._kept = NONE  # slot of the input that a convolution was to keep
        self._folded: set[nn.Module] = set()  # norms and pixel shuffles that are in the convolution before them
        self._slopes: dict[tuple[float, ...], int] = {}  # where they are in the weights
        self.weights = PackedWeights()

    # --- the layers

    def walk(self, layers: Iterable[nn.Module], value: _Value, *, keep: bool = False) -> _Value:
        """Applies layers one after the other.

        Args:
            keep: the first convolution keeps its input as it reads it, in the slot `self._kept`.
        """
        flat = list(flattened(layers))
        for layer, following in zip(flat, [*flat[1:], None], strict=True):
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                value = self._convolution(layer, value, keep=keep, following=following)
                keep = False
            else:
                value = self._apply(layer, value)
        return value

    def _apply(self, layer: nn.Module, value: _Value) -> _Value:
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
            return dataclasses.replace(value, padding=REFLECT, pad=(layer.padding[0], layer.padding[1]))
        if isinstance(layer, nn.ReLU):
            return self._activated(value, RELU, 0.0)
        if isinstance(layer, nn.LeakyReLU):
            return self._activated(value, LEAKY_RELU, layer.negative_slope)
        if isinstance(layer, nn.PReLU):
            parts = layer.weight.detach().expand(sum(value.channels)).split(value.channels)
            return self._activated(value, PRELU, 0.0, slopes=self._stored_slopes(parts))
        if isinstance(layer, nn.PixelUnshuffle) and value.is_picture and not self.steps:
            return dataclasses.replace(value, unshuffled=layer.downscale_factor)
        if isinstance(layer, nn.PixelShuffle) and layer not in self._folded and layer.upscale_factor > 1:
            return self._shuffled_picture(layer, value)
        if isinstance(layer, nn.PixelShuffle):
            return value
        if isinstance(layer, nn.Upsample) and layer.mode == "nearest" and layer.scale_factor == 2:
            return dataclasses.replace(value, enlarged=True)
        if isinstance(layer, nn.Upsample) and layer.mode == "bilinear" and layer.scale_factor == 2:
            return self._interpolated(layer, value)
        if isinstance(layer, (resnet.BlurDownsample, resnet.BlurUpsample)):
            return self._blurred(layer, value)
        if isinstance(layer, nn.InstanceNorm2d) and not layer.track_running_stats:
            return self._normalised(layer, value)
        if isinstance(layer, nn.GroupNorm) and layer.num_groups == 1:
            return self._normalised(layer, value, channels=layer.num_channels)
        if isinstance(layer, nn.Tanh) and value.is_picture and self.steps:
            self.steps[-1].tanh = 1
            return value
        if isinstance(layer, (nn.Dropout, nn.Identity)) or layer in self._folded:
            return value
        raise BackendError(f"the fused backend does not know {layer}")

    def _activated(self, value: _Value, activation: int, slope: float, *, slopes: int = NONE) -> _Value:
        # ReLU of a LeakyReLU is a ReLU.
        known = value.activation == NO_ACTIVATION or activation == RELU
        if not known or value.residual != NONE or value.is_padded or value.is_picture:
            raise BackendError("the fused backend knows no activation in this place")
        return dataclasses.replace(value, activation=activation, slope=slope, slopes=slopes)

    def _stored_slopes(self, parts: Sequence[Tensor]) -> int:
        """Slopes of the channels of each part, in whole blocks."""
        stored = torch.cat([F.pad(part.float(), (0, rounded_up(len(part)) - len(part))) for part in parts])
        key = tuple(stored.tolist())
        if key not in self._slopes:
            self._slopes[key] = self.weights.append_floats(stored, len(stored))
        return self._slopes[key]

    def _normalised(self, layer: nn.InstanceNorm2d | nn.GroupNorm, value: _Value, *, channels: int = 0) -> _Value:
        """Args: channels: that are normalised together; 0: each by itself."""
        if not value.is_plain or value.is_picture or self.steps[-1].output != value.sources[0]:
            raise BackendError("the fused backend knows InstanceNorm right after a convolution only")
        step = self.steps[-1]
        step.has_norm, step.epsilon_bits, step.norm_channels = 1, float_bits(layer.eps), channels
        if layer.affine:
            step.norm_weight = self.weights.append_floats(layer.weight, step.out_channels)
            step.norm_bias = self.weights.append_floats(layer.bias, step.out_channels)
        return dataclasses.replace(value, is_normalised=True)

    def _residual_block(self, layers: Sequence[nn.Module], value: _Value) -> _Value:
        self._require(not value.is_padded and not value.enlarged and len(value.sources) == 1, "a residual block")
        value = self._finished(value)
        inner = self.walk(layers, value, keep=not value.is_plain)
        ends_plainly = inner.activation == NO_ACTIVATION and inner.residual == NONE and not inner.is_padded
        self._require(ends_plainly and inner.channels == value.channels, "a residual block's end")
        return dataclasses.replace(inner, residual=value.sources[0] if value.is_plain else self._kept)

    def _skip_block(self, block: SkipBlock, value: _Value) -> _Value:
        inner = self.walk([block.model], value)
        if not block.skip:
            return inner
        around = (value, inner)
        raw = all(v.activation == NO_ACTIVATION and v.residual == NONE and not v.is_padded for v in around)
        self._require(raw and all(len(v.sources) == 1 and not v.is_picture for v in around), "a skip connection")
        channels = value.channels + inner.channels
        return _Value(value.sources + inner.sources, channels, value.reduction, is_normalised=True)

    def _dense_blocks(self, block: rrdbnet.ResidualInResidualBlock, value: _Value) -> _Value:
        first = self._dense_block(block.rdb1, value)
        last = self._dense_block(block.rdb3, self._dense_block(block.rdb2, first), scale=_RESIDUAL_SCALE)
        return dataclasses.replace(last, second_residual=first.residual)

    def _dense_block(self, block: rrdbnet.ResidualDenseBlock, value: _Value, *, scale: float = 1.0) -> _Value:
        """`scale` times the block's result. Its convolutions read and write one activation, input and results alike."""
        is_raw = value.activation == NO_ACTIVATION and not value.is_normalised and not value.is_picture
        self._require(is_raw and not value.is_padded and len(value.channels) == 1, block)
        width, growth, slope = value.channels[0], block.conv1.out_channels, block.activation.negative_slope
        buffer = _Buffer(self._new_slot(), rounded_up(width) + 4 * rounded_up(growth))
        goes_there = self._finishes and not value.is_plain
        if goes_there:
            self._makers[value.sources[0]].out_room = buffer.channels
            value = self._finished(value, slot=buffer.slot, border=1)
        self._convolution(block.conv1, value, keep=not goes_there, buffer=buffer)
        self.steps[-1].kept_channels = buffer.channels
        inside = _Value((buffer.slot,), (width, growth), value.reduction)
        if not self._finishes:
            parts = [torch.ones(width), *[torch.full([growth], slope)] * 4]
            inside = dataclasses.replace(inside, activation=PRELU, slopes=self._stored_slopes(parts))
        for layer in (block.conv2, block.conv3, block.conv4, block.conv5):
            is_last = layer is block.conv5
            same = self.steps[-1].in_channels
            if self._finishes:
                self.steps[-1].out_activation, self.steps[-1].out_slope_bits = LEAKY_RELU, float_bits(slope)
            result = self._convolution(
                layer, inside, buffer=None if is_last else buffer, gain=_RESIDUAL_SCALE * scale if is_last else 1.0
            )
            self.steps[-1].kept_channels, self.steps[-1].same_channels = buffer.channels, same
            inside = dataclasses.replace(inside, channels=(*inside.channels, growth))
        return dataclasses.replace(result, residual=buffer.slot, residual_scale=scale)

    def _finished(self, value: _Value, *, slot: int = NONE, border: int = 0) -> _Value:
        """The value with activation and residuals done by the convolution that writes it, where that can.

        Args:
            slot: where it goes instead.
            border: zeros around it.
        """
        step = self._makers.get(value.sources[0])
        if step is None or not self._finishes or (value.residual != NONE and step.up > 1):
            return value
        step.border = max(step.border, border)
        if slot != NONE:
            step.output = slot
        if not value.is_plain:
            step.out_activation, step.out_slope_bits = value.activation, float_bits(value.slope)
            step.out_slopes = value.slopes
            step.out_residual, step.out_second_residual = value.residual, value.second_residual
            step.out_residual_scale_bits = float_bits(value.residual_scale)
        plain = _Value((step.output,), value.channels, value.reduction)
        return dataclasses.replace(plain, padding=value.padding, pad=value.pad, enlarged=value.enlarged)

    # --- what works on each channel by itself

    def _channelwise(self, method: int, value: _Value, *, keep: bool = False) -> Step:
        """A step of as many channels as `value`, which multiplies float32; without its shape and weights."""
        self._require(len(value.sources) == 1 and not value.is_picture and not value.enlarged, "this on two inputs")
        channels = rounded_up(value.channels[0])
        step = self._reading(value)
        step.method, step.multiplies_float32, step.in_channels, step.out_channels = method, 1, channels, channels
        if keep:
            self._kept = step.save = self._new_slot()
        self.steps.append(step)
        step.output = self._new_slot()
        return step

    def _reading(self, value: _Value) -> Step:
        return Step(
            source=value.sources[0],
            second_source=value.sources[1] if len(value.sources) == 2 else NONE,
            residual=value.residual,
            second_residual=value.second_residual,
            residual_scale_bits=float_bits(value.residual_scale),
            activation=value.activation,
            slope_bits=float_bits(value.slope),
            slopes=value.slopes,
        )

    def _made_by(self, step: Step, value: _Value) -> _Value:
        return _Value((step.output,), value.channels, value.reduction * step.stride / step.up)

    def _depthwise(self, step: Step, phases: list[Phase], bias: Tensor) -> None:
        """Packs kernels [channels, 1, rows, columns] as [row][column][channel]."""
        step.bias = self.weights.append_floats(bias, step.out_channels)
        for phase in phases:
            rows, columns = phase.kernel.shape[2:]
            taps = whole_blocks(phase.kernel).permute(2, 3, 1, 0).float()
            step.phases.append([phase.dy, rows, phase.dx, columns, self.weights.append(taps)])

    def _depthwise_convolution(
        self, layer: nn.Conv2d, value: _Value, *, keep: bool, following: nn.Module | None
    ) -> _Value:
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        known = layer.groups == layer.in_channels == layer.out_channels and layer.dilation == (1, 1)
        self._require(known and layer.kernel_size == (kernel, kernel) and layer.stride == (stride, stride), layer)
        self._require(stride in (1, 2) and layer is not self._last, layer)
        weight, bias = self._weights(layer, following)
        step = self._channelwise(DEPTHWISE, value, keep=keep)
        step.padding, (step.pad_before, step.pad_after) = _padding_of(layer, value)
        step.kernel, step.stride = kernel, stride
        self._depthwise(step, [Phase(-step.pad_before, -step.pad_before, weight)], bias)
        return self._made_by(step, value)

    def _blurred(self, layer: resnet.BlurDownsample | resnet.BlurUpsample, value: _Value) -> _Value:
        self._require(not value.is_padded, layer)
        kernel = layer.filt.detach().double()
        step = self._channelwise(DEPTHWISE, value)
        if isinstance(layer, resnet.BlurDownsample):
            step.padding, step.pad_before, step.pad_after, step.kernel, step.stride = REFLECT, 1, 1, 3, 2
            phases = [Phase(-1, -1, kernel)]
        else:
            step.padding, step.up = REPLICATE, 2
            # Output row 2 y is rows y - 1 and y times the filter's rows 3 and 1; 2 y + 1 is y and y + 1 times 2 and 0.
            rows = [(-1, [3, 1]), (0, [2, 0])]
            phases = [
                Phase(dy, dx, kernel[:, :, taps_y][:, :, :, taps_x]) for dy, taps_y in rows for dx, taps_x in rows
            ]
        self._depthwise(step, phases, kernel.new_zeros(value.channels[0]))
        return self._made_by(step, value)

    def _interpolated(self, layer: nn.Upsample, value: _Value) -> _Value:
        self._require(not value.is_padded, layer)
        step = self._channelwise(BILINEAR, value)
        step.up, step.padding, step.aligns_corners = 2, REPLICATE, int(bool(layer.align_corners))
        step.bias = self.weights.append_floats(torch.zeros(0), step.out_channels)
        return self._made_by(step, value)

    def _shuffled_picture(self, layer: nn.PixelShuffle, value: _Value) -> _Value:
        """The last step, of channels that `_convolution` has put in its order."""
        self._require(value.is_plain and not value.is_padded, layer)
        step = self._channelwise(SHUFFLE, value)
        step.up, step.output = layer.upscale_factor, NONE
        step.picture_channels = value.channels[0] // layer.upscale_factor**2
        step.bias = self.weights.append_floats(torch.zeros(0), step.out_channels)
        return _Value((NONE,), (step.picture_channels,))

    # --- a convolution

    def _convolution(
        self,
        layer: nn.Conv2d | nn.ConvTranspose2d,
        value: _Value,
        *,
        keep: bool = False,
        following: nn.Module | None = None,
        buffer: _Buffer | None = None,
        gain: float = 1.0,
    ) -> _Value:
        """A step for the layer.

        Args:
            keep: it keeps its input as it reads it, in the slot `self._kept`.
            buffer: where its output goes, after what is there, and what it keeps.
            gain: that its output is multiplied by.
        """
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            return self._depthwise_convolution(layer, value, keep=keep, following=following)
        self._require(layer.groups == 1 and layer.dilation == (1, 1), layer)
        weight, bias = (gain * values for values in self._weights(layer, following))
        if self._finishes:
            border = int(layer.padding[0]) + (_PICTURE_BLOCK - 1 if layer is self._last else 0)
            value = self._finished(value, border=border)
        if value.unshuffled > 1:
            weight = unshuffled_kernel(weight, value.unshuffled)
        # The channels of each source are stored, and read, in whole blocks.
        stored = [IMAGE_CHANNELS] if value.is_picture else [rounded_up(channels) for channels in value.channels]
        parts = [padded(*part) for part in zip(weight.split(value.channels, dim=1), stored, strict=True)]
        weight = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        step = self._reading(value)
        step.in_channels = sum(stored)
        phases = self._shape(step, layer, value, weight)
        if value.is_picture:
            phases, bias = self._read_image(step, phases, bias)
        if keep:
            self._kept = step.save = buffer.slot if buffer else self._new_slot()
            step.save_channels = buffer.channels if buffer else 0
            step.border = int(self._finishes and buffer is not None)
        self.steps.append(step)
        factor = following.upscale_factor if isinstance(following, nn.PixelShuffle) else 1
        if layer is self._last and factor == 1:
            self._make_picture(step, layer, phases, weight, bias)
            return _Value((NONE,), (layer.out_channels,))
        step.output, step.appends = buffer.slot if buffer else self._new_slot(), int(buffer is not None)
        out_channels, biases = layer.out_channels, [bias]
        if factor > 1:
            self._require(len(phases) == 1 and step.stride == 1 and layer.out_channels % factor**2 == 0, layer)
            kernels, biases = shuffled(phases[0].kernel, factor), shuffled(bias, factor)
            if layer is self._last and self._matrix:
                assert following is not None
                self._folded.add(following)
                step.up, step.output = factor, NONE
                phases = [dataclasses.replace(phases[0], kernel=torch.cat(kernels))]
                self._make_matrix_picture(step, phases, torch.cat(biases), block=factor)
                return _Value((NONE,), (layer.out_channels // factor**2,))
            if layer is self._last:  # which shuffles row by row
                phases = [dataclasses.replace(phases[0], kernel=torch.cat(kernels))]
                biases = [torch.cat(biases)]
            else:
                assert following is not None
                self._require(factor <= 3, following)
                self._folded.add(following)
                phases = [dataclasses.replace(phases[0], kernel=kernel) for kernel in kernels]
                out_channels, step.up, step.shuffles = layer.out_channels // factor**2, factor, 1
        step.out_channels = rounded_up(out_channels)
        stored_biases = torch.cat([F.pad(values, (0, step.out_channels - out_channels)) for values in biases])
        step.bias = self.weights.append_floats(stored_biases, len(stored_biases))
        side = int(self._side / (value.reduction * step.stride))
        self._pack_phases(step, layer, weight, phases, side=side)
        if buffer is None:
            self._makers[step.output] = step
        return _Value((step.output,), (out_channels,), value.reduction * step.stride / step.up)

    def _read_image(self, step: Step, phases: list[Phase], bias: Tensor) -> tuple[list[Phase], Tensor]:
        """Spares the first layer what bfloat16 can't hold, the largest part of the rounding that a generator sees.

        A first layer with a tall kernel, or that is a small part of the generator, multiplies float32. Another one
        reads bytes less 128, which bfloat16 holds exactly, in place of values in `image_range`: with
        x = (u + 128) / s + low the kernel is divided by s, and the bias takes what is constant. Not where zeros are
        padded.
        """
        low, high = self._image_range
        scale, offset = 255.0 / (high - low), -128.0 - low * 255.0 / (high - low)
        is_exact = self.dtype == torch.float32 or ((self._first_is_small or is_vertical(step)) and not self._matrix)
        step.multiplies_float32 = int(is_exact)
        if step.multiplies_float32 or step.padding != REFLECT:
            step.image_scale_bits, step.image_offset_bits = float_bits(1.0), float_bits(0.0)
            return phases, bias
        step.weight_parts = self._first_parts  # of the matrix unit
        step.image_scale_bits, step.image_offset_bits = float_bits(scale), float_bits(offset)
        constant = torch.stack([phase.kernel.sum(dim=(1, 2, 3)) for phase in phases]).sum(dim=0) * (-offset / scale)
        return [dataclasses.replace(phase, kernel=phase.kernel / scale) for phase in phases], bias + constant

    def _pack_phases(self, step: Step, layer: nn.Module, weight: Tensor, phases: list[Phase], *, side: int) -> None:
        """Packs the taps for the fastest method.

        Args:
            weight: all taps, [out, in, rows, columns].
            side: of the base grid on pictures of the usual size.
        """
        gains = min(step.in_channels, step.out_channels) >= _WINOGRAD_CHANNELS
        if self._matrix:
            step.method = MATRIX
            step.phases = [self._pack_phase(step, phase) for phase in phases]
            return
        # Those that save a third only.
        is_deep = gains and (self.dtype == torch.float32 or step.in_channels >= _WINOGRAD_DEEP_CHANNELS)
        is_square = (step.kernel, step.stride) == (3, 1) and (step.up == 1 or step.shuffles)
        if gains and is_square:
            step.method = self._square_method
        elif is_deep and side >= _WINOGRAD_SIDE and (step.kernel, step.stride) == (3, 2):
            step.method = WINOGRAD_STRIDED
        elif (
            is_deep and side >= _WINOGRAD_SIDE and isinstance(layer, nn.ConvTranspose2d) and layer.kernel_size == (3, 3)
        ):
            step.method = WINOGRAD_TRANSPOSED
            phases = [Phase(0, 0, weight)]
        elif gains and side >= _WINOGRAD_SIDE and step.kernel == 4 and step.stride == 2:
            step.method = WINOGRAD_PAIRS
            # Every other row and column is a picture of its own: its channels come after those of the one before.
            kernel = phases[0].kernel
            planes = [kernel[:, :, p::2, q::2] for p in (0, 1) for q in (0, 1)]
            phases = [dataclasses.replace(phases[0], kernel=torch.cat(planes, dim=1))]
        elif gains and side >= _WINOGRAD_SIDE and all(phase.kernel.shape[2:] == (2, 2) for phase in phases):
            step.method = WINOGRAD_PAIRS
        for phase in phases:
            if step.method == DIRECT:
                step.phases.append(self._pack_phase(step, phase))
            else:
                packed = self.weights.append(winograd_kernel(whole_blocks(phase.kernel)))
                step.phases.append([phase.dy, phase.kernel.shape[2], phase.dx, phase.kernel.shape[3], packed])

    def _shape(self, step: Step, layer: nn.Conv2d | nn.ConvTranspose2d, value: _Value, weight: Tensor) -> list[Phase]:
        """Fills in stride, padding and size of a step; returns its taps."""
        if isinstance(layer, nn.ConvTranspose2d):
            self._require(not value.is_padded and not value.enlarged, layer)
            step.up = 2
            return transposed_phases(layer, weight)
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        self._require(layer.stride in ((1, 1), (2, 2)) and layer.kernel_size == (kernel, kernel), layer)
        step.padding, pad = _padding_of(layer, value)
        if value.unshuffled > 1:
            self._require(stride == 1 and step.padding == ZEROS and not value.is_padded, layer)
            factor = value.unshuffled
            step.stride, step.kernel, step.pad_before, step.pad_after = (
                factor,
                factor * kernel,
                *(factor * p for p in pad),
            )
            return [Phase(-step.pad_before, -step.pad_before, weight)]
        if value.enlarged:
            self._require(stride == 1 and kernel == 3 and pad == (1, 1), layer)
            step.up = 2
            step.padding = ZEROS if step.padding == ZEROS else REPLICATE
            return enlarged_phases(weight)
        step.stride, step.kernel, (step.pad_before, step.pad_after) = stride, kernel, pad
        return [Phase(-pad[0], -pad[0], weight)]

    def _weights(self, layer: nn.Conv2d | nn.ConvTranspose2d, following: nn.Module | None) -> tuple[Tensor, Tensor]:
        """Weight [out, in, rows, columns] and bias, float64, with a BatchNorm behind them folded in.

        A bias that InstanceNorm takes away again is left out.
        """
        weight = layer.weight.detach().double()
        if isinstance(layer, nn.ConvTranspose2d):
            weight = weight.transpose(0, 1)
        bias = weight.new_zeros(layer.out_channels)
        if layer.bias is not None and not isinstance(following, nn.InstanceNorm2d):
            bias = layer.bias.detach().double()
        if isinstance(following, nn.BatchNorm2d):
            mean, variance = following.running_mean, following.running_var
            self._require(mean is not None and variance is not None, following)
            assert mean is not None
            assert variance is not None
            scale = following.weight.detach().double() / (variance.double() + following.eps).sqrt()
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = (bias - mean.double()) * scale + following.bias.detach().double()
            self._folded.add(following)
        return weight, bias

    def _make_picture(
        self, step: Step, layer: nn.Conv2d | nn.ConvTranspose2d, phases: list[Phase], weight: Tensor, bias: Tensor
    ) -> None:
        """The last layer: a kernel of a single column, with an output channel per kernel column and picture channel."""
        if self._matrix:
            self._last_on_matrix_unit(step, phases, bias)
            return
        out_channels, width = layer.out_channels, weight.shape[3]
        step.method, step.picture_channels, step.kernel_width = COLUMNS, out_channels, width
        step.out_channels = rounded_up(width * out_channels)
        step.bias = self.weights.append_floats(bias, step.out_channels)
        if step.up == 1:
            self._require(step.stride == 1, layer)
            step.multiplies_float32 = int(is_vertical(step))
            phase = phases[0]
            step.phases = [self._pack_phase(step, Phase(phase.dy, phase.dx, as_columns(phase.kernel)))]
            return
        self._require(isinstance(layer, nn.ConvTranspose2d), layer)
        for a in (0, 1):
            pad = int(layer.padding[0])
            dy, taps = transposed_taps(a, layer.kernel_size[0], pad)
            # First column of the products relative to the first input column: columns 2 x - padding + k of the output.
            step.phases.append(self._pack_phase(step, Phase(dy, -pad, as_columns(weight[:, :, taps]))))

    def _last_on_matrix_unit(self, step: Step, phases: list[Phase], bias: Tensor) -> None:
        """The last layer on the matrix unit: of its 2x2 phases, or of blocks of 2x2 pixels, whose kernels overlap."""
        self._require(step.stride == 1, "a last layer of stride 2")
        if step.up == 1:
            places = [(a, b) for a in range(_PICTURE_BLOCK) for b in range(_PICTURE_BLOCK)]
            phases = [dataclasses.replace(phases[0], dy=phases[0].dy + a, dx=phases[0].dx + b) for a, b in places]
        self._make_matrix_picture(step, [joined_phases(phases)], bias.repeat(len(phases)), block=_PICTURE_BLOCK)

    def _make_matrix_picture(self, step: Step, phases: list[Phase], bias: Tensor, *, block: int) -> None:
        """Ends with blocks of pixels, whose channels are [row][column][picture channel]."""
        step.method, step.picture_channels, step.block = MATRIX_PICTURE, len(bias) // block**2, block
        step.out_channels = rounded_up(len(bias))
        step.bias = self.weights.append_floats(bias, step.out_channels)
        step.phases = [self._pack_phase(step, phase) for phase in phases]

    def _pack_phase(self, step: Step, phase: Phase) -> list[int]:
        """Dy, rows, dx, columns and where the weights are."""
        step.weight_parts = 0 if not self._matrix else 2 if self.dtype == torch.float32 else max(step.weight_parts, 1)
        dtype = torch.float32 if step.multiplies_float32 else self.dtype
        kernel = whole_blocks(phase.kernel)
        if self._matrix:
            packed = self.weights.append(matrix_kernel(kernel, step.weight_parts))
        else:
            packed = self.weights.append_kernel(direct_kernel(kernel, group_of(dtype)), dtype)
        return [phase.dy, kernel.shape[2], phase.dx, kernel.shape[3], packed]

    def _require(self, condition: bool, what: object) -> None:
        if not condition:
            raise BackendError(f"the fused backend does not know {what} in this place")

    def _new_slot(self) -> int:
        self.slots += 1
        return self.slots - 1


def _padding_of(layer: nn.Conv2d, value: _Value) -> tuple[int, tuple[int, int]]:
    """Kind, and width before and after: the convolution's own, or that of a padding layer before it."""
    pad = layer.padding[0]
    if isinstance(pad, str) or layer.padding[0] != layer.padding[1] or (pad and value.is_padded):
        raise BackendError(f"the fused backend does not know the padding of {layer}")
    if value.is_padded:
        return value.padding, value.pad
    modes = {"zeros": ZEROS, "reflect": REFLECT, "replicate": REPLICATE}
    if layer.padding_mode not in modes:
        raise BackendError(f"the fused backend does not know the padding of {layer}")
    return modes[layer.padding_mode], (int(pad), int(pad))
