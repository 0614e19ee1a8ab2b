"""Drives workers through seeds: a crash or a hang is put down to its seed, and a new worker goes on."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 20
START_SECONDS = 120
KINDS = ("video", "packets", "checkpoint")


@dataclasses.dataclass(frozen=True)
class Fault:
    """An input that did not end as it should.

    Attributes:
        kind, seed: replay it: `python -m tests.fuzz --kind KIND --seed SEED`.
        report: its first line is the same for all inputs that show the same defect.
    """

    kind: str
    seed: int
    report: str

    @property
    def title(self) -> str:
        return self.report.partition("\n")[0]


@dataclasses.dataclass
class Campaign:
    """What came of the inputs so far.

    Attributes:
        outcomes: how many inputs of each kind ended in which way.
        keep: where the inputs that show a defect are copied to; None: nowhere.
    """

    keep: Path | None = None
    outcomes: dict[str, collections.Counter[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    faults: list[Fault] = dataclasses.field(default_factory=list)

    def run(self, kind: str, seeds: Iterable[int]) -> None:
        """Tries the inputs of these seeds."""
        remaining: Iterator[int] = iter(seeds)
        more = True
        while more:
            with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
                more = self._run_worker(kind, remaining, Path(folder))

    def _run_worker(self, kind: str, seeds: Iterator[int], folder: Path) -> bool:
        """One worker's life; whether there may be more seeds after it."""
        with worker(kind, folder) as (process, answers):
            assert answers.get(timeout=START_SECONDS) == "ready", (folder / "errors").read_text()
            for seed in seeds:
                assert process.stdin is not None
                process.stdin.write(f"{seed}\n")
                process.stdin.flush()
                try:
                    line = answers.get(timeout=HANG_SECONDS)
                except queue.Empty:
                    self._note(kind, seed, "hang", f"hang\n{(folder / 'stacks').read_text()}", folder)
                    return True
                if line is None:
                    number = -process.wait(timeout=HANG_SECONDS)
                    name = signal.Signals(number).name if number > 0 else f"status {-number}"
                    complaint = (folder / "stderr").read_text(errors="replace")
                    self._note(kind, seed, "crash", f"crash: {name}\n{complaint}", folder)
                    return True
                answer = json.loads(line)
                self._note(kind, seed, answer["outcome"], answer["fault"], folder)
        return False

    def _note(self, kind: str, seed: int, outcome: str, report: str | None, folder: Path) -> None:
        self.outcomes[kind][outcome] += 1
        if report is None:
            return
        self.faults.append(Fault(kind, seed, report))
        if self.keep is not None:
            place = self.keep / f"{kind}-{seed}"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(folder / "in", place)
            (place / "report.txt").write_text(report)

    def __str__(self) -> str:
        lines = [f"{kind}: {sum(counts.values())} inputs: {dict(counts)}" for kind, counts in self.outcomes.items()]
        titles = collections.Counter((fault.kind, fault.title) for fault in self.faults)
        for (kind, title), count in titles.most_common():
            seeds = [fault.seed for fault in self.faults if (fault.kind, fault.title) == (kind, title)]
            lines.append(f"FAULT {count} x {kind}: {title}; seeds {' '.join(map(str, seeds[:5]))}")
        return "\n".join([*lines, f"{len(self.faults)} faults"])


@contextlib.contextmanager
def worker(kind: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str | None]]]:
    """A worker process and the lines that it answers, None at its end."""
    command = [sys.executable, "-m", "tests.fuzz.worker", kind, str(folder)]
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
        )
    answers: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line.strip())
        answers.put(None)

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield process, answers
    finally:
        process.kill()
        process.wait()
