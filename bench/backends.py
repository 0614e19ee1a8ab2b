"""Every backend of this project: start-up with an empty cache and with a filled one, time of a frame, parity, memory.

Each is run as `engine.run --backend NAME` does, in a process of its own, with a cache folder of its own that is empty
in the first process and filled in the later ones. Start-up is from the start of the process, Python's imports included,
to the first translated frame, the comparison with float32 included: eager, or, of the fused backend on the CPU, our own
once that was compared with eager. In each round every backend takes its turn.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import results
from bench.generators import make_generator, real_frame
from bench.measured_process import run_process
from bench.results import Results, Row
from engine.backends import BACKENDS
from engine.checkpoint import save_generator
from engine.device import choose_device
from engine.errors import EngineError
from engine.sizes import parse_size

FULL = ("resnet9-64 256x256", "resnet6-16 640x360")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench backends`."""
    parser.add_argument(
        "--groups", nargs="+", default=FULL, metavar="'GENERATOR WxH'", help="(default: the full and the compact one)"
    )
    parser.add_argument("--backends", nargs="+", default=tuple(BACKENDS), metavar="NAME", help="(default: all)")
    parser.add_argument("--precision", default="auto", help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="with a filled cache (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of frames in each round (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures group after group and prints the table.

    Raises:
        EngineError: an unknown backend, generator or size.
    """
    device = choose_device(arguments.device)
    for name in arguments.backends:
        if name not in BACKENDS:
            raise EngineError(f"unknown backend {name!r}: accepted are {', '.join(BACKENDS)}")
    told = {name: getattr(arguments, name) for name in ("precision", "rounds", "seconds")}
    report = results.start("backends", threads=arguments.threads, device=device.type, arguments=told)
    for group in arguments.groups:
        with tempfile.TemporaryDirectory(prefix="streamgan-bench-") as folder:
            _measure_group(report, group, Path(folder), arguments, device)
        if arguments.json:
            report.write(arguments.json)
    _print(report)


def _measure_group(
    report: Results, group: str, folder: Path, arguments: argparse.Namespace, device: torch.device
) -> None:
    name, _, size = group.partition(" ")
    generator, frame = make_generator(name), real_frame(*parse_size(size))
    save_generator(generator, folder / "generator.safetensors")
    np.save(folder / "frame.npy", frame)
    rows = [Row(group, backend, ours=True) for backend in arguments.backends]
    for row in rows:
        if reason := BACKENDS[row.contender].unavailable(device):
            row.failure = reason
            continue
        (folder / row.contender).mkdir()
        cold = _one_process(row, folder, arguments, device)
        if cold is not None:
            row.facts["cold_first_frame_seconds"] = cold["first_frame_seconds"]
    for number in range(arguments.rounds):
        for row in random.Random(number).sample(rows, len(rows)):
            if row.failure is not None:
                continue
            told = _one_process(row, folder, arguments, device)
            if told is None:
                continue
            row.seconds.append(told["frame_seconds"])
            row.facts.setdefault("first_frame_seconds", []).append(told["first_frame_seconds"])
            row.facts["precision"], row.facts["psnr_db"] = told["precision"], told["parity_db"]
            peak = max(row.facts.get("peak_memory_bytes", 0), told["peak_memory_bytes"])
            row.facts["peak_memory_bytes"] = peak
            print(f"{group}, {row.contender}: {told}", file=sys.stderr, flush=True)
    report.rows += rows


def _one_process(row: Row, folder: Path, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any] | None:
    command = [sys.executable, "-m", "bench.backend_worker", str(folder), row.contender, arguments.precision]
    command += [device.type, str(arguments.threads), str(arguments.seconds)]
    ended = run_process(command, folder / row.contender)
    if ended.status:
        row.failure = ended.last_line or f"ended with {ended.status}"
        return None
    told: dict[str, Any] = json.loads(ended.printed)
    if told["backend"] != row.contender:
        row.failure = ended.last_line or f"{told['backend']} ran instead"
        return None
    return told


def _print(report: Results) -> None:
    for row in report.rows:
        if row.failure is not None or not row.measured:
            print(f"{row.group:<22} {row.contender:<14} {row.failure}")
            continue
        cached = statistics.median(row.facts["first_frame_seconds"])
        parity = row.facts["psnr_db"]
        print(
            f"{row.group:<22} {row.contender:<14} {row.facts['precision']:<5} cold"
            f" {row.facts['cold_first_frame_seconds']:6.1f} s, cached {cached:5.1f} s,"
            f" {1e3 * statistics.median(row.measured):7.1f} ms, {'exact' if parity is None else f'{parity:.1f} dB'},"
            f" {row.facts['peak_memory_bytes'] / 1e6:.0f} MB"
        )
