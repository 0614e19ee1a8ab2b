"""How the cost of a frame grows: with frame area, width, depth, threads and batch, everything else held.

One generator, the compact residual one, on this project's eager backend, or on the one asked for. In each round every
point of a series takes its turn, so that a drift of the machine touches all points alike. The cost is given per unit:
per megapixel, per GFLOP, per frame of a batch; a flat line is linear growth.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench import results
from bench.contenders import in_memory_backends
from bench.peaks import Probe
from bench.results import Results, Row
from engine.device import choose_device
from engine.generators import ResNetConfig, build
from engine.generators.flops import count_flops
from engine.parity import PARITY_DB
from engine.precision import PRECISIONS, dtype_of, fastest_precision

_AREAS = ((64, 64), (128, 128), (256, 256), (512, 512), (640, 360), (1280, 720), (1920, 1080))
_WIDTHS = (8, 16, 32, 48, 64)
_DEPTHS = (0, 3, 6, 9, 12)
_BATCHES = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Point:
    """One measurement of a series.

    Attributes:
        x: where it stands on the axis of its series.
        units: how many megapixels, GFLOP or frames it computes, whatever the cost is given per.
    """

    series: str
    x: float
    units: float
    unit: str
    width: int = 16
    blocks: int = 6
    shape: tuple[int, int, int, int] = (1, 3, 256, 256)
    threads: int = 0


def points(threads: int) -> Iterator[Point]:
    """All points, series by series."""
    for width, height in _AREAS:
        area = width * height / 1e6
        yield Point("area", area, area, "megapixel", shape=(1, 3, height, width))
    for width in _WIDTHS:
        yield Point("width", width, 0.0, "GFLOP", width=width)
    for blocks in _DEPTHS:
        yield Point("depth", blocks, 0.0, "GFLOP", blocks=blocks)
    for count in range(1, threads + 1):
        yield Point("threads", count, 1.0, "frame", threads=count)
    for batch in _BATCHES:
        yield Point("batch", batch, batch, "frame", shape=(batch, 3, 256, 256))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench scaling`."""
    parser.add_argument("--backend", choices=list(in_memory_backends()), default="eager", help="(default: %(default)s)")
    parser.add_argument("--precision", choices=["auto", *PRECISIONS], default="auto", help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="of every point in each round (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures series after series and prints them."""
    device = choose_device(arguments.device)
    precision = fastest_precision(device) if arguments.precision == "auto" else arguments.precision
    report = results.start(
        "scaling",
        threads=arguments.threads,
        device=device.type,
        arguments={"backend": arguments.backend, "precision": precision, "rounds": arguments.rounds},
    )
    probe = Probe(arguments.threads, device.type)
    everything = list(points(arguments.threads))
    print(f"{arguments.backend} {precision}, {arguments.threads} threads on {report.machine['device']}")
    for series in dict.fromkeys(point.series for point in everything):
        chosen = [point for point in everything if point.series == series]
        ready = [_prepare(point, arguments.backend, precision, device, arguments.threads) for point in chosen]
        rows = [row for row, _ in ready]
        for number in range(arguments.rounds):
            report.peaks.append({"group": series, "round": number, **probe.measure()})
            for row, call in random.Random(number).sample(ready, len(ready)):
                row.seconds.append(_turn(call, arguments.seconds))
        report.rows += rows
        _print_series(report, series)
        if arguments.json:
            report.write(arguments.json)
    torch.set_num_threads(arguments.threads)


def _prepare(
    point: Point, backend: str, precision: str, device: torch.device, threads: int
) -> tuple[Row, Callable[[], object]]:
    """The row of a point, and one frame of it."""
    torch.manual_seed(0)
    generator = build(ResNetConfig(width=point.width, blocks=point.blocks)).eval().requires_grad_(False)
    gflop = count_flops(generator, point.shape) / 1e9
    dtype = dtype_of(precision, device)
    image = torch.rand(point.shape).mul(2).sub(1).to(device=device, dtype=dtype)
    image = image.to(memory_format=torch.channels_last)
    facts = {
        "x": point.x,
        "unit": point.unit,
        "units": point.units or gflop,
        "gflop": gflop,
        "precision": precision,
        "engine": f"engine {backend} {precision}",
    }
    row = Row(point.series, f"{facts['engine']}, {point.x:.4g}", ours=True, facts=facts)
    with torch.no_grad():
        compiled = in_memory_backends()[backend].compile(
            generator.to(device=device), image, precision, lambda run: PARITY_DB[precision]
        )
    image = image.to(getattr(compiled, "input_dtype", dtype))

    def call() -> None:
        if torch.get_num_threads() != (point.threads or threads):
            torch.set_num_threads(point.threads or threads)
        with torch.no_grad():  # as `Translator` does
            compiled(image)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return row, call


def _turn(call: Callable[[], object], turn_seconds: float) -> float:
    """Median seconds of a call; the first is not counted."""
    call()
    seconds: list[float] = []
    begin = time.perf_counter()
    while not seconds or time.perf_counter() - begin < turn_seconds:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _print_series(report: Results, series: str) -> None:
    rows = report.group(series)
    unit = rows[0].facts["unit"]
    print(f"\n{series:>10}{'ms':>10}{'95 % of median':>18}{f'ms per {unit}':>18}{'GFLOP/s':>10}")
    for row in rows:
        median, low, high = results.summary(row.measured)
        print(
            f"{row.facts['x']:>10.4g}{median * 1e3:>10.2f}{f'{low * 1e3:.2f}-{high * 1e3:.2f}':>18}"
            f"{median * 1e3 / row.facts['units']:>18.3f}{row.facts['gflop'] / median:>10.0f}"
        )
