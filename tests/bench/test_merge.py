"""Joined runs: rounds one after the other, nothing mixed up, nothing joined that differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import main
from bench.merge import merge
from bench.results import Results, Row, read
from engine.errors import EngineError

MACHINE = {"processor": "a", "device": "cpu", "threads": 2}


def measured(offset: float, *, failing: bool = False, date: str = "2026-11-20") -> Results:
    run = Results("model", dict(MACHINE), date, {})
    for group in ("large", "small"):
        ours = Row(group, "ours", True, [1.0 + offset, 2.0 + offset], facts={"psnr_db": 50 + offset})
        theirs = Row(group, "theirs", False, [3.0 + offset, None])
        if failing:
            theirs = Row(group, "theirs", False, failure="it crashed")
        run.rows += [ours, theirs]
        run.peaks += [{"group": group, "round": number, "bf16_gflops": number + offset} for number in (0, 1)]
    return run


def test_rounds_follow_each_other() -> None:
    merged = merge([measured(0), measured(10), measured(20, date="2026-11-21")])
    assert merged.date == "2026-11-21"
    assert [row.seconds for row in merged.group("small")] == [[1, 2, 11, 12, 21, 22], [3, None, 13, None, 23, None]]
    assert merged.group("large")[0].facts["psnr_db"] == 70
    small = [peak for peak in merged.peaks if peak["group"] == "small"]
    assert [(peak["round"], peak["bf16_gflops"]) for peak in small] == list(enumerate([0, 1, 10, 11, 20, 21]))


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_what_failed_once_has_failed(order: tuple[bool, bool]) -> None:
    merged = merge([measured(0, failing=order[0]), measured(1, failing=order[1])])
    assert merged.group("large")[1].failure == "it crashed"
    assert len(merged.group("large")[0].measured) == 4


def test_groups_of_one_run_stay_as_they_are() -> None:
    small, large = measured(0), measured(10)
    small.rows, small.peaks = small.group("small"), [peak for peak in small.peaks if peak["group"] == "small"]
    large.rows, large.peaks = large.group("large"), [peak for peak in large.peaks if peak["group"] == "large"]
    merged = merge([small, large])
    assert [row.seconds[0] for row in merged.rows] == [1, 3, 11, 13]
    assert [(peak["group"], peak["round"]) for peak in merged.peaks] == [
        (g, n) for g in ("small", "large") for n in (0, 1)
    ]


def test_only_equal_runs_are_joined() -> None:
    other = measured(1)
    other.rows.pop()
    with pytest.raises(EngineError, match="did not measure the same"):
        merge([measured(0), other])
    other = measured(1)
    other.machine["threads"] = 4
    with pytest.raises(EngineError, match="threads is 4 now"):
        merge([measured(0), other])


def test_the_command_writes_a_file(tmp_path: Path) -> None:
    for number in (0, 1):
        measured(number).write(tmp_path / f"{number}.json")
    target = tmp_path / "both.json"
    assert main(["merge", str(tmp_path / "0.json"), str(tmp_path / "1.json"), "--json", str(target)]) == 0
    assert len(read(target).rows[0].seconds) == 4
