"""bench.compare: a slowdown is caught through noise and drift, and noise alone raises no alarm."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bench import compare
from bench.results import Results, Row
from engine.errors import EngineError

GROUP = "frames_to_tensor bfloat16 1280x720"
ANCHORS = {"expression": 4.2e-3, "torch.compile": 0.9e-3, "copy": 0.2e-3}
MACHINE = {"processor": "AMD EPYC", "device": "cpu", "threads": 2, "versions": {"torch": "2.13.0"}}


def results(
    seed: int,
    *,
    slowdown: float = 1.0,
    drift: float = 1.0,
    noise: float = 0.03,
    rounds: int = 20,
    anchors: dict[str, float] = ANCHORS,
    anchor_noise: dict[str, float] | None = None,
) -> Results:
    """A run of bench ops: all times follow the machine, which wanders by 10 % within the run and by `drift` between."""
    random = np.random.default_rng(seed)
    mood = drift * np.exp(np.cumsum(random.normal(0, 0.1 / rounds**0.5, rounds)))

    def row(name: str, seconds: float, *, ours: bool) -> Row:
        own_noise = np.exp(random.normal(0, (anchor_noise or {}).get(name, noise), rounds))
        return Row(GROUP, name, ours, [float(value) for value in seconds * mood * own_noise])

    rows = [row("operator", 0.23e-3 * slowdown, ours=True)]
    rows += [row(name, seconds, ours=False) for name, seconds in anchors.items()]
    return Results("ops", dict(MACHINE), "2026-01-01T00:00:00+00:00", {}, rows)


def caught(trials: int, **of_new: object) -> float:
    """The share of trials in which the new run is called a regression."""
    old_options = {name: of_new[name] for name in ("anchors", "anchor_noise", "rounds") if name in of_new}
    return float(
        np.mean(
            [
                bool(compare.compare(results(2 * seed, **of_new), results(2 * seed + 1, **old_options)))
                for seed in range(trials)
            ]
        )
    )


@pytest.mark.parametrize("drift", [0.5, 1.0, 2.0])
def test_slowdown_of_ten_percent_is_caught(drift: float) -> None:
    assert caught(100, slowdown=1.1, drift=drift) > 0.98


@pytest.mark.parametrize("drift", [0.5, 1.0, 2.0])
def test_no_slowdown_raises_no_alarm(drift: float) -> None:
    assert caught(200, drift=drift) < 0.05


@pytest.mark.parametrize("anchors", [dict(list(ANCHORS.items())[:count]) for count in (1, 2, 3)])
def test_noisy_anchors_raise_no_alarm_and_hide_nothing(anchors: dict[str, float]) -> None:
    noisy = {"torch.compile": 0.5}
    assert caught(200, drift=2.0, anchors=anchors, anchor_noise=noisy) < 0.05
    assert caught(100, drift=2.0, anchors=anchors, anchor_noise=noisy, slowdown=1.1) > 0.95


def test_one_anchor_that_became_faster_is_outvoted() -> None:
    # Not free: the upper or lower value of the other two is biased by half their noise (5 % alarms instead of 0.2).
    # The mean of the three anchors would be 13 % off, an alarm in nearly every trial.
    faster_peer = {**ANCHORS, "torch.compile": 0.6e-3}
    alarms = [bool(compare.compare(results(2 * s, anchors=faster_peer), results(2 * s + 1))) for s in range(200)]
    assert np.mean(alarms) < 0.1


def test_improvement_is_reported_and_is_no_regression() -> None:
    (comparison,) = compare.comparisons(results(0, slowdown=0.8), results(1))
    assert comparison.verdict == "faster"
    assert comparison.time_ratio == pytest.approx(0.8, rel=0.05)


def test_change_below_the_minimum_is_no_regression() -> None:
    assert caught(50, slowdown=1.01, noise=0.0005, anchor_noise=dict.fromkeys([*ANCHORS, "operator"], 0.0005)) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: rows[1:], "missing"),
        (lambda rows: [dataclasses.replace(rows[0], seconds=[], failure="no kernel"), *rows[1:]], "no kernel"),
        (lambda rows: [dataclasses.replace(rows[0], seconds=[None] * 20), *rows[1:]], "failed"),
    ],
)
def test_row_that_is_gone_is_a_regression(change: object, reason: str) -> None:
    new = results(0)
    new.rows = change(new.rows)
    (regression,) = compare.compare(new, results(1))
    assert regression.contender == "operator"
    assert reason in regression.reason


def test_rounds_that_a_contender_sat_out_are_left_out() -> None:
    new, old = results(0, slowdown=1.2), results(1)
    new.rows[0].seconds[3] = None
    new.rows[2].seconds[:15] = [None] * 15  # too few are left: no anchor
    (comparison,) = compare.comparisons(new, old)
    assert comparison.verdict == "slower"
    assert "torch.compile" not in comparison.text


@pytest.mark.parametrize("fact", ["processor", "device", "threads"])
def test_another_machine_is_an_error_unless_allowed(fact: str) -> None:
    new = results(0)
    new.machine[fact] = "another"
    with pytest.raises(EngineError, match=f"{fact} is another"):
        compare.compare(new, results(1))
    assert compare.compare(new, results(1), any_machine=True) == []


def test_other_commands_are_an_error() -> None:
    new = results(0)
    new.command = "model"
    with pytest.raises(EngineError, match="bench model"):
        compare.compare(new, results(1))


def test_command_fails_on_a_regression_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, written in {"old": results(1), "slow": results(0, slowdown=1.2), "same": results(0)}.items():
        written.write(tmp_path / f"{name}.json")
    run(tmp_path, "same")
    assert capsys.readouterr().out.startswith(f"same     {GROUP}, operator: time ")
    with pytest.raises(EngineError, match="1 of 1 rows are worse") as raised:
        run(tmp_path, "slow")
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().out.startswith(f"SLOWER   {GROUP}, operator: time +")


def test_check_of_nothing_does_not_pass(tmp_path: Path) -> None:
    results(0, rounds=3).write(tmp_path / "old.json")
    results(1, rounds=3).write(tmp_path / "new.json")
    with pytest.raises(EngineError, match="no row of ours"):
        run(tmp_path, "new")


def test_file_that_is_no_result_is_an_error_of_one_line(tmp_path: Path) -> None:
    results(0).write(tmp_path / "new.json")
    (tmp_path / "old.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(EngineError, match=r"old\.json"):
        run(tmp_path, "new")


def run(folder: Path, new: str) -> None:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    compare.run(parser.parse_args([str(folder / f"{new}.json"), str(folder / "old.json")]))


def test_groups_that_were_not_measured_again_are_no_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, old = results(0), results(1)
    old.rows += [dataclasses.replace(row, group="another group") for row in old.rows]
    old.write(tmp_path / "old.json")
    compare.check_against(new, tmp_path / "old.json")
    assert "not measured this time: another group" in capsys.readouterr().out
