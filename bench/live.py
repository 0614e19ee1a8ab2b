"""The page of `streamgan serve` in headless Chromium, from capture to display: `python -m bench live`.

`--window`: the window of `streamgan run 0 --show` instead, see `bench.live_window`.

The camera is a file whose frames carry their number: a row of black and white squares along the upper edge, which a
style changes in colour but not in order of brightness (a black and a white one beside them are the measure). The page
notes when each numbered frame was captured and when its translation is shown, both on the browser's clock.

Peer: the same page, server and generator as in aiortc's example of a server, in one process: each frame that arrives is
translated in turn, frames that come meanwhile wait, and each viewer has an encoder of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bench import results
from bench.numbers import BITS, SQUARES, mark
from bench.results import Row
from engine.errors import EngineError
from engine.samples import SAMPLE
from engine.sizes import parse_size
from engine.styles import DEFAULT_STYLE
from engine.video import open_source
from engine.video.color import MATRIX_SMPTE170M, Color, FromBgr

# How long a server may take to end.
_END_SECONDS = 10.0

CONTENDERS = {"streamgan serve": "engine.serve", "aiortc example": "bench.live_peer"}

_WINDOW = "streamgan run 0 --show"

# Notes [capture time of number n], and [time shown, age] of each translated frame, in ms.
_MEASURE = """(() => {
  const squares = %(squares)d, captured = new Map(), shown = [];
  const canvas = document.createElement('canvas');
  canvas.width = squares; canvas.height = 1;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.imageSmoothingEnabled = false;
  const read = video => {
    const side = video.videoWidth / squares;
    context.drawImage(video, 0, side / 2, video.videoWidth, 1, 0, 0, squares, 1);
    const data = context.getImageData(0, 0, squares, 1).data;
    const light = i => data[4 * i] + data[4 * i + 1] + data[4 * i + 2];
    const black = light(0), white = light(1);
    if (white - black < 60) return null;
    let number = 0;
    for (let i = 2; i < squares; i++) number = 2 * number + (light(i) > (black + white) / 2);
    return number ^ number >> 1 ^ number >> 2 ^ number >> 3 ^ number >> 4 ^ number >> 5 ^ number >> 6 ^ number >> 7;
  };
  const watch = (id, note) => {
    const video = document.getElementById(id);
    const next = (now, frame) => {
      const number = read(video);
      if (number !== null) note(number, now, frame);
      video.requestVideoFrameCallback(next);
    };
    video.requestVideoFrameCallback(next);
  };
  watch('source', (number, now, frame) => captured.set(number, frame.captureTime || now));
  // Numbers come again, and the source shows not each of them each time: then its neighbours tell when it was captured.
  const capturedAt = number => {
    let latest = -Infinity;
    for (let by = -4; by <= 4; by++) {
      const time = captured.get((number + by + %(numbers)d) %% %(numbers)d);
      if (time !== undefined) latest = Math.max(latest, time - by * %(interval_ms)f);
    }
    return latest;
  };
  watch('result', (number, now, frame) => {
    const age = frame.expectedDisplayTime - capturedAt(number);
    if (Number.isFinite(age)) shown.push([frame.expectedDisplayTime, age]);
  });
  setInterval(() => { state.heard = performance.now(); }, 500);  // the peer has no status
  window.takeShown = () => shown.splice(0);
})()"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench live`."""
    parser.add_argument("--size", type=parse_size, default=(640, 360), metavar="WxH", help="(default: 640x360)")
    parser.add_argument(
        "--rate",
        type=int,
        nargs="+",
        default=[60],
        help="frames per second of the camera, one or several (default: 60)",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each contender (default: %(default)s)")
    parser.add_argument("--warm-seconds", type=float, default=10.0, help="that don't count (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--style", default=DEFAULT_STYLE, help="bundled style or checkpoint (default: %(default)s)")
    parser.add_argument("--only", choices=list(CONTENDERS), help="one contender alone")
    parser.add_argument("--watchers", type=int, default=0, metavar="N", help="further pages that only watch")
    parser.add_argument("--window", action="store_true", help="the window instead of the page")
    parser.add_argument("--options", default="", metavar="TEXT", help="further options of the window's `streamgan run`")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results, after every round")


def run(arguments: argparse.Namespace) -> None:
    """Measures and prints the table."""
    names = ("size", "rate", "seconds", "rounds", "style", "watchers", "window", "options")
    told = {name: getattr(arguments, name) for name in names}
    report = results.start("live", threads=torch.get_num_threads(), device="cpu", arguments=told)
    width, height = arguments.size
    contenders = [_WINDOW] if arguments.window else [arguments.only] if arguments.only else list(CONTENDERS)
    groups = {rate: f"{width}x{height}, camera at {rate} frames/s" for rate in arguments.rate}
    ours = (_WINDOW, "streamgan serve")
    rows = {(rate, name): Row(group, name, ours=name in ours) for rate, group in groups.items() for name in contenders}
    report.rows = list(rows.values())
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for (rate, name), row in rows.items():
                try:
                    measured = _measured(name, Path(folder), rate, arguments)
                except EngineError as error:
                    row.failure, measured = str(error), {}
                row.seconds.append(measured.pop("seconds", None))
                for fact, value in measured.items():
                    row.facts.setdefault(fact, []).append(value)
                print(_line(row), file=sys.stderr, flush=True)
                if arguments.json:
                    report.write(arguments.json)
    for group in report.groups:
        print(f"{group}, style {Path(arguments.style).stem}")
        for row in report.group(group):
            print(_line(row))


def _measured(contender: str, folder: Path, rate: int, arguments: argparse.Namespace) -> dict[str, Any]:
    if contender != _WINDOW:
        camera = folder / f"{rate}.y4m"
        if not camera.exists():
            numbered_film(camera, arguments.size, rate)
        return asyncio.run(_measure(CONTENDERS[contender], camera, rate, arguments))
    from bench.live_window import measure

    others = ["--style", arguments.style, *shlex.split(arguments.options)]
    return measure(rate, arguments.size, arguments.seconds, arguments.warm_seconds, others)


def numbered_film(path: Path, size: tuple[int, int], rate: int) -> Path:
    """Writes 256 frames of the sample clip, each with its number in its upper edge, as Y4M."""
    width, height = size
    source = open_source(str(SAMPLE))
    images = [cv2.resize(np.asarray(frame.image), size, interpolation=cv2.INTER_AREA) for frame in source]
    source.close()
    convert = FromBgr(Color(matrix=MATRIX_SMPTE170M), "yuv420p")
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{rate}:1 Ip A1:1 C420jpeg\n".encode())
        for number in range(1 << BITS):
            image = images[number % len(images)].copy()
            mark(image, number)
            frame = convert(image)
            file.write(b"FRAME\n")
            for plane in frame.planes:
                rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                file.write(np.ascontiguousarray(rows[:, : plane.width]).tobytes())
    return path


@contextlib.asynccontextmanager
async def _served(module: str, style: str, folder: Path) -> AsyncIterator[tuple[str, int]]:
    """A server process: its address and number."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--port", "0", "--style", style),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        if not url:
            raise EngineError(f"{module} does not start")
        yield url, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), _END_SECONDS)
        except asyncio.TimeoutError:  # a thread of aiortc may hang
            process.kill()
            await process.wait()


async def _measure(module: str, camera: Path, rate: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Ages in ms and rates of one contender, and its memory in bytes.

    Raises:
        EngineError: nothing is shown.
    """
    from bench.chromium import CHROMIUM, chromium

    if CHROMIUM is None:
        raise EngineError("Chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        async with _served(module, arguments.style, Path(folder)) as (url, number), chromium(camera=camera) as browser:
            page = await browser.page(url)
            await page.until("document.querySelectorAll('#styles img').length > 0")
            await page.js("document.getElementById('camera').click()")
            await page.until("document.getElementById('result').videoWidth > 0", 60)
            settings = {"squares": SQUARES, "numbers": 1 << BITS, "interval_ms": 1e3 / rate}
            await page.js(_MEASURE % settings)
            constraints = json.dumps({"frameRate": {"ideal": rate}})
            await page.js(f"state.stream.getVideoTracks()[0].applyConstraints({constraints})")
            watchers = []
            for _ in range(arguments.watchers):
                link = await page.until("state.watch")
                watchers.append(await browser.page(link))
            await asyncio.sleep(arguments.warm_seconds)
            await page.js("takeShown() && 0")
            first_bytes, first_cpu = _memory_bytes(number), _cpu_seconds(number)
            shown: list[list[float]] = []
            estimates: list[int] = []
            begin = asyncio.get_running_loop().time()
            while (elapsed := asyncio.get_running_loop().time() - begin) < arguments.seconds:
                await asyncio.sleep(min(5.0, arguments.seconds - elapsed) + 0.01)
                shown += await page.js("takeShown()")
                words = await page.js("document.getElementById('figures').textContent")
                if match := re.search(r"picture (\d+) ms old", words):
                    estimates.append(int(match[1]))
            status = await page.js("JSON.stringify(state.server)")
            cpu = _cpu_seconds(number) - first_cpu
            last_bytes = _memory_bytes(number)
    if len(shown) < 2:
        raise EngineError("no translated frame is shown, or its number can't be read")
    times, ages = np.array(shown).T
    seconds = (times[-1] - times[0]) / 1e3 / (len(times) - 1)
    told = json.loads(status)
    return {
        "seconds": seconds,
        "fps": 1 / seconds,
        "age_ms_p50": float(np.percentile(ages, 50)),
        "age_ms_p95": float(np.percentile(ages, 95)),
        "age_ms_slope_per_minute": float(np.polyfit(times / 60e3, ages, 1)[0]),
        "age_ms_stated": statistics.median(estimates) if estimates else None,
        "server_fps": told.get("fps"),
        "cpu_share": cpu / arguments.seconds,
        "first_bytes": first_bytes,
        "last_bytes": last_bytes,
        "ages_ms": [round(age, 1) for age in ages[:: max(1, len(ages) // 500)]],
    }


def _memory_bytes(number: int) -> int:
    return int(Path(f"/proc/{number}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_seconds(number: int) -> float:
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _line(row: Row) -> str:
    if not row.facts:
        return f"{row.contender:<18}{row.failure or 'not measured'}"
    last = {name: values[-1] for name, values in row.facts.items()}
    fps, p50, p95, slope = (
        statistics.median(row.facts[name]) for name in ("fps", "age_ms_p50", "age_ms_p95", "age_ms_slope_per_minute")
    )
    line = f"{row.contender:<18}{fps:5.1f} frames/s shown, age p50 {p50:.0f} p95 {p95:.0f} ms, {slope:+.1f} ms a minute"
    if row.contender == _WINDOW:
        counts = ", ".join(f"{last[name]} {name}" for name in ("received", "shown", "dropped", "skipped"))
        size = " at {}x{}".format(*last["internal_size"]) if last["internal_size"] else ""
        return f"{line}; {counts}; {last['engine']}{size}, states {last['age_ms_stated']:.0f} ms"
    memory = last["last_bytes"] - last["first_bytes"]
    return (
        line
        + (f", the page says {last['age_ms_stated']:.0f} ms" if last["age_ms_stated"] is not None else "")
        + f", server {last['cpu_share']:.2f} cores, memory {memory / 2**20:+.1f} MiB"
    )
