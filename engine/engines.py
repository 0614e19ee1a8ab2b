"""What is known of an engine that runs or was tried; needs no torch."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class RunningEngine:
    """A generator made ready for frames of one size.

    Attributes:
        backend, precision: what it runs on and in.
        parity_db: PSNR against eager float32 on the frame it was proven on; infinite for eager float32 itself.
        frame_ms: measured time of one frame, conversions included.
        ready_seconds: what it took to build or load it.
        is_stand_in: whether it only stands in for the chosen engine, on a frame that is nearly uniform.
        proven_before: whether it was proven in an earlier run, on a frame of the same size.
    """

    backend: str
    precision: str
    _: dataclasses.KW_ONLY
    parity_db: float = math.inf
    frame_ms: float = math.nan
    ready_seconds: float = 0.0
    is_stand_in: bool = False
    proven_before: bool = False

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"

    @property
    def runs_float32(self) -> bool:
        """Whether it is what stands in on nearly uniform frames."""
        return (self.backend, self.precision) == ("eager", "fp32")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of what `--explain` shows.

    Attributes:
        frame_ms, parity_db, ready_seconds: as in RunningEngine; None where it was not tried.
        remark: why it was not tried or does not run.
        chosen: whether it is the one that runs.
    """

    backend: str
    precision: str
    frame_ms: float | None = None
    parity_db: float | None = None
    ready_seconds: float | None = None
    remark: str = ""
    chosen: bool = False


def row_of(engine: RunningEngine, *, chosen: bool) -> Row:
    """The line of an engine that was tried."""
    return Row(
        engine.backend,
        engine.precision,
        frame_ms=engine.frame_ms,
        parity_db=engine.parity_db,
        ready_seconds=engine.ready_seconds,
        chosen=chosen,
    )


def describe_rows(rows: list[Row]) -> list[str]:
    """The rows as lines of a table for people."""
    lines = [f"  {'engine':<20} {'ms a frame':>10} {'parity':>9} {'ready in':>9}"]
    for row in rows:
        name = f"{'*' if row.chosen else ' '} {row.backend} {row.precision}"
        if row.frame_ms is None:
            lines.append(f"{name:<22} {row.remark}")
            continue
        parity = "" if row.parity_db is None else "exact" if math.isinf(row.parity_db) else f"{row.parity_db:.1f} dB"
        lines.append(f"{name:<22} {row.frame_ms:>10.1f} {parity:>9} {row.ready_seconds or 0.0:>7.1f} s")
    return lines
