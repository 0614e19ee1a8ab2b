"""Whether a run is slower than an earlier one on the same machine, whatever the machine's mood in either.

Seconds of two runs say little: a shared machine drifts. What is compared is each row of ours with its anchors, the
contenders of its group that are not ours and are in both files, within rounds: drift is in both and cancels.

Several anchors make one yardstick. Each anchor's log ratios (anchor / ours) are centred on their median in the old
file, which makes anchors of any speed alike; the figure of a round is the median over the anchors, so one whose own
speed changed between the runs is outvoted by two others. Anchors that are more than twice as noisy as the calmest one
are left out, which matters where there are only two. A row is slower if the interval of the median over the new rounds
lies wholly below that of the old rounds, and the medians are more than 2 % apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.results import Results, Row, read, summary
from engine.errors import EngineError

# Smaller changes are not reported, however sure: the layout of memory and code alone makes as much.
MINIMUM_CHANGE = 0.02

# With fewer rounds no interval of the median reaches 95 %.
MINIMUM_ROUNDS = 6

_NOISIEST_ANCHOR = 2.0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row of ours in both files.

    Attributes:
        verdict: same, slower, faster, failed, missing (it was measured before) or unclear (it can't be compared).
        text: the figures or the reason, in one line.
        time_ratio: time now over time before, drift taken out; None where there is none.
    """

    group: str
    contender: str
    verdict: str
    text: str
    time_ratio: float | None = None

    def __str__(self) -> str:
        return f"{self.verdict.upper() if self.is_regression else self.verdict:<8} {self.name}: {self.text}"

    @property
    def name(self) -> str:
        """Group and contender."""
        return f"{self.group}, {self.contender}"

    @property
    def is_regression(self) -> bool:
        """Whether this has to be looked at before going on."""
        return self.verdict in ("slower", "failed", "missing")


@dataclasses.dataclass(frozen=True)
class Regression:
    """A row of ours that is slower than before, fails, or is not measured any more."""

    group: str
    contender: str
    reason: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench compare`."""
    parser.add_argument("new", type=Path, metavar="NEW.json", help="results to judge")
    parser.add_argument("old", type=Path, metavar="OLD.json", help="earlier results of the same benchmark and machine")
    parser.add_argument("--any-machine", action="store_true", help="compare ratios across machines and thread counts")


def run(arguments: argparse.Namespace) -> None:
    """Prints one line per row of ours; a regression is an error."""
    check_against(read(arguments.new), arguments.old, any_machine=arguments.any_machine)


def check_against(new: Results, old_path: Path, *, any_machine: bool = False) -> None:
    """Prints how every row of ours compares with the results in `old_path`.

    Raises:
        EngineError: a row is slower, failed or missing; the files are of different benchmarks or machines; or there is
            not one row that can be compared, since a check of nothing must not pass.
    """
    old = read(Path(old_path))
    found = comparisons(new, old, any_machine=any_machine)
    for comparison in found:
        print(comparison)
    left_out = [group for group in old.groups if group not in new.groups]
    if left_out:
        print(f"not measured this time: {', '.join(left_out)}")
    regressions = [comparison.name for comparison in found if comparison.is_regression]
    if regressions:
        raise EngineError(
            f"{len(regressions)} of {len(found)} rows are worse than in {old_path}: {'; '.join(regressions)}"
        )
    if all(comparison.verdict == "unclear" for comparison in found):
        raise EngineError(f"{old_path}: holds no row of ours that these results can be compared with")


def compare(new: Results, old: Results, *, any_machine: bool = False) -> list[Regression]:
    """The rows of ours that are worse in `new`.

    Raises:
        EngineError: the results are of different benchmarks or machines.
    """
    found = comparisons(new, old, any_machine=any_machine)
    return [Regression(one.group, one.contender, f"{one.verdict}: {one.text}") for one in found if one.is_regression]


def comparisons(new: Results, old: Results, *, any_machine: bool = False) -> list[Comparison]:
    """Every row of ours that `old` holds measured, in the groups that `new` measured too, compared with `new`.

    Raises:
        EngineError: the results are of different benchmarks or machines.
    """
    check_comparable(new, old, any_machine=any_machine)
    rows = {(row.group, row.contender): row for row in new.rows}
    return [
        _compare_row(new, old, rows.get((row.group, row.contender)), row)
        for row in old.rows
        if row.ours and row.measured and row.failure is None and row.group in new.groups
    ]


def check_comparable(new: Results, old: Results, *, any_machine: bool = False) -> None:
    """Raises EngineError unless both are of one benchmark, which has rounds, on one machine with as many threads."""
    if new.command != old.command:
        raise EngineError(f"results of bench {new.command} can't be compared with those of bench {old.command}")
    if new.command == "latency":
        raise EngineError("results of bench latency hold the age of each frame, not rounds: they can't be compared")
    if any_machine:
        return
    for fact in ("processor", "device", "threads", "isa"):
        now, before = new.machine.get(fact), old.machine.get(fact)
        if now != before:
            raise EngineError(f"{fact} is {now} now and was {before}: measure on the same, or pass --any-machine")


def _compare_row(new: Results, old: Results, row: Row | None, before: Row) -> Comparison:
    def verdict(word: str, text: str, time_ratio: float | None = None) -> Comparison:
        return Comparison(before.group, before.contender, word, text, time_ratio)

    if row is None:
        return verdict("missing", "measured before, not in the new results")
    if row.failure is not None or not row.measured:
        return verdict("failed", row.failure or "no round was measured")
    now_by_anchor, before_by_anchor = _log_ratios(new, row), _log_ratios(old, before)
    anchors = [name for name in before_by_anchor if name in now_by_anchor]
    if not anchors:
        return verdict("unclear", f"no contender with {MINIMUM_ROUNDS} rounds in both files to compare it with")
    calm = _calm_anchors(anchors, now_by_anchor, before_by_anchor)
    centre = {name: statistics.median(_present(before_by_anchor[name])) for name in calm}
    now = summary(_yardstick(now_by_anchor, centre))
    then = summary(_yardstick(before_by_anchor, centre))
    # The ratios are anchor / ours: more of them is faster, so time is their inverse.
    change, least, most = (math.exp(x) for x in (then[0] - now[0], then[1] - now[2], then[2] - now[1]))
    text = f"time {_percent(change)} ({_percent(least)} to {_percent(most)}), against {', '.join(calm)}"
    if now[2] < then[1] and change > 1 + MINIMUM_CHANGE:
        return verdict("slower", text, change)
    if now[1] > then[2] and change < 1 - MINIMUM_CHANGE:
        return verdict("faster", text, change)
    return verdict("same", text, change)


def _log_ratios(results: Results, row: Row) -> dict[str, list[float | None]]:
    """log(anchor / ours) per round, of every anchor with enough common rounds."""
    found: dict[str, list[float | None]] = {}
    for anchor in results.group(row.group):
        if anchor.ours or anchor.failure is not None or len(anchor.seconds) != len(row.seconds):
            continue
        values = [math.log(a / b) if a and b else None for a, b in zip(anchor.seconds, row.seconds, strict=True)]
        if len(_present(values)) >= MINIMUM_ROUNDS:
            found[anchor.contender] = values
    return found


def _calm_anchors(names: Sequence[str], *files: dict[str, list[float | None]]) -> list[str]:
    spread = {name: max(_spread(_present(file[name])) for file in files) for name in names}
    limit = _NOISIEST_ANCHOR * min(spread.values())
    return [name for name in names if spread[name] <= limit]


def _spread(values: Sequence[float]) -> float:
    """The range of the middle half."""
    first, _, third = statistics.quantiles(values, n=4)
    return third - first


def _yardstick(log_ratios: dict[str, list[float | None]], centre: dict[str, float]) -> list[float]:
    """Per round, the median over the anchors of their centred log ratios."""
    rounds = zip(*([None if x is None else x - centre[name] for x in log_ratios[name]] for name in centre), strict=True)
    present = [_present(values) for values in rounds]
    return [statistics.median(values) for values in present if values]


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"
