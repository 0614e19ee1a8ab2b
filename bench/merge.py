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
    """One of all rounds, with the date and the versions of the last run.

    A contender that failed in one of them has failed, and its facts (memory, first frame, PSNR) are those of the last
    run.

    Raises:
        EngineError: the runs are of different benchmarks or machines, or did not measure the same.
    """
    first, *others = runs
    merged = dataclasses.replace(runs[-1], rows=[dataclasses.replace(row) for row in first.rows], peaks=[*first.peaks])
    for other in others:
        check_comparable(other, first)
        rows = {(row.group, row.contender): row for row in other.rows}
        if rows.keys() != {(row.group, row.contender) for row in merged.rows}:
            raise EngineError("the runs did not measure the same contenders: only equal runs can be joined")
        rounds = {group: max(len(row.seconds) for row in merged.group(group)) for group in merged.groups}
        merged.rows = [_joined(row, rows[row.group, row.contender]) for row in merged.rows]
        merged.peaks += [{**peak, "round": peak["round"] + rounds[peak["group"]]} for peak in other.peaks]
    # Peaks are looked up by group and round, in this order.
    merged.peaks.sort(key=lambda peak: (merged.groups.index(peak["group"]), peak["round"]))
    return merged


def _joined(row: Row, later: Row) -> Row:
    if row.failure is not None:
        return row
    if later.failure is not None:
        return later
    return dataclasses.replace(later, seconds=[*row.seconds, *later.seconds])
