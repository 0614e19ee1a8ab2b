"""A generator as a list of convolutions that normalise on read and count statistics on write.

`fuse` walks a generator's modules in the order of its forward. What stands between two convolutions (norm, activation,
padding, resizing, the addition of a residual block) is kept in a `_Value`, and becomes part of the next convolution's
reading. The result is a `FusedGenerator`: packed weights and a program for `torch.ops.streamgan.fused_generator`
(csrc/ops/fused_generator.cpp, where each number of a step is explained).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import ops
from engine.errors import BackendError
from engine.generators import AnimeGAN, Generator, ResNet, TransformerNet, UNet, animegan, resnet, transformer_net
from engine.generators.unet import SkipBlock

_VERSION = 4
_HEADER = 4  # numbers before the steps: version, dtype, slots, steps
_NONE = -1
_BLOCK = 16  # channels are stored, and multiplied, in blocks of so many
_IMAGE_CHANNELS = 3
_ALIGNMENT = 64

DIRECT, WINOGRAD2, WINOGRAD42, WINOGRAD4, WINOGRAD8 = range(5)
WINOGRAD_PAIRS, WINOGRAD_STRIDED, WINOGRAD_TRANSPOSED = range(5, 8)
DEPTHWISE, BILINEAR, COLUMNS = range(8, 11)
_NO_ACTIVATION, _RELU, _LEAKY_RELU = range(3)
_ZEROS, _REFLECT, _REPLICATE = range(3)

# How 3x3 convolutions of stride 1 are multiplied, by the outputs of a tile, and what is taken where nothing is said.
# With factors of bfloat16 larger tiles are faster and less exact.
TILES = {(2, 2): WINOGRAD2, (4, 2): WINOGRAD42, (4, 4): WINOGRAD4, (8, 8): WINOGRAD8}
_USUAL_TILES = {"fp32": (8, 8), "bf16": (2, 2), "fast": (4, 4)}

# A convolution of at least so many channels gains by Winograd; that of pairs, if it has so many pixels a side on
# pictures of the usual size, or the generator's smallest if that is larger.
_WINOGRAD_CHANNELS = 32
_WINOGRAD_DEEP_CHANNELS = 128
_WINOGRAD_SIDE = 16
_USUAL_SIDE = 256

# Kernels of so many rows and stride 1 multiply float32 in every precision: by Winograd down the columns that is faster
# than bfloat16 without.
_VERTICAL_ROWS = (7, 9)

# With so many channels the first layer is a hundredth of a generator's arithmetic, and multiplies float32 where the
# others multiply bfloat16.
_WIDE_CHANNELS = 64

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fast": torch.bfloat16}


class FusedGenerator(nn.Module):
    """A generator on the fused operator: float32 or bfloat16 [N, C, H, W] -> float32 [N, C', H, W], channels_last.

    Attributes:
        input_dtype: float32, also where bfloat16 is multiplied, so that the bytes of a frame are exact.
    """

    input_dtype = torch.float32
    weights: Tensor
    program: Tensor

    def __init__(self, weights: Tensor, program: Tensor, out_channels: int) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("program", program)
        self.out_channels = out_channels

    def forward(self, image: Tensor) -> Tensor:
        return ops.fused_generator(image, self.weights, self.program, channels=self.out_channels)


def fuse(generator: Generator, precision: str, *, tile: tuple[int, int] | None = None) -> FusedGenerator:
    """The generator as one operator.

    Args:
        generator: in eval mode, on the CPU, float32.
        precision: "fp32", "bf16", or "fast", which is bfloat16 with fewer and less exact multiplications. It is of
            what is multiplied; activations and sums are float32 in all.
        tile: one of TILES, else the precision's own.

    Raises:
        BackendError: it has a layer that the fused operator does not know.
    """
    if not isinstance(generator, (ResNet, TransformerNet, UNet, AnimeGAN)):
        raise BackendError(f"the fused backend has no form of {type(generator).__name__} yet")
    method = TILES[tile or _USUAL_TILES[precision]]
    if method == WINOGRAD8 and precision != "fp32":
        raise BackendError("tiles of 8x8 are for fp32 only")
    builder = _Builder(generator, precision, method)
    value = builder.walk(_layers_of(generator), _Value((_NONE,), (generator.config.in_channels,)))
    if value.sources != (_NONE,) or not builder.steps:
        raise BackendError("the generator does not end with a convolution to a picture")
    return FusedGenerator(builder.weights(), builder.program(), generator.config.out_channels)


def retiled(fused: FusedGenerator, tile: tuple[int, int]) -> FusedGenerator:
    """The same generator, on the same weights, with other Winograd tiles where its 3x3 convolutions have some."""
    steps = steps_of(fused)
    for step in steps:
        if step.method in TILES.values():
            step.method = TILES[tile]
    header = fused.program[:_HEADER].tolist()
    numbers = [number for step in steps for number in step.numbers()]
    return FusedGenerator(fused.weights, torch.tensor(header + numbers, dtype=torch.int64), fused.out_channels)


def _layers_of(generator: Generator) -> Iterable[nn.Module]:
    """The layers in the order of the forward."""
    if not isinstance(generator, AnimeGAN):
        return generator.children()
    enlarge = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=generator.align_corners)
    down = (generator.block_a, generator.block_b, generator.block_c)
    return (*down, enlarge, generator.block_d, enlarge, generator.block_e, generator.out_layer)


@dataclasses.dataclass(frozen=True)
class _Phase:
    """Taps of one output position of a convolution: input rows dy ... and columns dx ... from y * stride, x * stride.

    Attributes:
        kernel: [out channels, in channels, rows, columns].
    """

    dy: int
    dx: int
    kernel: Tensor


@dataclasses.dataclass(frozen=True)
class _Value:
    """What the next layer reads: slots, and what is still to be done to them on the way.

    Attributes:
        sources: one slot, or two, one after the other along the channels; `_NONE` is the image, at the beginning, and
            the picture, at the end.
        channels: of each source.
        reduction: how many times smaller than the image it is.
        residual: slot that is added after norm and activation.
        pad: of a padding layer, before (left and top) and after.
        is_plain: whether the one slot holds the very values, with nothing to be done.
    """

    sources: tuple[int, ...]
    channels: tuple[int, ...]
    reduction: int = 1
    is_normalised: bool = False
    activation: int = _NO_ACTIVATION
    slope: float = 0.0
    residual: int = _NONE
    padding: int = _ZEROS
    pad: tuple[int, int] = (0, 0)
    enlarged: bool = False

    @property
    def is_plain(self) -> bool:
        is_raw = not self.is_normalised and self.activation == _NO_ACTIVATION and self.residual == _NONE
        return is_raw and len(self.sources) == 1

    @property
    def is_padded(self) -> bool:
        return self.pad != (0, 0)

    @property
    def is_picture(self) -> bool:
        return self.sources == (_NONE,)


@dataclasses.dataclass
class Step:
    """Numbers of a step, in the order of `Step` in csrc/ops/fused_generator.cpp."""

    method: int = DIRECT
    multiplies_float32: int = 0
    source: int = _NONE
    second_source: int = _NONE
    residual: int = _NONE
    save: int = _NONE
    output: int = _NONE
    activation: int = _NO_ACTIVATION
    slope_bits: int = 0
    padding: int = _ZEROS
    pad_before: int = 0
    pad_after: int = 0
    kernel: int = 1
    stride: int = 1
    up: int = 1
    in_channels: int = 0
    out_channels: int = 0
    bias: int = _NONE
    has_norm: int = 0
    norm_weight: int = _NONE
    norm_bias: int = _NONE
    epsilon_bits: int = 0
    norm_channels: int = 0
    image_scale_bits: int = 0
    image_offset_bits: int = 0
    picture_channels: int = 0
    kernel_width: int = 0
    tanh: int = 0
    aligns_corners: int = 0
    phases: list[list[int]] = dataclasses.field(default_factory=list)

    def numbers(self) -> list[int]:
        values = dataclasses.asdict(self)
        phases = (values.pop("phases") + [[0] * 5] * 4)[:4]
        return [*values.values(), *(number for phase in phases for number in phase)]

    @classmethod
    def of_numbers(cls, numbers: list[int]) -> Step:
        """What `numbers` gave."""
        *plain, _ = (field.name for field in dataclasses.fields(cls))
        phases = [numbers[start : start + 5] for start in range(len(plain), len(numbers), 5)]
        return cls(**dict(zip(plain, numbers, strict=False)), phases=phases)


def steps_of(fused: FusedGenerator) -> list[Step]:
    """The steps of a fused generator, for those who want to look at it."""
    numbers = fused.program[_HEADER:].tolist()
    size = len(numbers) // int(fused.program[_HEADER - 1])
    return [Step.of_numbers(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def is_vertical(step: Step) -> bool:
    """Whether a direct step, or the last one, is multiplied by Winograd down the columns."""
    return step.kernel in _VERTICAL_ROWS and (step.stride, step.up) == (1, 1)


class _Builder:
    """Turns layers into steps and packs their weights."""

    def __init__(self, generator: Generator, precision: str, square_method: int) -> None:
        convolutions = [layer for layer in generator.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
        self._square_method = square_method
        self.dtype = DTYPES[precision]
        self._last = convolutions[-1]
        self._first_is_small = convolutions[0].out_channels >= _WIDE_CHANNELS
        self._image_range = generator.input_range
        self._side = max(generator.minimum_size, _USUAL_SIDE)
        self.steps: list[Step] = []
        self.slots = 0
        self._kept = _NONE  # slot of the input that a convolution was to keep
        self._folded: set[nn.Module] = set()  # norms that are in the convolution before them
        self._packed: list[Tensor] = []  # uint8, in the order of their offsets
        self._size = 0

    # --- the layers

    def walk(self, layers: Iterable[nn.Module], value: _Value, *, keep: bool = False) -> _Value:
        """Applies layers one after the other.

        Args:
            keep: the first convolution keeps its input as it reads it, in the slot `self._kept`.
        """
        flat = list(_flattened(layers))
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
        if isinstance(layer, SkipBlock):
            return self._skip_block(layer, value)
        if isinstance(layer, animegan.InvertedResidualBlock):
            inside = [layer.layers]
            return self._residual_block(inside, value) if layer.residual else self.walk(inside, value)
        if isinstance(layer, nn.ReflectionPad2d) and layer.padding[:2] == layer.padding[2:]:
            return dataclasses.replace(value, padding=_REFLECT, pad=(layer.padding[0], layer.padding[1]))
        if isinstance(layer, nn.ReLU):
            return self._activated(value, _RELU, 0.0)
        if isinstance(layer, nn.LeakyReLU):
            return self._activated(value, _LEAKY_RELU, layer.negative_slope)
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

    def _activated(self, value: _Value, activation: int, slope: float) -> _Value:
        # ReLU of a LeakyReLU is a ReLU.
        known = value.activation == _NO_ACTIVATION or activation == _RELU
        if not known or value.residual != _NONE or value.is_padded or value.is_picture:
            raise BackendError("the fused backend knows no activation in this place")
        return dataclasses.replace(value, activation=activation, slope=slope)

    def _normalised(self, layer: nn.InstanceNorm2d | nn.GroupNorm, value: _Value, *, channels: int = 0) -> _Value:
        """Args: channels: that are normalised together; 0: each by itself."""
        if not value.is_plain or value.is_picture or self.steps[-1].output != value.sources[0]:
            raise BackendError("the fused backend knows InstanceNorm right after a convolution only")
        step = self.steps[-1]
        step.has_norm, step.epsilon_bits, step.norm_channels = 1, _bits(layer.eps), channels
        if layer.affine:
            step.norm_weight = self._pack_floats(layer.weight, step.out_channels)
            step.norm_bias = self._pack_floats(layer.bias, step.out_channels)
        return dataclasses.replace(value, is_normalised=True)

    def _residual_block(self, layers: Sequence[nn.Module], value: _Value) -> _Value:
        self._require(not value.is_padded and not value.enlarged and len(value.sources) == 1, "a residual block")
        inner = self.walk(layers, value, keep=not value.is_plain)
        ends_plainly = inner.activation == _NO_ACTIVATION and inner.residual == _NONE and not inner.is_padded
        self._require(ends_plainly and inner.channels == value.channels, "a residual block's end")
        return dataclasses.replace(inner, residual=value.sources[0] if value.is_plain else self._kept)

    def _skip_block(self, block: SkipBlock, value: _Value) -> _Value:
        inner = self.walk([block.model], value)
        if not block.skip:
            return inner
        around = (value, inner)
        raw = all(v.activation == _NO_ACTIVATION and v.residual == _NONE and not v.is_padded for v in around)
        self._require(raw and all(len(v.sources) == 1 and not v.is_picture for v in around), "a skip connection")
        channels = value.channels + inner.channels
        return _Value(value.sources + inner.sources, channels, value.reduction, is_normalised=True)

    # --- what works on each channel by itself

    def _channelwise(self, method: int, value: _Value, *, keep: bool = False) -> Step:
        """A step of as many channels as `value`, which multiplies float32; without its shape and weights."""
        self._require(len(value.sources) == 1 and not value.is_picture and not value.enlarged, "this on two inputs")
        channels = _rounded_up(value.channels[0])
        step = Step(
            method=method,
            multiplies_float32=1,
            source=value.sources[0],
            residual=value.residual,
            activation=value.activation,
            slope_bits=_bits(value.slope),
            in_channels=channels,
            out_channels=channels,
        )
        if keep:
            self._kept = step.save = self._new_slot()
        self.steps.append(step)
        step.output = self._new_slot()
        return step

    def _made_by(self, step: Step, value: _Value) -> _Value:
        return _Value((step.output,), value.channels, value.reduction * step.stride // step.up)

    def _depthwise(self, step: Step, phases: list[_Phase], bias: Tensor) -> None:
        """Packs kernels [channels, 1, rows, columns] as [row][column][channel]."""
        step.bias = self._pack_floats(bias, step.out_channels)
        for phase in phases:
            rows, columns = phase.kernel.shape[2:]
            taps = _whole_blocks(phase.kernel).permute(2, 3, 1, 0).float()
            step.phases.append([phase.dy, rows, phase.dx, columns, self._append(taps)])

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
        self._depthwise(step, [_Phase(-step.pad_before, -step.pad_before, weight)], bias)
        return self._made_by(step, value)

    def _blurred(self, layer: resnet.BlurDownsample | resnet.BlurUpsample, value: _Value) -> _Value:
        self._require(not value.is_padded, layer)
        kernel = layer.filt.detach().double()
        step = self._channelwise(DEPTHWISE, value)
        if isinstance(layer, resnet.BlurDownsample):
            step.padding, step.pad_before, step.pad_after, step.kernel, step.stride = _REFLECT, 1, 1, 3, 2
            phases = [_Phase(-1, -1, kernel)]
        else:
            step.padding, step.up = _REPLICATE, 2
            # Output row 2 y is rows y - 1 and y times the filter's rows 3 and 1; 2 y + 1 is y and y + 1 times 2 and 0.
            rows = [(-1, [3, 1]), (0, [2, 0])]
            phases = [
                _Phase(dy, dx, kernel[:, :, taps_y][:, :, :, taps_x]) for dy, taps_y in rows for dx, taps_x in rows
            ]
        self._depthwise(step, phases, kernel.new_zeros(value.channels[0]))
        return self._made_by(step, value)

    def _interpolated(self, layer: nn.Upsample, value: _Value) -> _Value:
        self._require(not value.is_padded, layer)
        step = self._channelwise(BILINEAR, value)
        step.up, step.padding, step.aligns_corners = 2, _REPLICATE, int(bool(layer.align_corners))
        step.bias = self._pack_floats(torch.zeros(0), step.out_channels)
        return self._made_by(step, value)

    # --- a convolution

    def _convolution(
        self, layer: nn.Conv2d | nn.ConvTranspose2d, value: _Value, *, keep: bool, following: nn.Module | None
    ) -> _Value:
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            return self._depthwise_convolution(layer, value, keep=keep, following=following)
        self._require(layer.groups == 1 and layer.dilation == (1, 1), layer)
        weight, bias = self._weights(layer, following)
        # The channels of each source are stored, and read, in whole blocks.
        stored = [_IMAGE_CHANNELS] if value.is_picture else [_rounded_up(channels) for channels in value.channels]
        parts = zip(weight.split(value.channels, dim=1), stored, strict=True)
        weight = torch.cat([_padded(part, count) for part, count in parts], dim=1)
        step = Step(
            source=value.sources[0],
            second_source=value.sources[1] if len(value.sources) == 2 else _NONE,
            residual=value.residual,
            activation=value.activation,
            slope_bits=_bits(value.slope),
            in_channels=sum(stored),
        )
        phases = self._shape(step, layer, value, weight)
        if value.is_picture:
            phases, bias = self._read_image(step, phases, bias)
        if keep:
            self._kept = step.save = self._new_slot()
        self.steps.append(step)
        if layer is self._last:
            self._make_picture(step, layer, phases, weight, bias)
            return _Value((_NONE,), (layer.out_channels,))
        step.output = self._new_slot()
        step.out_channels = _rounded_up(layer.out_channels)
        step.bias = self._pack_floats(bias, step.out_channels)
        self._pack_phases(step, layer, weight, phases, side=self._side // (value.reduction * step.stride))
        return _Value((step.output,), (layer.out_channels,), value.reduction * step.stride // step.up)

    def _read_image(self, step: Step, phases: list[_Phase], bias: Tensor) -> tuple[list[_Phase], Tensor]:
        """Spares the first layer what bfloat16 can't hold, the largest part of the rounding that a generator sees.

        A first layer with a tall kernel, or that is a small part of the generator, multiplies float32. Another one
        reads bytes less 128, which bfloat16 holds exactly, in place of values in `image_range`: with
        x = (u + 128) / s + low the kernel is divided by s, and the bias takes what is constant. Not where zeros are
        padded.
        """
        low, high = self._image_range
        scale, offset = 255.0 / (high - low), -128.0 - low * 255.0 / (high - low)
        is_exact = self.dtype == torch.float32 or self._first_is_small or is_vertical(step)
        step.multiplies_float32 = int(is_exact)
        if step.multiplies_float32 or step.padding != _REFLECT:
            step.image_scale_bits, step.image_offset_bits = _bits(1.0), _bits(0.0)
            return phases, bias
        step.image_scale_bits, step.image_offset_bits = _bits(scale), _bits(offset)
        constant = torch.stack([phase.kernel.sum(dim=(1, 2, 3)) for phase in phases]).sum(dim=0) * (-offset / scale)
        return [dataclasses.replace(phase, kernel=phase.kernel / scale) for phase in phases], bias + constant

    def _pack_phases(self, step: Step, layer: nn.Module, weight: Tensor, phases: list[_Phase], *, side: int) -> None:
        """Packs the taps for the fastest method.

        Args:
            weight: all taps, [out, in, rows, columns].
            side: of the base grid on pictures of the usual size.
        """
        gains = min(step.in_channels, step.out_channels) >= _WINOGRAD_CHANNELS
        # Those that save a third only.
        is_deep = gains and (self.dtype == torch.float32 or step.in_channels >= _WINOGRAD_DEEP_CHANNELS)
        if gains and (step.kernel, step.stride, step.up) == (3, 1, 1):
            step.method = self._square_method
        elif is_deep and side >= _WINOGRAD_SIDE and (step.kernel, step.stride) == (3, 2):
            step.method = WINOGRAD_STRIDED
        elif (
            is_deep and side >= _WINOGRAD_SIDE and isinstance(layer, nn.ConvTranspose2d) and layer.kernel_size == (3, 3)
        ):
            step.method = WINOGRAD_TRANSPOSED
            phases = [_Phase(0, 0, weight)]
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
                packed = self._append(_winograd_kernel(_whole_blocks(phase.kernel)))
                step.phases.append([phase.dy, phase.kernel.shape[2], phase.dx, phase.kernel.shape[3], packed])

    def _shape(self, step: Step, layer: nn.Conv2d | nn.ConvTranspose2d, value: _Value, weight: Tensor) -> list[_Phase]:
        """Fills in stride, padding and size of a step; returns its taps."""
        if isinstance(layer, nn.ConvTranspose2d):
            self._require(not value.is_padded and not value.enlarged, layer)
            step.up = 2
            return _transposed_phases(layer, weight)
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        self._require(layer.stride in ((1, 1), (2, 2)) and layer.kernel_size == (kernel, kernel), layer)
        step.padding, pad = _padding_of(layer, value)
        if value.enlarged:
            self._require(stride == 1 and kernel == 3 and pad == (1, 1), layer)
            step.up = 2
            step.padding = _ZEROS if step.padding == _ZEROS else _REPLICATE
            return _enlarged_phases(weight)
        step.stride, step.kernel, (step.pad_before, step.pad_after) = stride, kernel, pad
        return [_Phase(-pad[0], -pad[0], weight)]

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
        self, step: Step, layer: nn.Conv2d | nn.ConvTranspose2d, phases: list[_Phase], weight: Tensor, bias: Tensor
    ) -> None:
        """The last layer: a kernel of a single column, with an output channel per kernel column and picture channel."""
        out_channels, width = layer.out_channels, weight.shape[3]
        step.method, step.picture_channels, step.kernel_width = COLUMNS, out_channels, width
        step.out_channels = _rounded_up(width * out_channels)
        step.bias = self._pack_floats(bias, step.out_channels)
        if step.up == 1:
            self._require(step.stride == 1, layer)
            step.multiplies_float32 = int(is_vertical(step))
            phase = phases[0]
            step.phases = [self._pack_phase(step, _Phase(phase.dy, phase.dx, _as_columns(phase.kernel)))]
            return
        self._require(isinstance(layer, nn.ConvTranspose2d), layer)
        for a in (0, 1):
            pad = int(layer.padding[0])
            dy, taps = _transposed_taps(a, layer.kernel_size[0], pad)
            # First column of the products relative to the first input column: columns 2 x - padding + k of the output.
            step.phases.append(self._pack_phase(step, _Phase(dy, -pad, _as_columns(weight[:, :, taps]))))

    def _pack_phase(self, step: Step, phase: _Phase) -> list[int]:
        """Dy, rows, dx, columns and where the weights are."""
        kernel = _whole_blocks(phase.kernel)
        return [
            phase.dy,
            kernel.shape[2],
            phase.dx,
            kernel.shape[3],
            self._pack(step, _direct_kernel(kernel, self._group_of(step))),
        ]

    def _require(self, condition: bool, what: object) -> None:
        if not condition:
            raise BackendError(f"the fused backend does not know {what} in this place")

    def _new_slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    # --- packing

    def _pack(self, step: Step, kernel: Tensor) -> int:
        """Appends a kernel, [frequencies, out channels, K], as [out / 16][frequencies][K / group][16][group]."""
        group = self._group_of(step)
        dtype = torch.float32 if group == 1 else torch.bfloat16
        frequencies, out_channels, k = kernel.shape
        blocks = kernel.to(dtype).reshape(frequencies, out_channels // _BLOCK, _BLOCK, k // group, group)
        return self._append(blocks.permute(1, 0, 3, 2, 4))

    def _group_of(self, step: Step) -> int:
        """How many values of the input a step multiplies and adds at once."""
        return 1 if step.multiplies_float32 or self.dtype == torch.float32 else 2

    def _pack_floats(self, values: Tensor, count: int) -> int:
        return self._append(F.pad(values.detach().float(), (0, count - len(values))))

    def _append(self, tensor: Tensor) -> int:
        data = tensor.contiguous().view(-1).view(torch.uint8)
        offset = self._size
        self._packed.append(data)
        self._size += len(data) + -len(data) % _ALIGNMENT
        return offset

    def weights(self) -> Tensor:
        """All that was packed, uint8; given once, for each part is freed as soon as it is in its place."""
        memory = torch.empty(self._size, dtype=torch.uint8)
        offset = 0
        while self._packed:
            data = self._packed.pop(0)
            end = offset + len(data) + -len(data) % _ALIGNMENT
            memory[offset : offset + len(data)] = data
            memory[offset + len(data) : end] = 0
            offset = end
        return memory

    def program(self) -> Tensor:
        """All steps, int64."""
        count = _share_slots(self.steps)
        dtype = 1 if self.dtype == torch.bfloat16 else 0
        numbers = [_VERSION, dtype, count, len(self.steps)]
        for step in self.steps:
            numbers += step.numbers()
        return torch.tensor(numbers, dtype=torch.int64)


def _flattened(layers: Iterable[nn.Module]) -> Iterable[nn.Module]:
    for layer in layers:
        if isinstance(layer, (nn.Sequential, transformer_net.ReflectConvolution, resnet.SeparableConvolution)):
            yield from _flattened(layer.children())
        else:
            yield layer


def _bits(value: float) -> int:
    """A float32's bits."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def _rounded_up(channels: int) -> int:
    return -(-channels // _BLOCK) * _BLOCK


def _padded(kernel: Tensor, in_channels: int) -> Tensor:
    """With zeros for the input channels that are only stored."""
    return F.pad(kernel, (0, 0, 0, 0, 0, in_channels - kernel.shape[1]))


def _whole_blocks(kernel: Tensor) -> Tensor:
    """With zeros for the output channels that are only stored."""
    return F.pad(kernel, (0, 0, 0, 0, 0, 0, 0, _rounded_up(len(kernel)) - len(kernel)))


def _as_columns(kernel: Tensor) -> Tensor:
    """[out, in, rows, columns] -> [columns * out, in, rows, 1]."""
    return kernel.permute(3, 0, 1, 2).flatten(0, 1)[..., None]


def _padding_of(layer: nn.Conv2d, value: _Value) -> tuple[int, tuple[int, int]]:
    """Kind, and width before and after: the convolution's own, or that of a padding layer before it."""
    pad = layer.padding[0]
    if isinstance(pad, str) or layer.padding[0] != layer.padding[1] or (pad and value.is_padded):
        raise BackendError(f"the fused backend does not know the padding of {layer}")
    if value.is_padded:
        return value.padding, value.pad
    modes = {"zeros": _ZEROS, "reflect": _REFLECT, "replicate": _REPLICATE}
    if layer.padding_mode not in modes:
        raise BackendError(f"the fused backend does not know the padding of {layer}")
    return modes[layer.padding_mode], (int(pad), int(pad))


def _direct_kernel(kernel: Tensor, group: int) -> Tensor:
    """[out, in, rows, columns] -> [1, out, rows * columns * in], each row filled up with zeros to whole groups."""
    runs = kernel.permute(0, 2, 3, 1).flatten(2)
    return F.pad(runs, (0, -runs.shape[2] % group)).flatten(1)[None]


def _transposed_phases(layer: nn.ConvTranspose2d, weight: Tensor) -> list[_Phase]:
    """Output row 2 y + a is the sum of input rows i times kernel rows 2 y + a + padding - 2 i."""
    kernel, pad = layer.kernel_size[0], int(layer.padding[0])
    doubled = layer.stride == (2, 2) and layer.kernel_size == (kernel, kernel)
    if not doubled or kernel - 2 * pad + layer.output_padding[0] != 2 or layer.padding != (pad, pad):
        raise BackendError(f"the fused backend does not know {layer}")
    rows = [_transposed_taps(a, kernel, pad) for a in (0, 1)]
    return [_Phase(dy, dx, weight[:, :, taps_y][:, :, :, taps_x]) for dy, taps_y in rows for dx, taps_x in rows]


def _transposed_taps(a: int, kernel: int, pad: int) -> tuple[int, list[int]]:
    """First input row, relative to y, and the kernel row of it and of those after it."""
    found = sorted((-((k - a - pad) // 2), k) for k in range(kernel) if (k - a - pad) % 2 == 0)
    return found[0][0], [k for _, k in found]


def _enlarged_phases(weight: Tensor) -> list[_Phase]:
    """A 3x3 convolution of a picture of repeated pixels: taps that see the same pixel are added."""
    rows = [(-1, [[0], [1, 2]]), (0, [[0, 1], [2]])]
    phases = []
    for dy, groups_y in rows:
        summed = torch.stack([weight[:, :, taps].sum(dim=2) for taps in groups_y], dim=2)
        for dx, groups_x in rows:
            kernel = torch.stack([summed[..., taps].sum(dim=3) for taps in groups_x], dim=3)
            phases.append(_Phase(dy, dx, kernel))
    return phases


def _winograd_kernel(kernel: Tensor) -> Tensor:
    """[out, in, rows, columns] -> float32 [out / 16, in, rows, columns, 16]. Transformed when it is multiplied."""
    return kernel.float().unflatten(0, (-1, _BLOCK)).permute(0, 2, 3, 4, 1)


def _share_slots(steps: list[Step]) -> int:
    """Gives slots that are not needed at the same time the same number; returns how many there are."""
    last_read: dict[int, int] = {}
    for position, step in enumerate(steps):
        for slot in (step.source, step.second_source, step.residual):
            last_read[slot] = position
    numbers: dict[int, int] = {_NONE: _NONE}
    free: list[int] = []
    count = 0
    for position, step in enumerate(steps):
        read = {step.source, step.second_source, step.residual} - {_NONE}
        for name in ("save", "output"):
            slot = getattr(step, name)
            if slot == _NONE:
                continue
            if not free:
                free.append(count)
                count += 1
            numbers[slot] = free.pop()
        step.source, step.second_source, step.residual, step.save, step.output = (
            numbers[slot] for slot in (step.source, step.second_source, step.residual, step.save, step.output)
        )
        free += [numbers[slot] for slot in read if last_read[slot] == position]
    return count
