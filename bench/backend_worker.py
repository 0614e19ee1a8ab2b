"""The process of `bench backends`: one backend, from the start of the process to the first frame, then frames."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from engine.allocator import keep_freed_memory


def started_seconds_ago() -> float:
    """How long ago the system started this process."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Prints the figures as JSON."""
    started = time.perf_counter() - started_seconds_ago()
    folder, backend, precision, device, threads, seconds = sys.argv[1:]
    os.environ["STREAMGAN_CACHE"] = str(Path(folder) / backend / "engines")
    keep_freed_memory()  # as engine.run begins

    import numpy as np

    from engine import Translator, memory

    frame = np.load(Path(folder) / "frame.npy")
    weights = Path(folder) / "generator.safetensors"
    translator = Translator(weights, backend=backend, precision=precision, device=device, threads=int(threads))
    translator.engine_for(frame)
    translator(frame)
    first_frame_seconds = time.perf_counter() - started

    import json
    import math
    import statistics

    times: list[float] = []
    until = time.perf_counter() + float(seconds)
    while not times or time.perf_counter() < until:
        start = time.perf_counter()
        translator(frame)
        times.append(time.perf_counter() - start)
    engine = translator.engine
    assert engine is not None, "the frame is nearly uniform"
    told = {
        "backend": engine.backend,
        "precision": engine.precision,
        "parity_db": None if math.isinf(engine.parity_db) else engine.parity_db,
        "first_frame_seconds": first_frame_seconds,
        "frame_seconds": statistics.median(times),
        "peak_memory_bytes": memory.peak_process_bytes(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
