"""The benchmarks run and report what they should; nothing here judges a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import ops, results
from bench.__main__ import main
from engine.errors import EngineError


def test_ops_puts_every_operator_beside_what_it_replaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ops.json"
    arguments = ["--size", "65x33", "--rounds", "2", "--processes", "1", "--threads", "1", "--json", str(path)]
    assert main(["ops", *arguments]) == 0
    report = results.read(path)
    assert len(report.groups) == 9
    for group in report.groups:
        rows = {row.contender: row for row in report.group(group)}
        assert set(rows) == {"operator", "expression", "torch.compile", "copy"}
        assert [name for name, row in rows.items() if row.ours] == ["operator"]
        assert all(len(row.measured) == 2 for row in rows.values())
    # 65 * 33 pixels of 3 bytes, read once, and as many values of four bytes, written once.
    first = report.group("frames_to_tensor float32 65x33")[0]
    assert first.facts["bytes_moved"] == 65 * 33 * 3 * (1 + 4)


def test_ops_joins_the_rounds_of_several_processes(tmp_path: Path) -> None:
    path = tmp_path / "ops.json"
    chosen = ["--ops", "frames_to_tensor float32", "--size", "64x48", "--rounds", "2", "--processes", "2"]
    assert main(["ops", *chosen, "--threads", "1", "--json", str(path)]) == 0
    report = results.read(path)
    assert len(report.groups) == 1
    assert all(len(row.measured) == 4 for row in report.rows)


def test_ops_times_nothing_that_is_wrong() -> None:
    frame = torch.zeros(4, 4, 3, dtype=torch.uint8)
    wrong = ops.Operator("frames_to_tensor", "float32", lambda x: x.float() + 1, lambda x: x.float(), (frame,), 240)
    with pytest.raises(EngineError, match="different values"):
        ops.measure(wrong, "4x4", rounds=1)


def test_an_unknown_operator_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--ops", "nothing", "--processes", "1", "--size", "8x8"]) == 1
    assert capsys.readouterr().err.count("error: no operator has") == 1


def test_scaling_measures_every_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import scaling

    monkeypatch.setattr(scaling, "_AREAS", ((32, 32), (64, 32)))
    monkeypatch.setattr(scaling, "_WIDTHS", (4, 8))
    monkeypatch.setattr(scaling, "_DEPTHS", (0, 1))
    monkeypatch.setattr(scaling, "_BATCHES", (1, 2))
    path = tmp_path / "scaling.json"
    assert main(["scaling", "--rounds", "1", "--seconds", "0.01", "--threads", "2", "--json", str(path)]) == 0
    report = results.read(path)
    assert report.groups == ["area", "width", "depth", "threads", "batch"]
    assert all(len(row.measured) == 1 and row.facts["units"] > 0 for row in report.rows)
    assert [row.facts["x"] for row in report.group("threads")] == [1, 2]
