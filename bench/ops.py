"""The fused operators against the expressions that they replace.

In each round the contenders of a row take turns: the expression, the operator and a plain copy. The figures are medians
over rounds, and the speed-up is the median of the ratios within rounds. GB/s counts the bytes read and written once;
the copy beside it, of as many bytes, is what this machine's memory gives. Results are compared before any timing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from engine import _native, ops

RANGE = (-1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: an operator on one dtype."""

    op: str
    dtype: str
    operator: Callable[[], torch.Tensor]
    expression: Callable[[], torch.Tensor | np.ndarray]
    bytes_moved: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench ops`."""
    parser.add_argument("--size", default="1280x720", metavar="WxH", help="frame size (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="for all contenders (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("--isa", choices=_native.supported_isas(), help="measure another instruction set")


def run(arguments: argparse.Namespace) -> None:
    """Measures all rows and prints the table."""
    width, height = (int(side) for side in arguments.size.split("x"))
    if arguments.isa:
        _native.set_isa(arguments.isa)
    torch.set_num_threads(arguments.threads)
    isa = _native.active_isa()
    print(f"{width}x{height}, {arguments.threads} threads, {arguments.rounds} rounds, instruction set {isa}")
    print(_load_note(arguments.threads))
    print(f"{'operator':<18}{'dtype':<18}{'kernel':<13}{'expression ms':>14}{'ours ms':>9}{'speed-up':>10}", end="")
    print(f"{'GB/s':>7}{'copy GB/s':>11}")
    for row in rows(height, width):
        _check(row)
        seconds, ratios = _measure(row, arguments.rounds)
        gigabytes = row.bytes_moved / 1e9
        print(
            f"{row.op:<18}{row.dtype:<18}{_kernel(row.op, isa):<13}{seconds['expression'] * 1e3:>14.2f}"
            f"{seconds['operator'] * 1e3:>9.3f}{statistics.median(ratios):>9.1f}x"
            f"{gigabytes / seconds['operator']:>7.1f}{gigabytes / seconds['copy']:>11.1f}"
        )


def rows(height: int, width: int) -> Iterator[Row]:
    """The table: every operator on every dtype it is used with."""
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator).numpy()
    values = frame.size
    for name, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.items():
        yield Row(
            op="frames_to_tensor",
            dtype=name,
            operator=lambda dtype=dtype: ops.frames_to_tensor(
                torch.from_numpy(frame)[None], value_range=RANGE, size=(height, width), dtype=dtype
            ),
            expression=lambda dtype=dtype: _users_frames_to_tensor(frame, dtype),
            bytes_moved=values * (1 + dtype.itemsize),
        )
    for layout, memory_format in {"": torch.channels_last, ", NCHW": torch.contiguous_format}.items():
        for name, dtype in {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.items():
            tensor = torch.rand(1, 3, height, width, generator=generator).mul(2.2).sub(1.1).to(dtype)
            tensor = tensor.contiguous(memory_format=memory_format)
            yield Row(
                op="tensor_to_frames",
                dtype=name + layout,
                operator=lambda tensor=tensor: ops.tensor_to_frames(tensor, value_range=RANGE, size=(height, width)),
                expression=lambda tensor=tensor: _users_tensor_to_frames(tensor),
                bytes_moved=values * (1 + dtype.itemsize),
            )


def _load_note(threads: int) -> str:
    """A warning where other programs keep the processors busy: threads then wait for each other by the time slice."""
    if not hasattr(os, "getloadavg"):
        return ""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load + threads <= processors + 0.5:
        return ""
    return f"WARNING: load average {load:.1f} on {processors} processors before the start; these figures mean little\n"


def _users_frames_to_tensor(frame: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(frame[:, :, ::-1].copy()).permute(2, 0, 1)[None].float().div(127.5).sub(1)
    return tensor.to(dtype).to(memory_format=torch.channels_last)


def _users_tensor_to_frames(tensor: torch.Tensor) -> np.ndarray:
    values = ((tensor.float() + 1) * 127.5).round().clamp(0, 255).byte()
    return values[0].permute(1, 2, 0).flip(-1).numpy()


def _check(row: Row) -> None:
    actual, expected = row.operator(), torch.as_tensor(row.expression())
    if not torch.equal(actual, expected.reshape(actual.shape)):
        raise AssertionError(f"{row.op}, {row.dtype}: the operator and the expression differ")


def _kernel(op: str, isa: str) -> str:
    """The tier that runs: an operator without a kernel for the active one takes its next lower one."""
    supported = _native.supported_isas()
    usable = supported[: supported.index(isa) + 1]
    return [name for name in _native.kernels()[op] if name in usable][-1]


def _measure(row: Row, rounds: int) -> tuple[dict[str, float], list[float]]:
    """Median seconds of each contender, and the ratio of expression to operator in every round."""
    source = torch.ones(row.bytes_moved // 2, dtype=torch.uint8)
    target = torch.empty_like(source)
    contenders: dict[str, Callable[[], object]] = {
        "expression": row.expression,
        "operator": row.operator,
        "copy": lambda: target.copy_(source),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            seconds[name].append(time.perf_counter() - start)
    warm = {name: values[1:] for name, values in seconds.items()}  # the first round allocates
    ratios = [slow / fast for slow, fast in zip(warm["expression"], warm["operator"], strict=True)]
    return {name: statistics.median(values) for name, values in warm.items()}, ratios
