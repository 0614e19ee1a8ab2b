"""Losses of a run: rows of losses.csv, and scalars for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import SinkError


class LossLog:
    """Appends to losses.csv and, where the package is installed, to TensorBoard's files.

    Args:
        folder: folder of the run.
        steps_before: step of the last checkpoint; later rows are from a run that was cut off, and are dropped.
        tensorboard: whether to write files for TensorBoard.
    """

    def __init__(self, folder: Path, *, steps_before: int = 0, tensorboard: bool = True) -> None:
        self._path = folder / "losses.csv"
        self._names: list[str] | None = None
        kept: list[dict[str, str]] = []
        if steps_before and self._path.is_file():
            with self._path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= steps_before]
        self._path.unlink(missing_ok=True)
        for row in kept:
            self._append(row)
        self._tensorboard = _open_tensorboard(folder / "tensorboard", steps_before) if tensorboard else None

    def write(self, *, step: int, epoch: int, learning_rate: float, losses: Mapping[str, float]) -> None:
        """One row."""
        self._append({"step": step, "epoch": epoch, "learning_rate": learning_rate, **losses})
        if self._tensorboard is not None:
            for name, value in losses.items():
                self._tensorboard.add_scalar(f"loss/{name}", value, step)
            self._tensorboard.add_scalar("learning_rate", learning_rate, step)

    def close(self) -> None:
        """Writes buffered values."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _append(self, row: Mapping[str, Any]) -> None:
        try:
            with self._path.open("a", newline="") as file:
                if self._names is None:
                    self._names = list(row)
                    csv.writer(file).writerow(self._names)
                csv.writer(file).writerow([row.get(name, "") for name in self._names])
        except OSError as error:
            raise SinkError(f"can't write {self._path}: {error.strerror}") from error


def _open_tensorboard(folder: Path, steps_before: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=steps_before or None)


def duration(seconds: float) -> str:
    """Seconds for people: `1 h 02 min`, `3 min 20 s`, `9 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
