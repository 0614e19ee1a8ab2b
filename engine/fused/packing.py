"""Filters of a fused generator: their taps for each output position, and how they lie in memory."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import BackendError
from engine.fused.program import BLOCK, IMAGE_CHANNELS

_ALIGNMENT = 64
_MATRIX_DEPTH = 32  # input values that a product of tiles sums, and output channels of a group
# What the system maps of a file at once.
_HUGE_PAGE = 2 << 20


@dataclasses.dataclass(frozen=True)
class Phase:
    """Taps of one output position of a convolution: input rows dy ... and columns dx ... from y * stride, x * stride.

    Attributes:
        taps: [out channels, in channels, rows, columns].
    """

    dy: int
    dx: int
    taps: Tensor


class PackedWeights:
    """Tensors in one row of bytes, each at a multiple of 64.

    One of whole huge pages begins at such a page, so that rows of a filter that no pixel sees are not mapped with
    their neighbours. What is smaller fills the gap before it.
    """

    def __init__(self) -> None:
        self._packed: list[tuple[int, Tensor]] = []  # offset, uint8
        self._size = 0
        self._gap = range(0)

    def append(self, tensor: Tensor) -> int:
        """Puts it somewhere as it is; returns its offset."""
        data = tensor.contiguous().view(-1).view(torch.uint8)
        room = len(data) + -len(data) % _ALIGNMENT
        if len(data) > 0 and len(data) % _HUGE_PAGE == 0 and self._size % _HUGE_PAGE != 0:
            begin = self._size + -self._size % _HUGE_PAGE
            self._gap = max(self._gap, range(self._size, begin), key=len)
            self._size = begin
        if room <= len(self._gap):
            offset, self._gap = self._gap.start, self._gap[room:]
        else:
            offset, self._size = self._size, self._size + room
        self._packed.append((offset, data))
        return offset

    def append_floats(self, values: Tensor, count: int) -> int:
        """Appends values in float32, and zeros up to `count`."""
        return self.append(F.pad(values.detach().float(), (0, count - len(values))))

    def append_taps(self, taps: Tensor, dtype: torch.dtype) -> int:
        """Appends taps, [rows, out channels, K], as [rows][out / 16][K / group][16][group].

        A group is what is multiplied and added at once: a value of float32, two of bfloat16.
        """
        rows, out_channels, k = taps.shape
        group = group_of(dtype)
        blocks = taps.to(dtype).reshape(rows, out_channels // BLOCK, BLOCK, k // group, group)
        return self.append(blocks.permute(0, 1, 3, 2, 4))

    def tensor(self) -> Tensor:
        """All that was packed, uint8; given once, for each part is freed as soon as it is in its place."""
        memory = torch.empty(self._size, dtype=torch.uint8)
        self._packed.sort(key=lambda part: part[0])
        end = 0
        while self._packed:
            offset, data = self._packed.pop(0)
            memory[end:offset] = 0
            end = offset + len(data)
            memory[offset:end] = data
        memory[end:] = 0
        return memory


def group_of(dtype: torch.dtype) -> int:
    """How many values of the input are multiplied and added at once."""
    return 1 if dtype == torch.float32 else 2


def rounded_up(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


def padded(taps: Tensor, in_channels: int) -> Tensor:
    """With zeros for the input channels that are only stored."""
    missing = in_channels - taps.shape[1]
    return F.pad(taps, (0, 0, 0, 0, 0, missing)) if missing else taps


def whole_blocks(taps: Tensor) -> Tensor:
    """With zeros for the output channels that are only stored."""
    missing = rounded_up(len(taps)) - len(taps)
    return F.pad(taps, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else taps


def as_columns(taps: Tensor) -> Tensor:
    """[out, in, rows, columns] -> [columns * out, in, rows, 1]."""
    return taps.permute(3, 0, 1, 2).flatten(0, 1)[..., None]


def direct_taps(taps: Tensor, group: int) -> Tensor:
    """[out, in, rows, columns] -> [rows, out, columns * in], filled up with zeros to whole groups."""
    runs = taps.permute(2, 0, 3, 1).flatten(2)
    missing = -runs.shape[2] % group
    return F.pad(runs, (0, missing)) if missing else runs


def matrix_taps(taps: Tensor, terms: int) -> Tensor:
    """Taps as csrc/cpu/matrix_x.h multiplies them, bfloat16.

    Args:
        taps: [out, in, rows, columns], both channels in whole blocks of 16, or 3 input channels of the image.
        terms: that a tap is the sum of: 1, or 2 for nearly the precision of float32.

    Returns:
        [bytes / 2], groups of 32 output channels one after the other: [step][term][2 blocks][16 pairs][16][2].
    """
    if taps.shape[1] == IMAGE_CHANNELS:
        taps = F.pad(taps, (0, 0, 0, 0, 0, 1))
    steps = torch.cat([_matrix_steps(block) for block in taps.split(_MATRIX_DEPTH, dim=1)])  # [steps, 32, out]
    high = steps.to(torch.bfloat16)
    split = [high] if terms == 1 else [high, (steps - high.to(steps.dtype)).to(torch.bfloat16)]
    stacked = torch.stack(split, dim=1)
    groups = []
    for group in stacked.split(_MATRIX_DEPTH, dim=3):  # [steps, term, 32, 32 or 16]
        pairs = group.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, 2))  # [steps, term, 16, 2, blocks, 16]
        groups.append(pairs.permute(0, 1, 4, 2, 5, 3).flatten())
    return torch.cat(groups)


def _matrix_steps(block: Tensor) -> Tensor:
    """[out, in, rows, columns] of a block of input channels -> [steps, 32, out]: neighbouring taps fill a step."""
    taps = _MATRIX_DEPTH // block.shape[1]
    columns = F.pad(block, (0, -block.shape[3] % taps)).unflatten(3, (-1, taps))  # [out, in, rows, steps, taps]
    return columns.permute(2, 3, 4, 1, 0).flatten(2, 3).flatten(0, 1)


def transposed_phases(layer: nn.ConvTranspose2d, weight: Tensor) -> list[Phase]:
    """Output row 2 y + a is the sum of input rows i times rows of taps 2 y + a + padding - 2 i."""
    size, pad = layer.kernel_size[0], int(layer.padding[0])
    doubled = layer.stride == (2, 2) and layer.kernel_size == (size, size)
    if not doubled or size - 2 * pad + layer.output_padding[0] != 2 or layer.padding != (pad, pad):
        raise BackendError(f"the fused backend does not know {layer}")
    rows = [transposed_taps(a, size, pad) for a in (0, 1)]
    return [Phase(dy, dx, weight[:, :, taps_y][:, :, :, taps_x]) for dy, taps_y in rows for dx, taps_x in rows]


def transposed_taps(a: int, size: int, pad: int) -> tuple[int, list[int]]:
    """First input row, relative to y, and the row of taps for it and for those after it."""
    found = sorted((-((k - a - pad) // 2), k) for k in range(size) if (k - a - pad) % 2 == 0)
    return found[0][0], [k for _, k in found]


def joined_phases(phases: list[Phase]) -> Phase:
    """All phases as one, whose taps have the output channels of each, one phase after the other."""
    dy, dx = min(phase.dy for phase in phases), min(phase.dx for phase in phases)
    bottom = max(phase.dy + phase.taps.shape[2] for phase in phases)
    right = max(phase.dx + phase.taps.shape[3] for phase in phases)
    around = []
    for phase in phases:
        left, top = phase.dx - dx, phase.dy - dy
        rows, columns = phase.taps.shape[2:]
        around.append(F.pad(phase.taps, (left, right - phase.dx - columns, top, bottom - phase.dy - rows)))
    return Phase(dy, dx, torch.cat(around))


def shuffled(values: Tensor, factor: int) -> list[Tensor]:
    """Of output channels [c * factor^2] before a pixel shuffle, those of each output position: row a, column b."""
    return [values[position :: factor * factor] for position in range(factor * factor)]


def unshuffled_filter(weight: Tensor, factor: int) -> Tensor:
    """Taps behind a pixel unshuffle as those of stride `factor`.

    [out, in * factor^2, rows, columns] -> [out, in, rows * factor, columns * factor].
    """
    out_channels, _, rows, columns = weight.shape
    apart = weight.reshape(out_channels, -1, factor, factor, rows, columns)  # [out, in, a, b, rows, columns]
    return apart.permute(0, 1, 4, 2, 5, 3).reshape(out_channels, -1, rows * factor, columns * factor)


def enlarged_phases(weight: Tensor) -> list[Phase]:
    """A 3x3 convolution of a picture of repeated pixels: taps that see the same pixel are added."""
    rows = [(-1, [[0], [1, 2]]), (0, [[0, 1], [2]])]
    phases = []
    for dy, groups_y in rows:
        summed = torch.stack([weight[:, :, taps].sum(dim=2) for taps in groups_y], dim=2)
        for dx, groups_x in rows:
            phases.append(Phase(dy, dx, torch.stack([summed[..., taps].sum(dim=3) for taps in groups_x], dim=3)))
    return phases


def winograd_taps(taps: Tensor) -> Tensor:
    """[out, in, rows, columns] -> float32 [out / 16, in, rows, columns, 16]. Transformed when it is multiplied."""
    return taps.float().unflatten(0, (-1, BLOCK)).permute(0, 2, 3, 4, 1)
