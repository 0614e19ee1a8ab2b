"""The program of `torch.ops.streamgan.fused_generator`: its steps as numbers, and the module that runs it.

csrc/generator/program.h explains each number of a step.
"""

from __future__ import annotations

import dataclasses
import enum
import struct

import torch
from torch import Tensor, nn

from engine import ops

_VERSION = 7
_HEADER = 4  # numbers before the steps: version, dtype, slots, steps
NONE = -1
BLOCK = 16  # channels are stored, and multiplied, in blocks of so many
IMAGE_CHANNELS = 3
_PHASES = 9  # of a step, used or not
_READ_SLOTS = ("source", "second_source", "residual", "second_residual", "out_residual", "out_second_residual")
_SLOTS = (*_READ_SLOTS, "save", "output")


class Packing(enum.IntEnum):
    """How a step's weights are packed, as in csrc/generator/program.h. The plan picks the algorithm."""

    DIRECT, WINOGRAD2, WINOGRAD42, WINOGRAD4, WINOGRAD8 = range(5)
    WINOGRAD_PAIRS, WINOGRAD_STRIDED, WINOGRAD_TRANSPOSED = range(5, 8)
    DEPTHWISE, BILINEAR, COLUMNS, SHUFFLE = range(8, 12)
    MATRIX, MATRIX_LAST = range(12, 14)


class Activation(enum.IntEnum):
    """What is applied to a step's input."""

    NONE, RELU, LEAKY_RELU, PRELU = range(4)


class Base(enum.IntEnum):
    """What is added to the picture."""

    NONE, NEAREST, BILINEAR = range(3)


class Padding(enum.IntEnum):
    """What stands beyond the edges."""

    ZEROS, REFLECT, REPLICATE = range(3)


# Packings of 3x3 convolutions of stride 1, by the outputs of a tile. The weights are the same. With factors of bfloat16
# larger tiles are faster and less exact.
TILES = {(2, 2): Packing.WINOGRAD2, (4, 2): Packing.WINOGRAD42, (4, 4): Packing.WINOGRAD4, (8, 8): Packing.WINOGRAD8}

# Filters of so many rows and stride 1 multiply float32 in every precision: by Winograd down the columns that is faster
# than bfloat16 without.
_VERTICAL_ROWS = (7, 9)


class FusedGenerator(nn.Module):
    """A generator on the fused operator: float32 or bfloat16 [N, C, H, W] -> float32 [N, C', H * scale, W * scale].

    The result is contiguous in channels_last.

    Attributes:
        input_dtype: float32, also where bfloat16 is multiplied, so that the bytes of a frame are exact.
    """

    input_dtype = torch.float32
    weights: Tensor
    program: Tensor

    def __init__(self, weights: Tensor, program: Tensor, out_channels: int, scale: int = 1) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.register_buffer("program", program)
        self.out_channels = out_channels
        self.scale = scale

    def forward(self, image: Tensor) -> Tensor:
        return ops.fused_generator(image, self.weights, self.program, channels=self.out_channels, scale=self.scale)

    def with_program(self, program: Tensor) -> FusedGenerator:
        """Another program on the same weights."""
        return FusedGenerator(self.weights, program, self.out_channels, self.scale)


@dataclasses.dataclass
class Step:
    """Numbers of a step, in the order of `Step` in csrc/generator/program.h."""

    packing: int = Packing.DIRECT
    multiplies_float32: int = 0
    source: int = NONE
    second_source: int = NONE
    residual: int = NONE
    second_residual: int = NONE
    save: int = NONE
    output: int = NONE
    residual_scale_bits: int = 0
    save_channels: int = 0
    appends: int = 0
    activation: int = Activation.NONE
    slope_bits: int = 0
    slopes: int = NONE
    kept_channels: int = 0
    same_channels: int = 0
    padding: int = Padding.ZEROS
    pad_before: int = 0
    pad_after: int = 0
    taps: int = 1
    stride: int = 1
    up: int = 1
    in_channels: int = 0
    out_channels: int = 0
    shuffles: int = 0
    bias: int = NONE
    writes_bfloat16: int = 0
    saves_bfloat16: int = 0
    has_norm: int = 0
    norm_weight: int = NONE
    norm_bias: int = NONE
    epsilon_bits: int = 0
    norm_channels: int = 0
    image_scale_bits: int = 0
    image_offset_bits: int = 0
    picture_channels: int = 0
    filter_width: int = 0
    tanh: int = 0
    base: int = Base.NONE
    aligns_corners: int = 0
    weight_terms: int = 0
    block: int = 0
    out_activation: int = Activation.NONE
    out_slope_bits: int = 0
    out_slopes: int = NONE
    out_residual: int = NONE
    out_second_residual: int = NONE
    out_residual_scale_bits: int = 0
    out_room: int = 0
    border: int = 0
    phases: list[list[int]] = dataclasses.field(default_factory=list)

    def read_slots(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name in _READ_SLOTS)

    def numbers(self) -> list[int]:
        values = dataclasses.asdict(self)
        phases = (values.pop("phases") + [[0] * 5] * _PHASES)[:_PHASES]
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
    return step.taps in _VERTICAL_ROWS and (step.stride, step.up) == (1, 1)


def retiled(fused: FusedGenerator, tile: tuple[int, int]) -> FusedGenerator:
    """The same generator, on the same weights, with other Winograd tiles where its 3x3 convolutions have some."""
    steps = steps_of(fused)
    for step in steps:
        if step.packing in TILES.values():
            step.packing = TILES[tile]
    header = fused.program[:_HEADER].tolist()
    numbers = [number for step in steps for number in step.numbers()]
    return fused.with_program(torch.tensor(header + numbers, dtype=torch.int64))


def program_of(steps: list[Step], dtype: torch.dtype) -> Tensor:
    """All steps, int64; gives slots of theirs that are not needed at the same time the same number.

    Args:
        dtype: of what is multiplied.
    """
    numbers = [_VERSION, 1 if dtype == torch.bfloat16 else 0, _share_slots(steps), len(steps)]
    for step in steps:
        numbers += step.numbers()
    return torch.tensor(numbers, dtype=torch.int64)


def write_bfloat16(steps: list[Step], *, residuals: bool) -> None:
    """Has convolutions write bfloat16.

    Args:
        residuals: what is added to something later too, where the matrix unit's steps read it.
    """
    on_matrix_unit = (Packing.MATRIX, Packing.MATRIX_LAST)
    added = {
        slot
        for step in steps
        for slot in (step.residual, step.second_residual)
        if not residuals or step.packing not in on_matrix_unit
    }
    # A slot that several steps write is of one type.
    writers: dict[int, list[tuple[Step, str]]] = {}
    for step in steps:
        writers.setdefault(step.output, []).append((step, "writes_bfloat16"))
        writers.setdefault(step.save, []).append((step, "saves_bfloat16"))
    for slot, writing in writers.items():
        can_write = all(
            (residuals and step.packing in on_matrix_unit)
            if name == "saves_bfloat16"
            else step.packing
            not in (Packing.DEPTHWISE, Packing.BILINEAR, Packing.COLUMNS, Packing.SHUFFLE, Packing.MATRIX_LAST)
            for step, name in writing
        )
        if slot != NONE and slot not in added and can_write:
            for step, name in writing:
                setattr(step, name, 1)


def float_bits(value: float) -> int:
    """A float32's bits."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def _share_slots(steps: list[Step]) -> int:
    """Gives slots that are not needed at the same time the same number; returns how many there are."""
    last_read: dict[int, int] = {}
    for position, step in enumerate(steps):
        for slot in step.read_slots():
            last_read[slot] = position
    numbers: dict[int, int] = {NONE: NONE}
    free: list[int] = []
    count = 0
    for position, step in enumerate(steps):
        read = set(step.read_slots()) - {NONE}
        for slot in (step.save, step.output):
            if slot in numbers:  # nothing, or what a step appends to
                continue
            if not free:
                free.append(count)
                count += 1
            numbers[slot] = free.pop()
        for name in _SLOTS:
            setattr(step, name, numbers[getattr(step, name)])
        free += [numbers[slot] for slot in read if last_read[slot] == position]
    return count
