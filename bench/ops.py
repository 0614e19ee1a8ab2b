"""The fused operators beside the PyTorch expressions that they replace, torch.compile of these, and a plain copy.

In each round the contenders of a row take turns, in an order that changes, for as many calls as fit into some
milliseconds; a turn counts as the median of its calls. The rounds are spread over several processes, one after another,
because where a process finds its memory can make a tenth of a difference for as long as it lives. GB/s counts the bytes
read and written once; the copy beside it, of as many bytes, is what this machine's memory gives. Results are compared
before any timing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from bench import compare, results
from bench.results import Results, Row
from engine import _native, ops
from engine.errors import EngineError
from engine.sizes import parse_size

RANGE = (-1.0, 1.0)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Operator:
    """One line of the table: an operator on one dtype and layout.

    Attributes:
        expression: what users write instead, from and to tensors, so that torch.compile takes it too; its output holds
            the same values, whatever its shape.
        inputs: for both.
        bytes_moved: read and written once.
        tolerance: how far the values of both may be apart; 0: not at all.
    """

    op: str
    variant: str
    operator: Callable[..., torch.Tensor]
    expression: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]
    bytes_moved: int
    tolerance: float = 0.0


def operators(width: int, height: int) -> Iterator[Operator]:
    """The table: every operator on every dtype and layout that it is used with."""
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    for name, dtype in DTYPES.items():
        yield Operator(
            op="frames_to_tensor",
            variant=name,
            operator=lambda frame, dtype=dtype: ops.frames_to_tensor(
                frame[None], value_range=RANGE, size=(frame.shape[0], frame.shape[1]), dtype=dtype
            ),
            expression=lambda frame, dtype=dtype: (
                frame.flip(-1).permute(2, 0, 1)[None].float().div(127.5).sub(1).to(dtype)
            ).to(memory_format=torch.channels_last),
            inputs=(frame,),
            bytes_moved=frame.numel() * (1 + dtype.itemsize),
        )
    for layout, memory_format in {"": torch.channels_last, "-nchw": torch.contiguous_format}.items():
        for name, dtype in DTYPES.items():
            tensor = torch.rand(1, 3, height, width, generator=generator).mul(2.2).sub(1.1).to(dtype)
            yield Operator(
                op="tensor_to_frames",
                variant=name + layout,
                operator=lambda tensor: ops.tensor_to_frames(
                    tensor, value_range=RANGE, size=(tensor.shape[2], tensor.shape[3])
                ),
                expression=lambda tensor: (
                    (((tensor.float() + 1) * 127.5).round().clamp(0, 255).byte())[0]
                    .permute(1, 2, 0)
                    .flip(-1)
                    .contiguous()
                ),
                inputs=(tensor.contiguous(memory_format=memory_format),),
                bytes_moved=tensor.numel() * (1 + dtype.itemsize),
            )
    for layout, memory_format in {"": torch.channels_last, "-nchw": torch.contiguous_format}.items():
        for name, tolerance in {"float32": 1e-4, "bfloat16": 0.1}.items():
            # What a generator has after its first strided convolution, but for half of the channels.
            features = torch.randn(1, 32, height // 2, width // 2, generator=generator).to(DTYPES[name])
            yield Operator(
                op="instance_norm_act",
                variant=name + layout,
                operator=lambda features: ops.instance_norm_act(features, activation="relu", pad=(1, 1, 1, 1)),
                expression=lambda features: F.pad(F.relu(F.instance_norm(features)), (1, 1, 1, 1), mode="reflect"),
                inputs=(features.contiguous(memory_format=memory_format),),
                bytes_moved=2 * features.numel() * features.element_size(),
                tolerance=tolerance,
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench ops`."""
    parser.add_argument("--size", default="1280x720", metavar="WxH", help="frame size (default: %(default)s)")
    parser.add_argument("--ops", nargs="+", metavar="TEXT", help="only those whose name holds one of the texts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="in each process (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=5, help="one after the other (default: %(default)s)")
    parser.add_argument("--isa", choices=_native.supported_isas(), help="measure another instruction set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="fail on a regression against these figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures all rows and prints the table."""
    width, height = parse_size(arguments.size)
    if arguments.isa:
        _native.set_isa(arguments.isa)
    torch.set_num_threads(arguments.threads)
    rounds, processes = arguments.rounds, arguments.processes
    report = results.start(
        "ops", threads=arguments.threads, arguments={"size": arguments.size, "rounds": rounds, "processes": processes}
    )
    if processes > 1:
        _measure_in_processes(report, arguments)
    else:
        _warn_of_load(arguments.threads)
        for operator in operators(width, height):
            if not arguments.ops or any(text in f"{operator.op} {operator.variant}" for text in arguments.ops):
                report.rows += measure(operator, f"{width}x{height}", rounds)
        if not report.rows:
            raise EngineError(f"no operator has {' or '.join(arguments.ops)!r} in its name")
    if arguments.json:
        report.write(arguments.json)
    print_report(report)
    if arguments.compare:
        compare.check_against(report, arguments.compare)


def measure(operator: Operator, size: str, rounds: int) -> list[Row]:
    """Times an operator and what stands beside it, in turn.

    Raises:
        EngineError: the operator or the compiled expression gives other values than the expression.
    """
    contenders = _contenders(operator)
    expected = contenders["expression"]()
    group = f"{operator.op} {operator.variant} {size}"
    rows = {name: Row(group, name, ours=name == "operator") for name in contenders}
    for row in rows.values():
        row.facts["bytes_moved"] = operator.bytes_moved
    rows["operator"].facts["kernel"] = _kernel(operator.op)
    for name in ("operator", "torch.compile"):
        actual = contenders[name]()
        tolerance = operator.tolerance
        if name == "torch.compile" and not tolerance:
            # A compiler may fuse a multiplication and an addition, and so round a tie to the other side.
            tolerance = 1.0 if expected.dtype == torch.uint8 else (RANGE[1] - RANGE[0]) / 255
        if not _equal(actual, expected, tolerance):
            raise EngineError(f"{group}: {name} and the expression give different values; nothing is timed")
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(contenders), len(contenders)):
            rows[name].seconds.append(_turn(contenders[name]))
    return list(rows.values())


def _contenders(operator: Operator) -> dict[str, Callable[[], torch.Tensor]]:
    source = torch.ones(operator.bytes_moved // 2, dtype=torch.uint8)
    target = torch.zeros_like(source)
    compiled = torch.compile(operator.expression, dynamic=False, fullgraph=True)
    return {
        "operator": lambda: operator.operator(*operator.inputs),
        "expression": lambda: operator.expression(*operator.inputs),
        "torch.compile": lambda: compiled(*operator.inputs),
        "copy": lambda: target.copy_(source),
    }


def _turn(contender: Callable[[], object], turn_seconds: float = 0.01, least: int = 3) -> float:
    """Median seconds of a call; the first, which finds the caches as others left them, is not counted."""
    contender()
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < least or time.perf_counter() - begin < turn_seconds:
        start = time.perf_counter()
        contender()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _equal(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether both hold the same values, but for `tolerance`, whatever their shape."""
    actual = actual.reshape(expected.shape)
    return torch.equal(actual, expected) or bool((actual.float() - expected.float()).abs().max() <= tolerance)


def _kernel(op: str) -> str:
    """The tier that runs: an operator without a kernel for the active one takes its next lower one."""
    supported = _native.supported_isas()
    usable = supported[: supported.index(_native.active_isa()) + 1]
    return [name for name in _native.kernels()[op] if name in usable][-1]


def _measure_in_processes(report: Results, arguments: argparse.Namespace) -> None:
    """Fills in the rows with the rounds of several processes, put one after the other."""
    command = [sys.executable, "-m", "bench", "ops", "--processes", "1", "--size", arguments.size]
    command += ["--threads", str(arguments.threads), "--rounds", str(arguments.rounds)]
    command += ["--isa", arguments.isa] if arguments.isa else []
    command += ["--ops", *arguments.ops] if arguments.ops else []
    merged: dict[tuple[str, str], Row] = {}
    with tempfile.TemporaryDirectory(prefix="streamgan-bench-") as folder:
        path = Path(folder) / "ops.json"
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": folder}  # compiled once for all of them
        for number in range(arguments.processes):
            done = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True, env=environment)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
                raise EngineError(lines[-1].removeprefix("error: "))
            if number == 0:
                sys.stderr.write(done.stderr)
            for row in results.read(path).rows:
                kept = merged.setdefault((row.group, row.contender), row)
                if kept is not row:
                    kept.seconds += row.seconds
    report.rows = list(merged.values())


def print_report(report: Results) -> None:
    """Prints the table: medians over rounds, and speed-ups as medians of the ratios within rounds."""
    isa, threads = report.machine["isa"], report.machine["threads"]
    print(f"{report.arguments['size']}, {threads} threads, instruction set {isa}; x: how many times as fast ours is")
    width = 2 + max(len(group) for group in report.groups)
    print(f"{'':<{width}}{'kernel':<13}{'ours ms':>8}{'expression ms':>18}{'torch.compile ms':>20}", end="")
    print(f"{'GB/s':>8}{'of copy':>9}")
    for group in report.groups:
        rows = {row.contender: row for row in report.group(group)}
        ours = rows["operator"]
        ms = {name: statistics.median(row.measured) * 1e3 for name, row in rows.items()}
        times = {name: statistics.median(results.ratios(row.seconds, ours.seconds)) for name, row in rows.items()}
        print(
            f"{group:<{width}}{ours.facts['kernel']:<13}{ms['operator']:>8.3f}"
            f"{ms['expression']:>10.2f} {times['expression']:>6.1f}x"
            f"{ms['torch.compile']:>12.2f} {times['torch.compile']:>6.1f}x"
            f"{ours.facts['bytes_moved'] / ms['operator'] / 1e6:>8.1f}{times['copy']:>9.0%}"
        )


def _warn_of_load(threads: int) -> None:
    """A warning where other programs keep the processors busy: threads then wait for each other by the time slice."""
    if not hasattr(os, "getloadavg"):
        return
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load + threads > processors + 0.5:
        print(
            f"WARNING: load average {load:.1f} on {processors} processors before the start; these figures mean little",
            file=sys.stderr,
        )
