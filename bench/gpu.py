"""A GPU: whole frames through every backend there is, and the operators of norms and video colours beside a copy.

A frame goes in and comes out as an array in the processor's memory, as in a video: upload, conversions and download are
part of it. Latency is that of one call that waits for its result; frames/s are those of a file, where a call is under
way while the next is made. "Generator alone" is ours without any of that, replayed as a CUDA graph. All backends of a
case take turns in each round. The limit is the arithmetic of the generator's convolutions at the rate of this device's
matrix products, measured in the same rounds; of the operator, a copy's bandwidth.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import compare, results
from bench.generators import make_generator, real_frame
from bench.peaks import Probe
from bench.peers.torch_session import captured
from bench.plugin import WITHOUT_PLUGIN, has_operators, without_operators
from bench.results import Results, Row
from engine import ops
from engine.backends import BACKENDS, get_backend
from engine.device import choose_device
from engine.errors import EngineError, first_line
from engine.generators import Generator
from engine.generators.flops import count_flops
from engine.parity import psnr_db
from engine.precision import fastest_precision
from engine.runners.cuda_graph import CudaGraphRunner
from engine.sizes import padded_size, parse_size
from engine.translator import Translator

CASES = ("256x256x1", "256x256x8", "1280x720x1", "1920x1080x1")
ON_CUDA = tuple(name for name, backend in BACKENDS.items() if "cuda" in backend.devices)
ALONE = "generator alone"

VIDEOS = ("1280x720", "1920x1080")

# N, C, H, W: a residual block of the full generator at 256x256, its outer layer, and both at 1920x1080.
NORMS = ("1x256x64x64", "1x64x256x256", "1x256x270x480", "1x64x1080x1920", "8x256x64x64")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench gpu`."""
    parser.add_argument("--generator", default="resnet9-64", help="name or checkpoint file (default: %(default)s)")
    parser.add_argument("--cases", nargs="*", default=CASES, metavar="WxHxN", help="frame size and batch")
    parser.add_argument(
        "--backends", nargs="+", default=ON_CUDA, metavar="NAME", help=f"also {WITHOUT_PLUGIN} (default: {ON_CUDA})"
    )
    parser.add_argument("--norms", nargs="*", default=NORMS, metavar="NxCxHxW", help="of instance_norm_act")
    parser.add_argument("--videos", nargs="*", default=VIDEOS, metavar="WxH", help="of yuv_to_bgr and bgr_to_yuv")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a backend in a round (default: %(default)s)")
    parser.add_argument(
        "--budget", type=float, default=300.0, help="seconds, after which nothing more is built (default: %(default)s)"
    )
    parser.add_argument("--device", default="cuda", help="(default: %(default)s)")
    parser.add_argument("--precision", help="(default: the fastest of the device)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures, after every case")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="fail on a regression against these figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures case after case and ends in a table.

    Raises:
        EngineError: no such device, generator or size.
    """
    device = choose_device(arguments.device)
    precision = arguments.precision or fastest_precision(device)
    deadline = time.monotonic() + arguments.budget
    told = {
        key: value
        for key, value in vars(arguments).items()
        if key not in ("command", "run", "json", "compare", "device")
    }
    report = results.start("gpu", threads=torch.get_num_threads(), device=str(device), arguments=told)
    probe = Probe(torch.get_num_threads(), str(device))
    for shape in arguments.norms:
        report.rows += measure_norm(_shape(shape), device, arguments.rounds)
        _write(report, arguments.json)
    for size in arguments.videos:
        report.rows += measure_colours(*parse_size(size), device, arguments.rounds)
        _write(report, arguments.json)
    for case in arguments.cases:
        generator = make_generator(arguments.generator)
        rows, peaks = measure_case(generator, case, arguments, device, precision, probe, deadline)
        report.rows += rows
        report.peaks += peaks
        _write(report, arguments.json)
    print("\n".join(table(report)))
    if arguments.compare:
        compare.check_against(report, arguments.compare)


# --- whole frames ---


@dataclasses.dataclass
class Turn:
    """A backend that takes turns with others on one case.

    Attributes:
        latencies: seconds of single calls, of all rounds.
        rates: frames per second with calls under way, one of each round.
    """

    row: Row
    translator: Translator
    batch: np.ndarray
    latencies: list[float] = dataclasses.field(default_factory=list)
    rates: list[float] = dataclasses.field(default_factory=list)

    def take(self, seconds: float) -> None:
        """A round: single calls for half of the time, calls under way for the other half."""
        calls: list[float] = []
        end = time.perf_counter() + seconds / 2
        while not calls or time.perf_counter() < end:
            start = time.perf_counter()
            self.translator(self.batch)
            calls.append(time.perf_counter() - start)
        self.latencies += calls
        self.row.seconds.append(float(np.median(calls)))
        count, under_way = 0, collections.deque[Callable[[], np.ndarray]]()
        start = time.perf_counter()
        while not count or time.perf_counter() - start < seconds / 2:
            under_way.append(self.translator.submit(self.batch))
            if len(under_way) == self.translator.frames_under_way:
                under_way.popleft()()
            count += 1
        for result in under_way:
            result()
        self.rates.append(count * len(self.batch) / (time.perf_counter() - start))


def measure_case(
    generator: Generator,
    case: str,
    arguments: argparse.Namespace,
    device: torch.device,
    precision: str,
    probe: Probe,
    deadline: float,
) -> tuple[list[Row], list[dict[str, Any]]]:
    """One frame size and batch through all backends, in turn."""
    size, _, count = case.rpartition("x")
    width, height = parse_size(size)
    if not count.isdecimal() or not int(count):
        raise EngineError(f"case {case!r}: WxHxN is needed, such as 256x256x8")
    batch = np.repeat(real_frame(width, height)[None], int(count), axis=0)
    flops = count_flops(generator, (len(batch), 3, *padded_size(generator, height, width)))
    group = f"{arguments.generator} {width}x{height} batch {count}"
    expected = Translator(generator, backend="eager", precision="fp32", device=str(device))(batch)
    rows, turns = [], []
    for backend in arguments.backends:
        row = Row(group, f"{backend} {precision}", ours=backend == "fused", facts={"precision": precision})
        rows.append(row)
        if time.monotonic() > deadline and backend != "fused":
            row.failure = "no time left to build it"
            continue
        try:
            turns.append(_ready(row, generator, backend, precision, device, batch, expected))
        except (EngineError, RuntimeError) as error:
            row.failure = first_line(error)
    alone = _generator_alone(turns, batch)
    alone_row = Row(group, ALONE, ours=True, failure=None if alone else "the fused backend does not run")
    peaks = []
    for number in range(arguments.rounds):
        peaks.append({"group": group, **probe.measure()})
        for turn in random.Random(number).sample(turns, len(turns)):
            turn.take(arguments.seconds)
        if alone is not None:
            alone_row.seconds.append(_median_seconds(alone, arguments.seconds / 4, device))
    for turn in turns:
        turn.row.facts |= {
            "p50_ms": 1e3 * float(np.percentile(turn.latencies, 50)),
            "p99_ms": 1e3 * float(np.percentile(turn.latencies, 99)),
            "frames_per_second": float(np.median(turn.rates)),
            "flops": flops,
        }
    alone_row.facts |= {"flops": flops}
    if alone_row.measured:
        alone_row.facts["frames_per_second"] = len(batch) / float(np.median(alone_row.measured))
    return [*rows, alone_row], peaks


def _ready(
    row: Row,
    generator: Generator,
    backend: str,
    precision: str,
    device: torch.device,
    batch: np.ndarray,
    expected: np.ndarray,
) -> Turn:
    """A backend that has translated the batch once, as it should.

    Raises:
        EngineError: it does not run here; another backend would have stood in.
    """
    name = "tensorrt" if backend == WITHOUT_PLUGIN else backend
    if reason := get_backend(name).unavailable(device):
        raise EngineError(reason)
    start = time.perf_counter()
    with without_operators() if backend == WITHOUT_PLUGIN else contextlib.nullcontext():
        translator = Translator(generator, backend=name, precision=precision, device=str(device))
        translated = translator(batch)
        row.facts["ready_seconds"] = time.perf_counter() - start
        engine = translator.engine
        if engine is None or (engine.backend, engine.precision) != (name, precision):
            raise EngineError(f"{engine} would run instead")
        if name == "tensorrt":
            row.facts["has_plugin"] = has_operators(name)
    row.facts["psnr_db"] = _finite(psnr_db(translated, expected))
    for _ in range(3):
        translator(batch)
    return Turn(row, translator, batch)


def _generator_alone(turns: list[Turn], batch: np.ndarray) -> Callable[[], None] | None:
    """Our generator on a tensor that is on the device already."""
    for turn in turns:
        engine = turn.translator.engine
        if engine is not None and engine.backend == "fused" and isinstance(engine.runner, CudaGraphRunner):
            runner, device = engine.runner, turn.translator.device
            height, width = runner.facts.padded_size(*batch.shape[1:3])
            image = torch.rand((len(batch), 3, height, width), device=device).mul_(2).sub_(1)
            return captured(runner.run, image.to(runner.dtype).to(memory_format=torch.channels_last))
    return None


# --- the norm ---


def measure_norm(shape: tuple[int, int, int, int], device: torch.device, rounds: int) -> list[Row]:
    """instance_norm_act with ReLU, its input read and its output written once, beside a copy of as many bytes."""
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    # Several inputs in turn where they are small, so that they come from memory and not from a cache.
    count = max(1, min(16, 2**28 // (2 * int(np.prod(shape)))))
    images = [
        torch.randn(shape, device=device, dtype=torch.float32).to(dtype).to(memory_format=torch.channels_last)
        for _ in range(count)
    ]
    target = torch.empty_like(images[0])
    group = f"instance_norm_act {'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
    work: dict[str, Callable[[Tensor], object]] = {
        "instance_norm_act": lambda image: ops.instance_norm_act(image, activation="relu"),
        "instance_norm_act, resident": lambda image: _in_form("resident", image),
        "instance_norm_act, two passes": lambda image: _in_form("two_passes", image),
        "torch instance_norm + relu": lambda image: torch.relu_(torch.nn.functional.instance_norm(image)),
        "copy": target.copy_,
    }
    if device.type != "cuda":
        work = {name: call for name, call in work.items() if "," not in name}
    rows = [Row(group, name, ours=name.startswith("instance_norm_act")) for name in work]
    for row in rows:
        row.facts["bytes_moved"] = 2 * images[0].nbytes
        one_after_another = captured(_on_each(work[row.contender], images), images[0])
        row.seconds = [_median_seconds(one_after_another, 0.05, device) / count for _ in range(rounds)]
    return rows


def _in_form(form: str, image: Tensor) -> Tensor:
    """One form of the kernel, where it can be had (csrc/cuda/instance_norm_act.cu)."""
    os.environ["STREAMGAN_NORM_FORM"] = form
    try:
        return ops.instance_norm_act(image, activation="relu")
    finally:
        del os.environ["STREAMGAN_NORM_FORM"]


# --- colours of videos ---


def measure_colours(width: int, height: int, device: torch.device, rounds: int) -> list[Row]:
    """yuv_to_bgr and bgr_to_yuv, input read and output written once, beside a copy of as many bytes.

    Raises:
        EngineError: a side is odd.
    """
    if width % 2 or height % 2:
        raise EngineError(f"video {width}x{height}: sides of frames in 4:2:0 are even")
    # Several frames in turn, so that they come from memory and not from a cache.
    count = max(1, min(64, 2**28 // (3 * width * height)))
    frames = list(torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, device=device).unbind())
    color: dict[str, Any] = {"weights": (0.2126, 0.0722), "full_range": False}
    pictures = [ops.bgr_to_yuv(frame, **color) for frame in frames]
    quarters = [frame.flatten()[: frame.numel() * 3 // 4] for frame in frames]  # 2.25 bytes a pixel, read and written
    target = torch.empty_like(quarters[0])
    work: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
        "yuv_to_bgr": (lambda planes: ops.yuv_to_bgr(*planes, left_sited=True, **color), pictures),
        "bgr_to_yuv": (lambda frame: ops.bgr_to_yuv(frame, **color), frames),
        "copy": (target.copy_, quarters),
    }
    rows = [Row(f"colours {width}x{height}", name, ours=name != "copy") for name in work]
    for row in rows:
        row.facts["bytes_moved"] = width * height * 9 // 2
        call, inputs = work[row.contender]
        one_after_another = captured(_on_each(call, inputs), frames[0])
        row.seconds = [_median_seconds(one_after_another, 0.05, device) / count for _ in range(rounds)]
    return rows


def _on_each(call: Callable[[Any], object], images: list[Any]) -> Callable[[Tensor], object]:
    return lambda _: [call(image) for image in images]


def _median_seconds(call: Callable[[], object], seconds: float, device: torch.device) -> float:
    """Of calls on the current stream, on the device's own clock where it has one."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        if device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            call()
            after.record()
            after.synchronize()
            times.append(before.elapsed_time(after) / 1e3)
        else:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return float(np.median(times))


# --- what comes out ---


def table(report: Results) -> list[str]:
    """The results as lines for people."""
    lines = [f"{'':<44} {'p50 ms':>9} {'p99 ms':>9} {'frames/s':>9} {'of limit':>9} {'parity':>8}"]
    for group in dict.fromkeys(row.group for row in report.rows):
        lines.append(group)
        rows = report.group(group)
        copy = next((row for row in rows if row.contender == "copy"), None)
        for row in rows:
            name = f"  {row.contender:<42}"
            if row.failure is not None:
                lines.append(f"{name} {row.failure}")
                continue
            facts, seconds = row.facts, float(np.median(row.measured))
            if copy is not None:
                share = float(np.median(copy.measured)) / seconds
                lines.append(f"{name} {1e3 * seconds:>9.4f} {'':>9} {'':>9} {share:>9.0%}")
                continue
            rate = facts["frames_per_second"]
            limit = _limit_frames_per_second(report, row)
            share_text = f"{rate / limit:>9.0%}" if limit else f"{'':>9}"
            p99 = f"{facts['p99_ms']:>9.2f}" if "p99_ms" in facts else f"{'':>9}"
            psnr = facts.get("psnr_db", "")
            parity = "exact" if psnr is None else psnr if psnr == "" else f"{psnr:.1f}"
            lines.append(f"{name} {1e3 * seconds:>9.2f} {p99} {rate:>9.1f} {share_text} {parity:>8}")
    return lines


def _limit_frames_per_second(report: Results, row: Row) -> float | None:
    """What the arithmetic of the convolutions allows at the measured rate of matrix products."""
    rates = [peak.get("float16_gflops") or peak.get("bf16_gflops") for peak in report.peaks]
    known = [rate for peak, rate in zip(report.peaks, rates, strict=True) if rate and peak["group"] == row.group]
    count = int(row.group.rpartition(" ")[2])
    return float(np.median(known)) * 1e9 / row.facts["flops"] * count if known else None


def _finite(psnr: float) -> float | None:
    return psnr if np.isfinite(psnr) else None


def _shape(text: str) -> tuple[int, int, int, int]:
    sides = text.split("x")
    if len(sides) != 4 or not all(side.isdecimal() and int(side) for side in sides):
        raise EngineError(f"shape {text!r}: NxCxHxW is needed, such as 1x256x64x64")
    count, channels, height, width = map(int, sides)
    return count, channels, height, width


def _write(report: Results, path: Path | None) -> None:
    if path is not None:
        report.write(path)
