"""What a pipeline tells of its work: where it stands, and what it did."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.runners.base import RunnerInfo


@dataclasses.dataclass
class StageTime:
    """Time that one stage spent working, waits for its neighbours left out."""

    busy_seconds: float = 0.0
    frames: int = 0

    def add(self, seconds: float, frames: int = 1) -> None:
        self.busy_seconds += seconds
        self.frames += frames

    @property
    def ms_per_frame(self) -> float:
        return 1e3 * self.busy_seconds / self.frames if self.frames else 0.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a running pipeline stands."""

    frames: int
    stages: dict[str, StageTime]

    @property
    def slowest_stage(self) -> str:
        return max(self.stages, key=lambda name: self.stages[name].ms_per_frame)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a pipeline did.

    Attributes:
        output: what was written; None if nothing is kept.
        completed: the source was translated to its end; False if it was stopped.
        frames: frames written.
        skipped: those of them that repeat the translation before, because the source had not changed.
        dropped: frames that the source had, and that were not written: a newer one came first, or the end.
        seconds: from the start of decoding to the closed output, the choice of an engine included.
        steady_fps: frames per second after the first frame, which carries the start-up.
        stage_ms: working time per frame of each stage.
        latency_ms: p50, p95 and p99 of the time from a decoded (live: captured) frame to the written one, last 10,000.
        batch: frames per call of the generator.
        engine: what ran the generator, at last; None if there was no frame.
        peak_memory_bytes: largest resident memory of the process.
        warnings: what the source skipped and the sink could not keep.
    """

    output: Path | None
    completed: bool
    frames: int
    skipped: int
    dropped: int
    seconds: float
    steady_fps: float
    stage_ms: dict[str, float]
    latency_ms: dict[str, float]
    batch: int
    engine: RunnerInfo | None
    peak_memory_bytes: int
    warnings: list[str]

    @property
    def shown(self) -> int:
        """Frames that were translated and written."""
        return self.frames - self.skipped

    @property
    def received(self) -> int:
        """Frames that the source had: each one was shown, dropped or skipped."""
        return self.frames + self.dropped


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99; nothing of nothing."""
    if not values:
        return {}
    p50, p95, p99 = np.percentile(np.asarray(values), [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}
