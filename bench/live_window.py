"""The window of `streamgan run 0 --show`, from capture to display: `python -m bench live --window`.

The window is OpenCV's, on an X server without a screen (Xvfb) whose picture is a file in memory. This process looks at
that file a thousand times a second, and notes when it shows which number. So what is measured ends where the pixels are
in the display's memory: a monitor adds up to one of its own frames, and a camera what it takes before it hands over.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.numbers import BITS, SQUARES, number_of
from engine.errors import EngineError

# The words over the picture end above this share of the height of a square.
_ROW = 0.8

_LOOK_SECONDS = 1e-3

# How long the window may take to start and to end.
_END_SECONDS = 60.0


def measure(
    rate: float, size: tuple[int, int], seconds: float, warm_seconds: float, others: list[str]
) -> dict[str, Any]:
    """Ages in ms and rates of the window with a camera of this rate.

    Args:
        others: further arguments of `engine.run`.

    Raises:
        EngineError: there is no Xvfb, or nothing is shown.
    """
    with tempfile.TemporaryDirectory() as folder, _display(size, Path(folder)) as (display, picture):
        captured, summary = Path(folder) / "captured.json", Path(folder) / "summary.json"
        command = [sys.executable, "-m", "bench.live_camera", "--size", f"{size[0]}x{size[1]}", "--rate", str(rate)]
        command += ["--seconds", str(warm_seconds + seconds), "--captured", str(captured), "--json", str(summary)]
        with (Path(folder) / "log").open("w+") as log:
            environment = {**os.environ, "DISPLAY": display, "TMPDIR": folder}
            child = subprocess.Popen([*command, "--quiet", *others], env=environment, stdout=log, stderr=log)
            try:
                shown = _watch(picture, child, warm_seconds + seconds + _END_SECONDS)
            finally:
                if child.poll() is None:
                    child.kill()
                child.wait()
            log.seek(0)
            if child.returncode or not shown:
                lines = log.read().strip().splitlines()
                raise EngineError(lines[-1] if lines else "the window does not show the camera's numbers")
        times = json.loads(captured.read_text())
        told = json.loads(summary.read_text())["results"][0]
    first = times[0][1] + warm_seconds
    ages = _ages([(number, moment) for number, moment in shown if moment >= first], times)
    if len(ages) < 2:
        raise EngineError("no translated frame is shown, or its number can't be read")
    moments, milliseconds = np.array(ages).T
    between = float(np.diff(moments).mean())
    return {
        "seconds": between,
        "fps": 1 / between,
        "age_ms_p50": float(np.percentile(milliseconds, 50)),
        "age_ms_p95": float(np.percentile(milliseconds, 95)),
        "age_ms_slope_per_minute": float(np.polyfit(moments / 60, milliseconds, 1)[0]),
        "age_ms_stated": told["latency_ms"]["p50"],
        "stage_ms": told["stage_ms"],
        "engine": f"{told['backend']} {told['precision']}",
        "internal_size": told["internal_size"],
        "camera_frames": len(times) - 1,  # the first told the size
        **{name: told[name] for name in ("received", "shown", "dropped", "skipped")},
        "ages_ms": [round(age, 1) for age in milliseconds[:: max(1, len(milliseconds) // 500)]],
    }


@contextlib.contextmanager
def _display(size: tuple[int, int], folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """A display of this size: its name, and its picture as uint8 [H, W, 4]."""
    if shutil.which("Xvfb") is None:
        raise EngineError("Xvfb is not installed: apt-get install xvfb")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{size[0]}x{size[1]}x24", "-nolisten", "tcp"]
    server = subprocess.Popen([*command, "-fbdir", str(folder)], pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as numbers:
            number = numbers.readline().strip()
        if not number:
            raise EngineError("Xvfb does not start")
        with (folder / "Xvfb_screen0").open("rb") as file:
            yield f":{number}", _picture(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def _picture(memory: mmap.mmap) -> np.ndarray:
    """The pixels of a file in the format of xwd."""
    header = struct.unpack(">25I", memory[:100])
    header_bytes, width, height, row_bytes, colors = (header[place] for place in (0, 4, 5, 12, 19))
    rows = np.frombuffer(memory, np.uint8, row_bytes * height, header_bytes + 12 * colors)
    return rows.reshape(height, row_bytes // 4, 4)[:, :width]


def _watch(picture: np.ndarray, child: subprocess.Popen[bytes], most_seconds: float) -> list[tuple[int, float]]:
    """Each number that is shown, and when it was seen first, until the child has ended."""
    shown: list[tuple[int, float]] = []
    row = picture[round(_ROW * picture.shape[1] / SQUARES)]
    candidate: tuple[int | None, float] = None, 0.0
    end = time.perf_counter() + most_seconds
    while child.poll() is None and time.perf_counter() < end:
        for _ in range(100):
            moment, number = time.perf_counter(), number_of(row)
            if number is not None and (not shown or number != shown[-1][0]):
                if number == candidate[0]:  # seen twice: no mixture of two pictures
                    shown.append((number, candidate[1]))
                else:
                    candidate = number, moment
            time.sleep(_LOOK_SECONDS)
    return shown


def _ages(shown: list[tuple[int, float]], captured: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """When each number was shown, and ms since the latest capture of a frame with it."""
    ages = []
    by_number: dict[int, list[float]] = {number: [] for number in range(1 << BITS)}
    for number, moment in captured:
        by_number[number].append(moment)
    for number, moment in shown:
        before = [capture for capture in by_number[number] if capture <= moment]
        if before:
            ages.append((moment, 1e3 * (moment - before[-1])))
    return ages
