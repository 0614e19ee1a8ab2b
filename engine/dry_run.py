"""What jobs would do, and how long that takes: measured on their first seconds, with nothing left behind."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.job_queue import table_of
from engine.jobs import JobRunner
from engine.stop import StopRequest
from engine.times import show_time

if TYPE_CHECKING:
    from engine.result import Progress

logger = logging.getLogger("streamgan")

# A measurement ends after so many seconds of translating, or so many frames: few enough that `--backend auto` does not
# begin to measure other backends for it.
_SECONDS, _FRAMES = 3.0, 240

_HEADINGS = ("source", "output", "size", "frames", "time", "engine")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a job would do.

    Attributes:
        frames: how many there are; None: unknown.
        seconds: how long it takes here; None: unknown.
        engine: what translates, and how fast all stages together are; or why nothing is done.
    """

    source: str
    output: str | None = None
    size: tuple[int, int] | None = None
    frames: int | None = None
    seconds: float | None = None
    engine: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        size = f"{self.size[0]}x{self.size[1]}" if self.size else ""
        frames = "?" if self.frames is None else str(self.frames)
        seconds = "?" if self.seconds is None else show_time(round(self.seconds))
        return (self.source, self.output or "", size, frames, seconds, self.engine)


class DryRun:
    """Looks at jobs instead of doing them.

    Attributes:
        plans: of each job so far.
    """

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self._speeds: dict[str, tuple[float, str]] = {}  # frames per second and engine, by what they depend on

    def look(self, runner: JobRunner, job: str) -> None:
        """Says what a job would do that `runner` runs.

        Raises:
            EngineError: it would fail.
        """
        from engine.video.partial_file import check_writable

        if _can_be_read_once(job):
            self.plans.append(Plan(job, engine="not looked at: it can be read only once"))
            return
        with contextlib.closing(runner.open_source(job)) as source:
            info, output = source.info, runner.output_of(job, source, is_dry=True)
        plan = Plan(job, str(output) if output else None, (info.width, info.height), runner.frame_count(info))
        if info.live:
            self.plans.append(dataclasses.replace(plan, engine="live"))
            return
        if output is not None and runner.options.skip_existing and output.is_file():
            self.plans.append(dataclasses.replace(plan, frames=0, seconds=0.0, engine="left out: it is there already"))
            return
        if output is not None and output.suffix and (output.parent.is_dir() or not runner.makes_folder):
            check_writable(output, overwrite=runner.options.overwrite)
        fps, engine = self._speed(job, runner, plan, output)
        seconds = plan.frames / fps if plan.frames is not None else None
        self.plans.append(dataclasses.replace(plan, seconds=seconds, engine=f"{engine}, {fps:.1f} fps"))

    def lines(self) -> list[str]:
        """The table of all plans, and their time together."""
        lines = table_of(_HEADINGS, [plan.row for plan in self.plans])
        known = [plan.seconds for plan in self.plans if plan.seconds is not None]
        if len(known) > 1:
            lines.append(f"together {show_time(round(sum(known)))}, estimated from a short measurement on this machine")
        return lines

    def _speed(self, job: str, runner: JobRunner, plan: Plan, output: Path | None) -> tuple[float, str]:
        """Frames per second of all stages, and the engine, measured once for jobs that are alike."""
        options = copy.copy(runner.options)
        of_the_job = ("source", "output", "start", "end", "frames", "jobs")
        alike = {name: value for name, value in vars(options).items() if name not in of_the_job}
        key = repr((alike, plan.size, output.suffix.lower() if output else None))
        if key not in self._speeds:
            with tempfile.TemporaryDirectory(prefix="streamgan-") as folder, _silent():
                name = output.name if output is not None and output.suffix else ""
                options.output, options.benchmark, options.show = f"{folder}/{name}", output is None, False
                options.frames = min(_FRAMES, options.frames or _FRAMES)
                options.overwrite = options.quiet = True
                options.part_seconds = 0
                self._speeds[key] = self._measure(job, JobRunner(options, StopRequest(), many=False, before=runner))
        return self._speeds[key]

    def _measure(self, job: str, trial: JobRunner) -> tuple[float, str]:
        seen: list[tuple[float, int]] = []  # moments, and how many frames were written then

        def stop(progress: Progress) -> None:
            if progress.frames:
                seen.append((time.monotonic(), progress.frames))
            if seen and seen[-1][0] - seen[0][0] > _SECONDS and trial.stop.pipeline is not None:
                trial.stop.pipeline.stop()

        trial.on_progress = stop
        trial.run(job)
        (summary,) = trial.summaries
        seconds, frames = (last - first for first, last in zip(seen[0], seen[-1], strict=True)) if seen else (0, 0)
        # A job of a few frames is over at once: then its stages count one after the other.
        fps = frames / seconds if frames and seconds else 1e3 / max(1e-3, sum(summary["stage_ms"].values()))
        return fps, f"{summary['backend']} {summary['precision']}"


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What the engine notes of a measurement is noted again when the job is done."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _can_be_read_once(source: str) -> bool:
    if source == "-":
        return True
    with contextlib.suppress(OSError):
        mode = Path(source).stat().st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)
    return False
