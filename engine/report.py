"""Tells the user of a run: its progress, and at its end a summary, also as JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import SinkError
from engine.files import written_beside

if TYPE_CHECKING:
    from engine.result import Progress, Result
    from engine.runners.base import RunnerInfo
    from engine.video.base import SourceInfo


class ProgressBar:
    """A tqdm bar with frames per second, time left and the slowest stage.

    Args:
        total: frames; None: unknown.
        initial: how many of them were done before.
        is_bursty: many frames come at once, so that the mean tells more of the speed than the latest ones.
    """

    def __init__(self, total: int | None, *, disable: bool, initial: int = 0, is_bursty: bool = False) -> None:
        from tqdm import tqdm

        class Bar(tqdm):
            monitor_interval = 0  # no thread of its own for each bar

            @property
            def format_dict(self) -> dict[str, Any]:
                values: dict[str, Any] = super().format_dict
                done = values["n"] - values["initial"]
                rate = values["rate"] or (done / values["elapsed"] if values["elapsed"] else 0.0)
                values["fps"] = f"{rate:.1f} fps"
                return values

        known = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} frames, {fps}, {remaining} left{postfix}"
        unknown = "{n_fmt} frames, {fps}, {elapsed}{postfix}"
        self._bar = Bar(
            total=total,
            initial=initial,
            smoothing=0.0 if is_bursty else 0.3,
            disable=disable,
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
            bar_format=known if total else unknown,
        )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def write(self, lines: list[str]) -> None:
        """Lines on stderr, around the bar."""
        for line in lines:
            self._bar.write(line, file=sys.stderr)

    def show(self, progress: Progress) -> None:
        slowest = progress.slowest_stage
        self.show_count(progress.frames, f"{slowest} {progress.stages[slowest].ms_per_frame:.0f} ms")

    def show_count(self, frames: int, note: str) -> None:
        """So many frames are done; the note comes behind."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(frames - self._bar.n)


def summarise(
    info: SourceInfo,
    result: Result,
    *,
    style: str,
    hardware: list[str],
    steady: float = 0.0,
    internal_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """A result as JSON values; times in ms or seconds, memory in bytes, parity in dB (null: it is the reference).

    `received` frames are those that were `shown` (translated and written), `dropped`, or `skipped` (the translation
    before was written once more). `proven_before`: the parity is of an earlier run's frame. `internal_size`: width and
    height of the frames that the generator got at last, where that is chosen by a rate; else null.
    """
    ran = result.engine
    return {
        "source": info.name,
        "output": str(result.output) if result.output else None,
        "completed": result.completed,
        "style": style,
        "steady": steady,
        "width": info.width,
        "height": info.height,
        "internal_size": list(internal_size) if internal_size else None,
        "frames": result.frames,
        "received": result.received,
        "shown": result.shown,
        "dropped": result.dropped,
        "skipped": result.skipped,
        "seconds": round(result.seconds, 3),
        "fps": round(result.steady_fps, 2),
        "stage_ms": {name: round(ms, 3) for name, ms in result.stage_ms.items()},
        "latency_ms": {name: round(ms, 2) for name, ms in result.latency_ms.items()},
        "backend": ran.backend if ran else None,
        "precision": ran.precision if ran else None,
        "parity_db": round(ran.parity_db, 2) if ran and math.isfinite(ran.parity_db) else None,
        "proven_before": ran.proven_before if ran else None,
        "batch": result.batch,
        "video_hardware": hardware,
        "peak_memory_bytes": result.peak_memory_bytes,
        "warnings": result.warnings,
    }


def print_summary(
    info: SourceInfo,
    result: Result,
    *,
    hardware: list[str],
    names_output: bool,
    steady: float = 0.0,
    internal_size: tuple[int, int] | None = None,
) -> None:
    """Prints the output's name to standard output if `names_output`, and the rest to stderr."""
    frames = "1 frame" if result.frames == 1 else f"{result.frames} frames"
    if not result.completed:
        kept = f"what was done is in {result.output}" if result.output else "nothing was written"
        print(f"stopped after {frames}; {kept}", file=sys.stderr)
    elif result.output and names_output:
        _print(str(result.output))
    if not result.frames:
        return
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in result.stage_ms.items())
    lines = [
        f"{frames} of {info.width}x{info.height} in {result.seconds:.1f} s"
        + (f", {result.steady_fps:.1f} fps once started" if result.frames > 1 else "")
        + (f", {_describe_engine(result.engine)}" if result.engine else "")
        + (f", at last translated at {internal_size[0]}x{internal_size[1]}" if internal_size else "")
        + (f", steady {steady:g}" if steady else "")
        + (f", video on {' and '.join(hardware)}" if hardware else ""),
        f"ms per frame: {stages}; latency p50 {result.latency_ms.get('p50', 0):.0f}, "
        f"p95 {result.latency_ms.get('p95', 0):.0f}, p99 {result.latency_ms.get('p99', 0):.0f} ms; "
        f"peak memory {result.peak_memory_bytes / 2**20:.0f} MiB",
        *([_describe_frames(result)] if info.live or result.skipped else []),
        *(f"note: {warning}" for warning in result.warnings),
    ]
    print("\n".join(lines), file=sys.stderr)


def _describe_frames(result: Result) -> str:
    return (
        f"of {result.received} frames {result.shown} translated, {result.dropped} dropped, "
        f"{result.skipped} skipped as nothing moved"
    )


def _describe_engine(ran: RunnerInfo) -> str:
    if not math.isfinite(ran.parity_db):
        return str(ran)
    return f"{ran} at {ran.parity_db:.1f} dB of float32" + (" in an earlier run" if ran.proven_before else "")


def check_json_target(target: str, *, taken: Iterable[str | None]) -> None:
    """Raises SinkError, before any work is done, where the summary can't be written or would replace a file in use."""
    path = Path(target)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise SinkError(f"can't write the summary to {target}: it is a folder, or its folder is missing or read-only")
    if any(other and path.resolve() == Path(other).resolve() for other in taken):
        raise SinkError(f"can't write the summary to {target}: the video or checkpoint itself has that name")


def write_json(target: str, summary: dict[str, Any]) -> None:
    """Writes the summary to a file, `-` being standard output; a file is replaced only by a complete one."""
    text = json.dumps(summary, indent=2) + "\n"
    if target == "-":
        _print(text, end="")
        return
    try:
        with written_beside(Path(target)) as part:
            part.write_text(text)
    except OSError as error:
        raise SinkError(f"can't write the summary to {target}: {error.strerror}") from error


def _print(text: str, *, end: str = "\n") -> None:
    """Prints to standard output; that nobody reads it (`| head`, a full disk) does not spoil a finished job."""
    with contextlib.suppress(OSError):
        print(text, end=end, flush=True)
