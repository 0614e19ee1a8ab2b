"""Joins runs of one benchmark into one file: the rounds of each after those of the one before.

The processes of a run keep for their life where they found their memory, and what that costs or gains them. The spread
of one run knows nothing of it; that of two runs does.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bench.compare import check_comparable
from bench.results import Results, Row, read
from engine.errors import EngineError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench merge`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.json", help="two and more, the oldest first")
    parser.add_argument("--json", type=Path, metavar="FILE", required=True, help="where the joined results go")


def run(arguments: argparse.Namespace) -> None:
    """Writes the joined results."""
    merged = merge([read(path) for path in arguments.runs])
    merged.write(arguments.json)
    print(f"{arguments.json}: {len(merged.rows)} rows of {len(arguments.runs)} runs")


def merge(runs: Sequence[Results]) -> Results:
    """One of all rounds, with the date and the versions of the last run. Groups of one run alone stay as they are.

    A contender that failed in one of them has failed, and its facts (memory, first frame, PSNR) are those of the last
    run.

    Raises:
        EngineError: the runs are of different benchmarks or machines, or of other contenders in a group.
    """
    first, *others = runs
    merged = dataclasses.replace(runs[-1], rows=[*first.rows], peaks=[*first.peaks])
    for other in others:
        check_comparable(other, first)
        for group in other.groups:
            _add_group(merged, group, other)
    # Peaks are looked up by group and round, in this order.
    merged.peaks.sort(key=lambda peak: (merged.groups.index(peak["group"]), peak["round"]))
    return merged


def _add_group(merged: Results, group: str, other: Results) -> None:
    later = {row.contender: row for row in other.group(group)}
    present = merged.group(group)
    if present and later.keys() != {row.contender for row in present}:
        raise EngineError(f"{group}: the runs did not measure the same contenders: only equal ones can be joined")
    before = max((len(row.seconds) for row in present), default=0)
    merged.peaks += [{**peak, "round": peak["round"] + before} for peak in other.peaks if peak["group"] == group]
    if present:
        merged.rows = [_joined(row, later[row.contender]) if row.group == group else row for row in merged.rows]
    else:
        merged.rows += later.values()


def _joined(row: Row, later: Row) -> Row:
    if row.failure is not None:
        return row
    if later.failure is not None:
        return later
    return dataclasses.replace(later, seconds=[*row.seconds, *later.seconds])
