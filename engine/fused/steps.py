"""The steps of single layers: a convolution with all that its reading takes in, and how its taps are packed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import BackendError
from engine.fused import packing
from engine.fused.packing import PackedWeights, Phase, rounded_up
from engine.fused.program import IMAGE_CHANNELS, NONE, Packing, Padding, Step, float_bits, is_vertical
from engine.fused.values import Buffer, Value, require
from engine.generators import SRVGG, Generator, RRDBNet, SRResNet, resnet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fast": torch.bfloat16}

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

# Side of the block of pixels that the last layer makes at once on a matrix unit.
_PICTURE_BLOCK = 2

Convolution = nn.Conv2d | nn.ConvTranspose2d


@dataclasses.dataclass
class _Made:
    """A convolution's step while it is made. `weight` has all taps, [out, in, rows, columns]; phases have theirs."""

    step: Step
    layer: Convolution
    value: Value
    weight: Tensor
    phases: list[Phase]
    buffer: Buffer | None


class Steps:
    """Steps so far, and their weights.

    Attributes:
        dtype: of what is multiplied.
        finishes: whether activations are finished when they are written.
        makers: the step that writes a slot, of slots that one convolution writes.
        kept: slot of the input that a convolution was to keep.
        folded: norms and pixel shuffles that are in the convolution before them.
    """

    def __init__(
        self, generator: Generator, precision: str, square: Packing, *, matrix: bool, first_terms: int
    ) -> None:
        convolutions = [layer for layer in generator.modules() if isinstance(layer, Convolution)]
        self.dtype = DTYPES[precision]
        self.finishes = matrix and precision != "fp32" and isinstance(generator, _FINISHED)
        self.steps: list[Step] = []
        self.makers: dict[int, Step] = {}
        self.kept = NONE
        self.folded: set[nn.Module] = set()
        self.weights = PackedWeights()
        self._square = square
        self._matrix = matrix
        self._last = convolutions[-1]
        self._first_is_small = convolutions[0].out_channels >= _WIDE_CHANNELS
        self._first_terms = first_terms
        self._image_range = generator.input_range
        self._side = max(generator.minimum_size, _USUAL_SIDE)
        self._slots = 0
        self._slopes: dict[tuple[float, ...], int] = {}  # where they are in the weights

    def new_slot(self) -> int:
        self._slots += 1
        return self._slots - 1

    def stored_slopes(self, parts: Sequence[Tensor]) -> int:
        """Slopes of the channels of each part, in whole blocks."""
        stored = torch.cat([F.pad(part.float(), (0, rounded_up(len(part)) - len(part))) for part in parts])
        key = tuple(stored.tolist())
        if key not in self._slopes:
            self._slopes[key] = self.weights.append_floats(stored, len(stored))
        return self._slopes[key]

    def finished(self, value: Value, *, slot: int = NONE, border: int = 0) -> Value:
        """The value with activation and residuals done by the convolution that writes it, where that can.

        Args:
            slot: where it goes instead.
            border: zeros around it.
        """
        step = self.makers.get(value.sources[0])
        if step is None or not self.finishes or (value.residual != NONE and step.up > 1):
            return value
        step.border = max(step.border, border)
        if slot != NONE:
            step.output = slot
        if not value.is_plain:
            step.out_activation, step.out_slope_bits = value.activation, float_bits(value.slope)
            step.out_slopes = value.slopes
            step.out_residual, step.out_second_residual = value.residual, value.second_residual
            step.out_residual_scale_bits = float_bits(value.residual_scale)
        plain = Value((step.output,), value.channels, value.reduction)
        return dataclasses.replace(plain, padding=value.padding, pad=value.pad, enlarged=value.enlarged)

    # --- layers that work on each channel by itself

    def depthwise_convolution(
        self, layer: nn.Conv2d, value: Value, *, keep: bool, following: nn.Module | None
    ) -> Value:
        size, stride = layer.kernel_size[0], layer.stride[0]
        known = layer.groups == layer.in_channels == layer.out_channels and layer.dilation == (1, 1)
        require(known and layer.kernel_size == (size, size) and layer.stride == (stride, stride), layer)
        require(stride in (1, 2) and layer is not self._last, layer)
        weight, bias = self._weights(layer, following)
        step = self._channelwise(Packing.DEPTHWISE, value, keep=keep)
        step.padding, (step.pad_before, step.pad_after) = _padding_of(layer, value)
        step.taps, step.stride = size, stride
        return self._depthwise(step, [Phase(-step.pad_before, -step.pad_before, weight)], bias, value)

    def blurred(self, layer: resnet.BlurDownsample | resnet.BlurUpsample, value: Value) -> Value:
        require(not value.is_padded, layer)
        taps = layer.filt.detach().double()
        step = self._channelwise(Packing.DEPTHWISE, value)
        if isinstance(layer, resnet.BlurDownsample):
            step.padding, step.pad_before, step.pad_after, step.taps, step.stride = Padding.REFLECT, 1, 1, 3, 2
            phases = [Phase(-1, -1, taps)]
        else:
            step.padding, step.up = Padding.REPLICATE, 2
            # Output row 2 y is rows y - 1 and y times the filter's rows 3 and 1; 2 y + 1 is y and y + 1 times 2 and 0.
            rows = [(-1, [3, 1]), (0, [2, 0])]
            phases = [Phase(dy, dx, taps[:, :, down][:, :, :, across]) for dy, down in rows for dx, across in rows]
        return self._depthwise(step, phases, taps.new_zeros(value.channels[0]), value)

    def interpolated(self, layer: nn.Upsample, value: Value) -> Value:
        require(not value.is_padded, layer)
        step = self._channelwise(Packing.BILINEAR, value)
        step.up, step.padding, step.aligns_corners = 2, Padding.REPLICATE, int(bool(layer.align_corners))
        step.bias = self.weights.append_floats(torch.zeros(0), step.out_channels)
        return value.made_by(step, value.channels)

    def shuffled_picture(self, layer: nn.PixelShuffle, value: Value) -> Value:
        """The last step, of channels that `convolution` has put in its order."""
        require(value.is_plain and not value.is_padded, layer)
        step = self._channelwise(Packing.SHUFFLE, value)
        step.up, step.output = layer.upscale_factor, NONE
        step.picture_channels = value.channels[0] // layer.upscale_factor**2
        step.bias = self.weights.append_floats(torch.zeros(0), step.out_channels)
        return Value((NONE,), (step.picture_channels,))

    def _channelwise(self, kind: Packing, value: Value, *, keep: bool = False) -> Step:
        """A step of as many channels as `value`, which multiplies float32; without its shape and weights."""
        require(len(value.sources) == 1 and not value.is_picture and not value.enlarged, "this on two inputs")
        channels = rounded_up(value.channels[0])
        step = value.reader()
        step.packing, step.multiplies_float32, step.in_channels, step.out_channels = kind, 1, channels, channels
        if keep:
            self.kept = step.save = self.new_slot()
        self.steps.append(step)
        step.output = self.new_slot()
        return step

    def _depthwise(self, step: Step, phases: list[Phase], bias: Tensor, value: Value) -> Value:
        """Packs taps [channels, 1, rows, columns] as [row][column][channel]."""
        step.bias = self.weights.append_floats(bias, step.out_channels)
        for phase in phases:
            rows, columns = phase.taps.shape[2:]
            packed = self.weights.append(packing.whole_blocks(phase.taps).permute(2, 3, 1, 0).float())
            step.phases.append([phase.dy, rows, phase.dx, columns, packed])
        return value.made_by(step, value.channels)

    # --- a convolution

    def convolution(
        self,
        layer: Convolution,
        value: Value,
        *,
        keep: bool = False,
        following: nn.Module | None = None,
        buffer: Buffer | None = None,
        gain: float = 1.0,
    ) -> Value:
        """A step for the layer.

        Args:
            keep: it keeps its input as it reads it, in the slot `self.kept`.
            buffer: where its output goes, after what is there, and what it keeps.
            gain: that its output is multiplied by.
        """
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            return self.depthwise_convolution(layer, value, keep=keep, following=following)
        require(layer.groups == 1 and layer.dilation == (1, 1), layer)
        weight, bias = (gain * values for values in self._weights(layer, following))
        if self.finishes:
            border = int(layer.padding[0]) + (_PICTURE_BLOCK - 1 if layer is self._last else 0)
            value = self.finished(value, border=border)
        if value.unshuffled > 1:
            weight = packing.unshuffled_filter(weight, value.unshuffled)
        # The channels of each source are stored, and read, in whole blocks.
        stored = [IMAGE_CHANNELS] if value.is_picture else [rounded_up(channels) for channels in value.channels]
        parts = [packing.padded(*part) for part in zip(weight.split(value.channels, dim=1), stored, strict=True)]
        weight = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        step = value.reader()
        step.in_channels = sum(stored)
        phases = _shape(step, layer, value, weight)
        if value.is_picture:
            phases, bias = self._read_image(step, phases, bias)
        if keep:
            self.kept = step.save = buffer.slot if buffer else self.new_slot()
            step.save_channels = buffer.channels if buffer else 0
            step.border = int(self.finishes and buffer is not None)
        self.steps.append(step)
        made = _Made(step, layer, value, weight, phases, buffer)
        if isinstance(following, nn.PixelShuffle) and following.upscale_factor > 1:
            return self._shuffling(made, bias, following)
        if layer is self._last:
            return self._make_picture(made, bias)
        return self._write(made, [bias])

    def _shuffling(self, made: _Made, bias: Tensor, shuffle: nn.PixelShuffle) -> Value:
        """A convolution before a pixel shuffle, whose output positions are phases, or, at the end, channels."""
        step, layer, factor = made.step, made.layer, shuffle.upscale_factor
        require(len(made.phases) == 1 and step.stride == 1 and layer.out_channels % factor**2 == 0, layer)
        filters, biases = packing.shuffled(made.phases[0].taps, factor), packing.shuffled(bias, factor)
        if layer is self._last:
            made.phases = [dataclasses.replace(made.phases[0], taps=torch.cat(filters))]
            if not self._matrix:  # another step shuffles, row by row
                return self._write(made, [torch.cat(biases)])
            step.up = factor
            self.folded.add(shuffle)
            return self._make_matrix_picture(step, made.phases, torch.cat(biases), block=factor)
        require(factor <= 3, shuffle)
        step.up, step.shuffles = factor, 1
        self.folded.add(shuffle)
        made.phases = [dataclasses.replace(made.phases[0], taps=taps) for taps in filters]
        return self._write(made, biases)

    def _write(self, made: _Made, biases: list[Tensor]) -> Value:
        """Ends a step that writes an activation: bias, and taps as the fastest algorithm wants them."""
        step, buffer, out_channels = made.step, made.buffer, len(biases[0])
        step.output, step.appends = buffer.slot if buffer else self.new_slot(), int(buffer is not None)
        step.out_channels = rounded_up(out_channels)
        stored = torch.cat([F.pad(values, (0, step.out_channels - out_channels)) for values in biases])
        step.bias = self.weights.append_floats(stored, len(stored))
        step.packing = Packing.MATRIX if self._matrix else self._packing(made)
        phases = made.phases
        if step.packing == Packing.WINOGRAD_TRANSPOSED:
            phases = [Phase(0, 0, made.weight)]
        elif step.packing == Packing.WINOGRAD_PAIRS and step.stride == 2:
            # Every other row and column is a picture of its own: its channels come after those of the one before.
            planes = [phases[0].taps[:, :, p::2, q::2] for p in (0, 1) for q in (0, 1)]
            phases = [dataclasses.replace(phases[0], taps=torch.cat(planes, dim=1))]
        step.phases = [self._packed(step, phase) for phase in phases]
        if buffer is None:
            self.makers[step.output] = step
        return made.value.made_by(step, (out_channels,))

    def _packing(self, made: _Made) -> Packing:
        step, layer = made.step, made.layer
        if min(step.in_channels, step.out_channels) < _WINOGRAD_CHANNELS:
            return Packing.DIRECT
        if (step.taps, step.stride) == (3, 1) and (step.up == 1 or step.shuffles):
            return self._square
        # The base grid, where pictures have the usual size.
        side = int(self._side / (made.value.reduction * step.stride))
        if side < _WINOGRAD_SIDE:
            return Packing.DIRECT
        # These save a third of the products only.
        if self.dtype == torch.float32 or step.in_channels >= _WINOGRAD_DEEP_CHANNELS:
            if (step.taps, step.stride) == (3, 2):
                return Packing.WINOGRAD_STRIDED
            if isinstance(layer, nn.ConvTranspose2d) and layer.kernel_size == (3, 3):
                return Packing.WINOGRAD_TRANSPOSED
        is_pairs = step.up == 2 and all(phase.taps.shape[2:] == (2, 2) for phase in made.phases)
        return Packing.WINOGRAD_PAIRS if is_pairs or (step.taps, step.stride) == (4, 2) else Packing.DIRECT

    def _packed(self, step: Step, phase: Phase) -> list[int]:
        """Dy, rows, dx, columns and where the weights are."""
        taps = packing.whole_blocks(phase.taps)
        if self._matrix:
            step.weight_terms = 2 if self.dtype == torch.float32 else max(step.weight_terms, 1)
            packed = self.weights.append(packing.matrix_taps(taps, step.weight_terms))
        elif step.packing in (Packing.DIRECT, Packing.COLUMNS):
            dtype = torch.float32 if step.multiplies_float32 else self.dtype
            packed = self.weights.append_taps(packing.direct_taps(taps, packing.group_of(dtype)), dtype)
        else:
            packed = self.weights.append(packing.winograd_taps(taps))
        return [phase.dy, taps.shape[2], phase.dx, taps.shape[3], packed]

    def _make_picture(self, made: _Made, bias: Tensor) -> Value:
        """The last layer: taps of one column, with an output channel for each filter column and picture channel."""
        step, layer, phases = made.step, made.layer, made.phases
        if self._matrix:
            # The 2x2 phases, or blocks of 2x2 pixels, whose filters overlap.
            require(step.stride == 1, "a last layer of stride 2")
            if step.up == 1:
                places = [(a, b) for a in range(_PICTURE_BLOCK) for b in range(_PICTURE_BLOCK)]
                phases = [dataclasses.replace(phases[0], dy=phases[0].dy + a, dx=phases[0].dx + b) for a, b in places]
            joined = [packing.joined_phases(phases)]
            return self._make_matrix_picture(step, joined, bias.repeat(len(phases)), block=_PICTURE_BLOCK)
        out_channels, width = layer.out_channels, made.weight.shape[3]
        step.packing, step.picture_channels, step.filter_width = Packing.COLUMNS, out_channels, width
        step.out_channels = rounded_up(width * out_channels)
        step.bias = self.weights.append_floats(bias, step.out_channels)
        if step.up == 1:
            require(step.stride == 1, layer)
            step.multiplies_float32 = int(is_vertical(step))
        else:
            require(isinstance(layer, nn.ConvTranspose2d), layer)
            pad = int(layer.padding[0])
            rows = [packing.transposed_taps(a, layer.kernel_size[0], pad) for a in (0, 1)]
            # First column of the products relative to the first input column: columns 2 x - padding + k of the output.
            phases = [Phase(dy, -pad, made.weight[:, :, taps]) for dy, taps in rows]
        columns = [dataclasses.replace(phase, taps=packing.as_columns(phase.taps)) for phase in phases]
        step.phases = [self._packed(step, phase) for phase in columns]
        return Value((NONE,), (out_channels,))

    def _make_matrix_picture(self, step: Step, phases: list[Phase], bias: Tensor, *, block: int) -> Value:
        """Ends with blocks of pixels, whose channels are [row][column][picture channel]."""
        step.packing, step.picture_channels, step.block = Packing.MATRIX_LAST, len(bias) // block**2, block
        step.out_channels = rounded_up(len(bias))
        step.bias = self.weights.append_floats(bias, step.out_channels)
        step.phases = [self._packed(step, phase) for phase in phases]
        return Value((NONE,), (step.picture_channels,))

    def _read_image(self, step: Step, phases: list[Phase], bias: Tensor) -> tuple[list[Phase], Tensor]:
        """Spares the first layer what bfloat16 can't hold, the largest part of the rounding that a generator sees.

        A first layer with a tall filter, or that is a small part of the generator, multiplies float32. Another one
        reads bytes less 128, which bfloat16 holds exactly, in place of values in `image_range`: with
        x = (u + 128) / s + low the taps are divided by s, and the bias takes what is constant. Not where zeros are
        padded.
        """
        low, high = self._image_range
        scale, offset = 255.0 / (high - low), -128.0 - low * 255.0 / (high - low)
        is_exact = self.dtype == torch.float32 or ((self._first_is_small or is_vertical(step)) and not self._matrix)
        step.multiplies_float32 = int(is_exact)
        if is_exact or step.padding != Padding.REFLECT:
            step.image_scale_bits, step.image_offset_bits = float_bits(1.0), float_bits(0.0)
            return phases, bias
        if self._matrix:
            step.weight_terms = self._first_terms
        step.image_scale_bits, step.image_offset_bits = float_bits(scale), float_bits(offset)
        constant = torch.stack([phase.taps.sum(dim=(1, 2, 3)) for phase in phases]).sum(dim=0) * (-offset / scale)
        return [dataclasses.replace(phase, taps=phase.taps / scale) for phase in phases], bias + constant

    def _weights(self, layer: Convolution, following: nn.Module | None) -> tuple[Tensor, Tensor]:
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
            if mean is None or variance is None:
                raise BackendError(f"the fused backend does not know {following} in this place")
            scale = following.weight.detach().double() / (variance.double() + following.eps).sqrt()
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = (bias - mean.double()) * scale + following.bias.detach().double()
            self.folded.add(following)
        return weight, bias


def _shape(step: Step, layer: Convolution, value: Value, weight: Tensor) -> list[Phase]:
    """Fills in stride, padding and size of a step; returns its taps."""
    if isinstance(layer, nn.ConvTranspose2d):
        require(not value.is_padded and not value.enlarged, layer)
        step.up = 2
        return packing.transposed_phases(layer, weight)
    size, stride, factor = layer.kernel_size[0], layer.stride[0], value.unshuffled
    require(layer.stride in ((1, 1), (2, 2)) and layer.kernel_size == (size, size), layer)
    step.padding, pad = _padding_of(layer, value)
    if value.enlarged:
        require(stride == 1 and size == 3 and pad == (1, 1) and factor == 1, layer)
        step.up = 2
        step.padding = Padding.ZEROS if step.padding == Padding.ZEROS else Padding.REPLICATE
        return packing.enlarged_phases(weight)
    plain = stride == 1 and step.padding == Padding.ZEROS and not value.is_padded
    require(factor == 1 or plain, layer)
    step.stride, step.taps, step.pad_before, step.pad_after = (factor * n for n in (stride, size, *pad))
    return [Phase(-step.pad_before, -step.pad_before, weight)]


def _padding_of(layer: nn.Conv2d, value: Value) -> tuple[int, tuple[int, int]]:
    """Kind, and width before and after: the convolution's own, or that of a padding layer before it."""
    modes = {"zeros": Padding.ZEROS, "reflect": Padding.REFLECT, "replicate": Padding.REPLICATE}
    pad = layer.padding[0]
    known = not isinstance(pad, str) and layer.padding[0] == layer.padding[1] and not (pad and value.is_padded)
    if not known or (not value.is_padded and layer.padding_mode not in modes):
        raise BackendError(f"the fused backend does not know the padding of {layer}")
    return (value.padding, value.pad) if value.is_padded else (modes[layer.padding_mode], (int(pad), int(pad)))
