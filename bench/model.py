"""Generators: this project's backends beside what else a user would run them with, in turn, on this machine.

Every contender runs in a process of its own, in the configuration that its documentation recommends. Its first output
is held against eager float32 on a real frame, and one that is further off than its precision allows is listed, not
timed. Then come rounds: the machine's peaks, and each contender for a moment, in an order that changes. Ratios are
taken within rounds, because the speed of a shared machine drifts. After every few rounds all processes are started
anew, because what a process finds when it starts (where its memory lies, what its library picks by trying) stays with
it for its life and makes up to a fifth: a spread over rounds of the same processes would not know of it. One unit of
work is one frame, input and output in the contender's own format. The time to the first frame counts from the start of
a fresh process, with conversions done before, and compilation counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import compare, instruction_sets, results
from bench.contenders import Contender, contenders
from bench.generators import (
    GENERATORS,
    SIZES,
    generator_input,
    make_generator,
    output_bytes,
    real_frame,
)
from bench.peaks import Probe
from bench.peers import WEIGHTS
from bench.processes import ContenderError, WorkerProcess
from bench.results import Results, Row
from bench.standing import share_of_peak, standing
from bench.worker import EXAMPLE
from engine import _native
from engine.checkpoint import save_generator
from engine.device import choose_device
from engine.errors import EngineError
from engine.generators.flops import count_flops
from engine.parity import PARITY_DB, psnr_db
from engine.precision import PRECISIONS, is_emulated
from engine.sizes import parse_size
from engine.styles import DEFAULT_STYLE

# What `--quick` measures: the bundled style at the sample clip's size.
QUICK = ((DEFAULT_STYLE, "640x360"),)

# What is measured where nothing is said: a choice with every size in it; all tables together take hours.
FULL = (
    ("resnet9-64", SIZES[0]),
    ("resnet9-64", SIZES[1]),
    ("resnet6-16", SIZES[1]),
    ("resnet6-16", SIZES[2]),
    ("unet256", SIZES[0]),
    ("transformer", SIZES[1]),
    ("srvgg", "320x180"),
    ("rrdbnet", "160x90"),
)

# A contender this many times slower than the fastest of its group (in float32: the fastest in float32) sits out the
# larger sizes of that generator; if a frame takes it this long too, it takes part in the first round only.
FAR_BEHIND = 4.0
SLOW_SECONDS = 1.0

# Frames that count in a contender's turn, however slow it is, so that none is judged by a single one.
_LEAST_FRAMES = 2

_TIMEOUT_SECONDS = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench model`."""
    parser.add_argument(
        "--generators", nargs="+", metavar="NAME", help=f"{', '.join(GENERATORS)}, or checkpoint files (default: all)"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="WxH",
        help=f"frame sizes (default: {', '.join(SIZES)} of --generators, else a choice)",
    )
    parser.add_argument("--contenders", nargs="+", metavar="TEXT", help="only those whose name holds one of the texts")
    parser.add_argument("--quick", action="store_true", help="one generator at one size, three rounds")
    parser.add_argument("--rounds", type=int, help="(default: 6, or 3 if quick)")
    parser.add_argument("--starts", type=int, help="of every contender's process (default: 3, or 1 if quick)")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of a contender in each round (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument(
        "--isa",
        metavar="TIER",
        help=f"hold ours and the peers that allow it to this instruction set: {', '.join(_native.supported_isas())}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures, after every group")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="fail on a regression against these figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures group after group and prints a table of each."""
    device = choose_device(arguments.device).type
    environment = instruction_sets.variables(arguments.isa)
    chosen = _chosen_contenders(device, arguments.contenders, arguments.isa)
    unforced = instruction_sets.unforced(chosen, arguments.isa)
    if arguments.isa:
        _progress(f"held to {arguments.isa}; not these, which have no switch for it: {', '.join(unforced) or 'none'}")
    groups = _chosen_groups(arguments)
    rounds = arguments.rounds or (3 if arguments.quick else 6)
    starts = min(rounds, arguments.starts or (1 if arguments.quick else 3))
    torch.set_num_threads(arguments.threads)
    report = results.start(
        "model",
        threads=arguments.threads,
        device=device,
        arguments={
            "rounds": rounds,
            "starts": starts,
            "seconds": arguments.seconds,
            "groups": [" ".join(group) for group in groups],
            "isa": arguments.isa,
            "unforced": unforced,
        },
    )
    report.machine["isa"] = arguments.isa or report.machine["isa"]
    with tempfile.TemporaryDirectory(prefix="streamgan-bench-") as cache:
        if any(contender.uses_inductor for contender in chosen):
            _examine_machine(Path(cache), environment)
        settings = Settings(
            arguments.threads, device, rounds, starts, arguments.seconds, Path(cache), arguments.isa, environment
        )
        far_behind: dict[tuple[str, str], str] = {}  # (generator, contender) -> why it sits out from now on
        for generator, size in groups:
            excused = {contender: reason for (name, contender), reason in far_behind.items() if name == generator}
            rows, peaks = measure_group(generator, size, chosen, settings, excused)
            for row in rows:
                behind = _times_slower(row, rows)
                if behind > FAR_BEHIND:
                    far_behind[generator, row.contender] = (
                        f"not run: {behind:.0f} times slower than the fastest at {size}"
                    )
            report.rows += rows
            report.peaks += peaks
            print_group(report, f"{generator} {size}")
            if arguments.json:
                report.write(arguments.json)
    if arguments.compare:
        compare.check_against(report, arguments.compare)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How all groups of a run are measured.

    Attributes:
        cache: what every contender's compiler cache begins with.
        isa: the instruction set that contenders are held to; None: whatever the processor has.
        environment: variables of every contender's process.
    """

    threads: int
    device: str
    rounds: int
    starts: int
    seconds: float
    cache: Path
    isa: str | None = None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Entry:
    """A contender that is ready: its process and its row."""

    process: WorkerProcess
    row: Row


def measure_group(
    name: str, size: str, chosen: Sequence[Contender], settings: Settings, excused: Mapping[str, str]
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Prepares, checks and times all contenders on one generator at one frame size.

    Args:
        excused: names of contenders that are not run, and why.

    Returns:
        One row per contender, and the peaks of each round.
    """
    group = f"{name} {size}"
    generator = make_generator(name)
    example = generator_input(generator, real_frame(*parse_size(size)))
    gflop = count_flops(generator, example.shape) / 1e9
    with torch.inference_mode():
        expected = output_bytes(generator, generator(torch.from_numpy(example)).numpy())
    rows = [Row(group, one.name, one.ours, facts={"precision": one.precision, "gflop": gflop}) for one in chosen]
    peaks: list[dict[str, Any]] = []
    order = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="streamgan-bench-") as scratch:
        for start in range(settings.starts):
            entries: list[_Entry] = []
            try:
                for number, (contender, row) in enumerate(zip(chosen, rows, strict=True), 1):
                    if row.failure:
                        continue
                    try:
                        if contender.name in excused:
                            raise ContenderError(excused[contender.name])
                        process = _prepare(contender, row, Path(scratch), generator, example, settings)
                    except EngineError as error:
                        row.failure = str(error)
                    else:
                        entries.append(_Entry(process, row))
                        _check(row, contender, generator, Path(scratch), expected)
                    if start == 0:
                        _progress(f"{group} [{number}/{len(chosen)}] {contender.name}: {_said_of(row)}")
                rounds = range(*(settings.rounds * end // settings.starts for end in (start, start + 1)))
                peaks += _run_rounds(
                    group, [entry for entry in entries if not entry.row.failure], rounds, order, settings
                )
            finally:
                for entry in entries:
                    entry.process.close()
    return rows, peaks


def _prepare(
    contender: Contender, row: Row, scratch: Path, generator: Any, example: np.ndarray, settings: Settings
) -> WorkerProcess:
    """Converts what is yet to be converted, and starts the process that will be timed, up to its first frame.

    The time to the first frame is that of the first start: later ones find what the compiler has kept.
    """
    reason = contender.unavailable(threads=settings.threads, device=settings.device)
    if reason:
        raise ContenderError(reason)
    spec = contender.spec(threads=settings.threads, device=settings.device)
    implementation = contender.implementation()
    per_precision = getattr(implementation, "PER_PRECISION", False)
    folder = scratch / (f"{contender.module}-{contender.precision}" if per_precision else contender.module)
    request: dict[str, Any] = {
        "folder": str(folder),
        "contender": dataclasses.asdict(contender),
        "spec": dataclasses.asdict(spec),
        "timeout_seconds": _TIMEOUT_SECONDS,
    }
    # A compiler cache of its own, so that the first frame comes as late as it does for a user's new generator.
    cache = scratch / f"cache-{contender.name}".replace(" ", "-")
    shutil.copytree(settings.cache, cache, dirs_exist_ok=True)
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(cache), **settings.environment}
    if not folder.exists():
        folder.mkdir()
        save_generator(generator, folder / WEIGHTS)
        np.save(folder / EXAMPLE, example)
        if hasattr(implementation, "convert"):
            process = WorkerProcess(threads=settings.threads, environment=environment)
            try:
                seconds = process.ask(do="convert", **request)["seconds"]
            finally:
                process.close()
            (folder / "seconds").write_text(str(seconds))
    if (folder / "seconds").exists():
        row.facts["conversion_seconds"] = float((folder / "seconds").read_text())
    elif hasattr(implementation, "convert"):
        raise ContenderError("its conversion failed before")
    process = WorkerProcess(threads=settings.threads, environment=environment)
    try:
        answer = process.ask(do="load", output=str(scratch / "output.npy"), **request)
        process.ask(do="rest", timeout_seconds=_TIMEOUT_SECONDS)
    except BaseException:
        process.close()
        raise
    row.facts.setdefault("first_frame_seconds", answer["ready"] - process.started)
    _note_peak_memory(row, answer)
    return process


def _note_peak_memory(row: Row, answer: Mapping[str, Any]) -> None:
    """The largest of all its processes so far; None where the system doesn't tell."""
    now, before = answer["peak_memory_bytes"], row.facts.get("peak_memory_bytes")
    row.facts["peak_memory_bytes"] = now if now is None else max(now, before or 0)


def _examine_machine(cache: Path, variables: Mapping[str, str]) -> None:
    """Lets torch's compiler find out what this machine can do, some ten seconds that a machine's owner waits once."""
    program = "import torch; torch.compile(lambda x: x + 1)(torch.ones(64))"
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), **variables}
    subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)


def _check(row: Row, contender: Contender, generator: Any, scratch: Path, expected: np.ndarray) -> None:
    """Marks the row as failed if the contender's output is further from eager float32 than its precision allows.

    A peer is held to the loosest limit: it counts beside those of ours whose limit it keeps.
    """
    output = np.load(scratch / "output.npy")
    if output.shape != expected.shape:
        row.failure = f"its output is {list(output.shape)} instead of {list(expected.shape)}"
        return
    parity = psnr_db(output_bytes(generator, output), expected)
    row.facts.setdefault("psnr_db", parity if np.isfinite(parity) else None)
    limit = PARITY_DB[contender.precision if contender.ours else "fast"]
    if parity < limit:
        row.failure = f"not timed: {parity:.1f} dB of eager float32, and it has to reach {limit:.0f}"


def _run_rounds(
    group: str, entries: list[_Entry], numbers: range, order: random.Random, settings: Settings
) -> list[dict[str, Any]]:
    """Times all entries in turn; fills in their rows. Returns the peaks of each round."""
    probe = Probe(threads=settings.threads, device=settings.device, isa=settings.isa)
    peaks = []
    for number in numbers:
        peaks.append({"group": group, "round": number, **probe.measure()})
        for entry in order.sample(entries, len(entries)):
            entry.row.seconds.append(_turn(entry, number, entries, settings))
        _progress(f"{group}: round {number + 1} of {settings.rounds}")
    return peaks


def _turn(entry: _Entry, number: int, entries: list[_Entry], settings: Settings) -> float | None:
    """Median seconds of a frame in this round; None if the entry sits it out or failed."""
    first = (entry.row.seconds[0] or 0.0) if number > 0 else 0.0
    is_far_behind = first > SLOW_SECONDS and _times_slower(entry.row, [other.row for other in entries]) > FAR_BEHIND
    if entry.row.failure or is_far_behind:
        return None
    try:
        answer = entry.process.ask(
            do="run", seconds=settings.seconds, least=_LEAST_FRAMES, timeout_seconds=_TIMEOUT_SECONDS
        )
        entry.process.ask(do="rest", timeout_seconds=_TIMEOUT_SECONDS)
    except ContenderError as error:
        entry.row.failure = str(error)
        return None
    _note_peak_memory(entry.row, answer)
    return statistics.median(answer["seconds"])


def _times_slower(row: Row, rows: Sequence[Row]) -> float:
    """How many times slower than the fastest of `rows` it is, by medians of the rounds so far; 0 if it has none.

    In float32, than the fastest in float32: the best of these is wanted too.
    """
    is_float32 = row.facts["precision"] == "fp32"
    rivals = [other for other in rows if not is_float32 or other.facts["precision"] == "fp32"]
    medians = [statistics.median(other.measured) for other in rivals if other.measured]
    return statistics.median(row.measured) / min(medians) if row.measured else 0.0


def print_group(report: Results, group: str) -> None:
    """Prints the table of one group, fastest first, and below it who did not take part, and why."""
    rows = report.group(group)
    timed = sorted((row for row in rows if row.measured), key=lambda row: statistics.median(row.measured))
    gflop = rows[0].facts["gflop"]
    print(f"\n{group}, {gflop:.1f} GFLOP a frame, {report.machine['threads']} threads on {report.machine['device']}")
    if report.arguments.get("isa"):
        print(f"held to {report.arguments['isa']}, except (-): {', '.join(report.arguments['unforced']) or 'none'}")
    print(f"{'':<26}{'ms':>9}{'95 % of median':>18}{'of best peer':>14}{'GFLOP/s':>9}{'of peak':>9}", end="")
    print(f"{'PSNR dB':>9}{'MB':>7}{'1st frame s':>13}")
    for row in timed:
        median, low, high = results.summary(row.measured)
        against = standing(report, row)
        ratio = f"{against[0]:.2f}x" if against else ""
        psnr, memory = row.facts.get("psnr_db"), row.facts.get("peak_memory_bytes")
        share = share_of_peak(report, row)
        print(
            f"{_mark(report, row) + row.contender:<26}{median * 1e3:>9.1f}"
            f"{f'{low * 1e3:.1f}-{high * 1e3:.1f}':>18}{ratio:>14}{gflop / median:>9.0f}"
            f"{f'{share:.0%}' if share else '':>9}{'inf' if psnr is None else f'{psnr:.1f}':>9}"
            f"{f'{memory / 1e6:.0f}' if memory else '':>7}{row.facts['first_frame_seconds']:>13.1f}"
        )
    for row in rows:
        if row.failure:
            print(f"  {row.contender}: {row.failure}")


def _chosen_groups(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    if arguments.quick and not (arguments.generators or arguments.sizes):
        return list(QUICK)
    if not (arguments.generators or arguments.sizes):
        return list(FULL)
    sizes = arguments.sizes or SIZES
    for size in sizes:
        parse_size(size)
    return [(generator, size) for generator in arguments.generators or GENERATORS for size in sizes]


def _mark(report: Results, row: Row) -> str:
    return "* " if row.ours else "- " if row.contender in report.arguments.get("unforced", ()) else "  "


def _chosen_contenders(device: str, texts: Sequence[str] | None, isa: str | None) -> list[Contender]:
    emulated = tuple(name for name in PRECISIONS if is_emulated(name, torch.device(device)))
    if instruction_sets.emulates_bf16(isa):
        emulated += ("bf16", "fast")
    everyone = contenders(device, emulated=emulated)
    chosen = [contender for contender in everyone if not texts or any(text in contender.name for text in texts)]
    if not chosen:
        names = ", ".join(contender.name for contender in everyone)
        raise EngineError(f"no contender has {' or '.join(texts or ())!r} in its name: there are {names}")
    return chosen


def _said_of(row: Row) -> str:
    if row.failure:
        return row.failure
    psnr = row.facts["psnr_db"]
    parity = "exact" if psnr is None else f"{psnr:.1f} dB"
    return f"first frame after {row.facts['first_frame_seconds']:.1f} s, {parity}"


def _progress(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
