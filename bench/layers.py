"""The layers of the fused generator: how long each takes, what it multiplies, and how near that is to the peak.

The peak is measured between the frames. Two shares of it are told: of what a layer multiplies (a Winograd layer
multiplies 4/9 or 1/4 as often as its definition says), which says how well its code runs, and of its definition, which
says what it is worth. Channels that are stored but not used are counted as multiplied, and so are taps that see padding
alone, which layers of few pixels leave out.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch

from bench import results
from bench.generators import GENERATORS, generator_input, make_generator, real_frame
from bench.peaks import Probe
from bench.results import Row
from engine import ops
from engine.fused.lowering import fuse, has_matrix_unit
from engine.fused.program import IMAGE_CHANNELS, NONE, TILES, Packing, Step, is_vertical, steps_of
from engine.fused.steps import DTYPES
from engine.sizes import parse_size

_NAMES: dict[int, str] = {
    Packing.DIRECT: "direct",
    Packing.DEPTHWISE: "depthwise",
    Packing.BILINEAR: "bilinear",
    Packing.COLUMNS: "columns",
    Packing.SHUFFLE: "shuffle",
}


@dataclasses.dataclass(frozen=True)
class Tiling:
    """A way to multiply a Winograd layer.

    Attributes:
        products: of a tile, for each pair of channels.
        defined: the same as the layer is defined.
        outputs: rows and columns of a tile.
    """

    name: str
    products: int
    defined: int
    outputs: tuple[int, int]

    def cost(self, height: int, width: int) -> int:
        """Products for a grid of outputs, as Plan counts them: kernels take as much as five tiles."""
        return (-(-height // self.outputs[0]) * -(-width // self.outputs[1]) + 5) * self.products


# By packing; where there are two, the one that takes less on the picture.
_TILINGS: dict[int, tuple[Tiling, ...]] = {
    Packing.WINOGRAD2: (Tiling("F(2x2)", 16, 36, (2, 2)),),
    Packing.WINOGRAD42: (Tiling("F(4x2)", 24, 72, (4, 2)),),
    Packing.WINOGRAD4: (Tiling("F(4x4)", 36, 144, (4, 4)),),
    Packing.WINOGRAD8: (Tiling("F(8x8)", 100, 576, (8, 8)), Tiling("F(4x4)", 36, 144, (4, 4))),
    Packing.WINOGRAD_PAIRS: (Tiling("F(2x2) of 2x2", 9, 16, (2, 2)), Tiling("F(4x4) of 2x2", 25, 64, (4, 4))),
    Packing.WINOGRAD_STRIDED: (Tiling("F(2x2) strided", 25, 36, (2, 2)), Tiling("F(4x4) strided", 81, 144, (4, 4))),
    Packing.WINOGRAD_TRANSPOSED: (
        Tiling("F(4x4) transposed", 25, 36, (4, 4)),
        Tiling("F(8x8) transposed", 81, 144, (8, 8)),
    ),
}
# Of fewer pixels a direct convolution is only that, as in csrc/generator/algorithms.h.
_FEW_PIXELS = 256
_TILES = {f"{rows}x{columns}": (rows, columns) for rows, columns in TILES}
_PEAKS = {"fp32": "float32_gflops", "bf16": "bf16_gflops", "fast": "bf16_gflops"}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One step of the program on images of one size.

    Attributes:
        gflop: as the layer is defined, two per multiply-add.
        multiplied_gflop: what is carried out.
    """

    name: str
    gflop: float
    multiplied_gflop: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench layers`."""
    parser.add_argument("--generator", default="resnet9-64", help=f"{', '.join(GENERATORS)}, or a checkpoint")
    parser.add_argument("--size", default="256x256", metavar="WxH", help="(default: %(default)s)")
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16", help="(default: %(default)s)")
    parser.add_argument("--tile", choices=_TILES, help="outputs of a Winograd tile (default: the precision's own)")
    parser.add_argument("--rounds", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures all layers and prints the table."""
    torch.set_num_threads(arguments.threads)
    width, height = parse_size(arguments.size)
    generator = make_generator(arguments.generator)
    uses_tiles = has_matrix_unit() and arguments.tile is None
    fused = fuse(generator, arguments.precision, tile=_TILES.get(arguments.tile), matrix=uses_tiles)
    image = torch.from_numpy(generator_input(generator, real_frame(width, height)))
    image = image.to(memory_format=torch.channels_last)
    found = list(layers(steps_of(fused), image.shape[2], image.shape[3]))
    asked = {name: getattr(arguments, name) for name in ("generator", "size", "precision", "tile", "rounds")}
    report = results.start("layers", threads=arguments.threads, arguments=asked)
    group = f"{arguments.generator} {arguments.size} {arguments.precision}"
    report.rows = [Row(group, f"{number:2} {layer.name}", ours=True) for number, layer in enumerate(found)]
    for row, layer in zip(report.rows, found, strict=True):
        row.facts = {"gflop": layer.gflop, "multiplied_gflop": layer.multiplied_gflop}
    probe = Probe(arguments.threads)
    for number in range(-1, arguments.rounds):
        seconds = ops.fused_generator_seconds(
            image, fused.weights, fused.program, channels=fused.out_channels, scale=fused.scale
        )
        if number < 0:
            continue  # the first frame finds nothing in the caches
        report.peaks.append({"group": group, "round": number, **probe.measure()})
        for row, value in zip(report.rows, seconds.tolist(), strict=True):
            row.seconds.append(value)
    if arguments.json:
        report.write(arguments.json)
    print_report(report, "bf16_gflops" if uses_tiles else _PEAKS[arguments.precision])


def layers(steps: list[Step], height: int, width: int) -> Iterator[Layer]:
    """What the steps of a program do with an image of that size."""
    sizes = {-1: (height, width)}
    for step in steps:
        rows, columns = sizes[step.source]
        pads = step.pad_before + step.pad_after - step.taps
        base = (rows + pads) // step.stride + 1, (columns + pads) // step.stride + 1
        if step.save >= 0:
            sizes[step.save] = rows, columns
        sizes[step.output] = base[0] * step.up, base[1] * step.up
        if step.packing in (Packing.MATRIX, Packing.MATRIX_LAST):
            yield _on_matrix_unit(step, (rows, columns), base)
            continue
        used = step.phases[
            : step.up if step.packing == Packing.COLUMNS else 0 if step.packing == Packing.SHUFFLE else step.up**2
        ]
        taps = step.stride**2 * 4 if step.packing == Packing.WINOGRAD_PAIRS and step.up == 1 else 0
        taps = 9 if step.packing == Packing.WINOGRAD_TRANSPOSED else taps or sum(phase[1] * phase[3] for phase in used)
        taps = 8 if step.packing == Packing.BILINEAR else taps  # two for each of four outputs
        in_channels = 1 if step.packing in (Packing.DEPTHWISE, Packing.BILINEAR) else step.in_channels
        multiplied = 2e-9 * taps * in_channels * step.out_channels * base[0] * base[1]
        defined = multiplied
        if step.packing == Packing.COLUMNS:
            defined = multiplied * step.filter_width * step.picture_channels / step.out_channels
        grid = (2 * base[0], 2 * base[1]) if step.packing == Packing.WINOGRAD_TRANSPOSED else base
        tiling = min(_TILINGS.get(step.packing, ()), key=lambda tiling: tiling.cost(*grid), default=None)
        products = multiplied * tiling.products / tiling.defined if tiling else multiplied
        name = f"{tiling.name if tiling else _NAMES[step.packing]} "
        if step.packing in (Packing.DIRECT, Packing.COLUMNS) and is_vertical(step) and math.prod(base) > _FEW_PIXELS:
            # 12 products for 13 - rows of taps; the last layer's channels are the picture's then.
            outputs = 13 - step.taps
            tiles = -(-base[0] // outputs)
            products = defined / step.taps * 12 * tiles / base[0]
            name = f"F({outputs}) down "
        name += f"{step.in_channels}->{step.out_channels} {columns}x{rows}"
        name += f" /{step.stride}" if step.stride > 1 else f" x{step.up}" if step.up > 1 else ""
        name += ", adds residual" if step.residual >= 0 else ""
        yield Layer(name, defined, products)


def _on_matrix_unit(step: Step, size: tuple[int, int], base: tuple[int, int]) -> Layer:
    """Counts products of whole tiles, 16 pixels by 32 values by 16 channels, but for what is cut off at the edges."""
    phases = step.phases[: 1 if step.packing == Packing.MATRIX_LAST else step.up**2]
    products = 0
    channels = [4] if step.in_channels == IMAGE_CHANNELS else [32] * (step.in_channels // 32)
    channels += [16] if step.in_channels % 32 == 16 else []
    for _, rows, _, columns, _ in phases:
        products += sum(rows * -(-columns * block // 32) for block in channels)
    grid = math.prod(base)
    taps = sum(phase[1] * phase[3] for phase in phases)
    defined = taps * step.in_channels * step.out_channels * grid
    if step.packing == Packing.MATRIX_LAST:
        stride = step.block // step.up
        grid = math.prod(-(-side // stride) for side in base)
        taps = step.taps**2 if step.up == 1 else phases[0][1] * phases[0][3]
        defined = taps * step.in_channels * step.picture_channels * math.prod(base) * step.up**2
    parts = step.weight_terms + int(step.multiplies_float32 or (step.weight_terms == 2 and step.source != NONE))
    multiplied = parts * products * 32 * step.out_channels * grid
    name = f"tiles {step.in_channels}->{step.out_channels} {size[1]}x{size[0]}"
    name += f" /{step.stride}" if step.stride > 1 else f" x{step.up}" if step.up > 1 else ""
    name += ", adds residual" if step.residual >= 0 else ""
    return Layer(name, 2e-9 * defined, 2e-9 * multiplied)


def print_report(report: results.Results, peak_name: str) -> None:
    """One line per layer, and the sum."""
    peaks = [peak[peak_name] for peak in report.peaks]
    print(f"{report.groups[0]}, {report.machine['threads']} threads, peak {statistics.median(peaks):.0f} GFLOP/s")
    print(f"{'':<48}{'ms':>8}{'GFLOP':>8}{'GFLOP/s':>9}{'of the peak':>13}{'multiplied, of it':>19}")
    for row in report.rows:
        median = statistics.median(row.measured)
        share = statistics.median(
            row.facts["multiplied_gflop"] / s / p for s, p in zip(row.measured, peaks, strict=True)
        )
        speed = row.facts["gflop"] / median
        worth = statistics.median(row.facts["gflop"] / s / p for s, p in zip(row.measured, peaks, strict=True))
        gflop = row.facts["gflop"]
        print(f"{row.contender:<48}{median * 1e3:>8.2f}{gflop:>8.2f}{speed:>9.0f}{worth:>13.0%}{share:>19.0%}")
    total = statistics.median(sum(values) for values in zip(*(row.measured for row in report.rows), strict=True))
    gflop = sum(row.facts["gflop"] for row in report.rows)
    print(f"{'all':<48}{total * 1e3:>8.2f}{gflop:>8.2f}{gflop / total:>9.0f}")
