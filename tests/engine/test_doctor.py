"""What the doctor says of this machine and of files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine import _native
from engine.backends import BACKENDS
from engine.doctor import main
from engine.styles import DEFAULT_STYLE


def test_the_machine_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    report = capsys.readouterr().out
    assert torch.__version__ in report
    assert f"{_native.active_isa()} in use" in report
    for name in BACKENDS:
        assert f"backend {name}" in report


def test_a_backend_that_cannot_run_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BACKENDS["inductor"], "unavailable", lambda device: "no compiler here")
    main([])
    assert "not available: no compiler here" in capsys.readouterr().out


def test_a_checkpoint_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([DEFAULT_STYLE]) == 0
    report = capsys.readouterr().out
    assert "ResNet" in report
    assert "6 blocks" in report


def test_a_file_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "notes.pth"
    path.write_text("not a checkpoint")
    assert main([str(path), DEFAULT_STYLE]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert len(printed.err.splitlines()) == 1
    assert "6 blocks" in printed.out
