"""What the doctor says of this machine and of files."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import _native, precision
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
    (line,) = [line for line in report.splitlines() if line.startswith("video hardware")]
    assert torch.cuda.is_available() or "not available: no NVIDIA driver" in line


def test_a_backend_that_cannot_run_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BACKENDS["inductor"], "unavailable", lambda device: "no compiler here")
    main([])
    assert "not available: no compiler here" in capsys.readouterr().out


def test_versions_are_told_beside_those_that_are_accepted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"torch-tensorrt": "2.16.0", "tensorrt-cu13": "12.0.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    requirements = [
        "torch>=2.11",
        'torch-tensorrt<2.15,>=2.13; extra == "tensorrt"',
        'torch-tensorrt>=1; extra == "dev"',
        'onnx>=1.17; extra == "tensorrt"',
    ]
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    main([])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("backend tensorrt ")]
    assert line.endswith("; torch-tensorrt 2.16.0, tensorrt-cu13 12.0.0, accepted: torch-tensorrt<2.15,>=2.13")


def test_what_is_accepted_is_stated_once() -> None:
    """Ranges of packages that an engine is tied to; `dev` refers to the extra."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name in ("torch-tensorrt", "tensorrt_rtx"):
        assert re.findall(rf'"({name}[^"]*)"', text) == re.findall(rf'"({name}>=[\d.]+,<[\d.]+)"', text)
        assert text.count(f'"{name}') == 1


def test_missing_operators_are_reported_and_not_fatal() -> None:
    """In a process of its own, where the operator library can't be found."""
    script = (
        "import sys; sys.modules['engine.ops'] = None\n"
        "import engine.errors, engine.doctor, builtins\n"
        "def fail(): raise engine.errors.BackendError('not built')\n"
        "engine.doctor._describe_operators = fail\n"
        "sys.exit(engine.doctor.main([]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "not available: not built" in done.stdout
    assert "backend eager" in done.stdout


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


def line_of(report: str, name: str) -> str:
    """The value of one line of the report."""
    (line,) = [line for line in report.splitlines() if line.startswith(f"{name} ")]
    return line.removeprefix(name).strip()


def test_instructions_that_the_system_refuses_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = "the processor has AMX, but the operating system does not permit it to this process"
    monkeypatch.setattr(_native, "refused_isa", lambda: refusal)
    main([])
    assert line_of(capsys.readouterr().out, "instructions refused") == refusal
    monkeypatch.setattr(_native, "refused_isa", lambda: "")
    main([])
    assert "instructions refused" not in capsys.readouterr().out


def test_an_instruction_tier_that_is_forced_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMGAN_ISA", raising=False)
    monkeypatch.setattr(_native, "active_isa", lambda: _native.detected_isa())
    main([])
    assert line_of(capsys.readouterr().out, "instruction set") == f"{_native.detected_isa()} in use: the best here"
    monkeypatch.setenv("STREAMGAN_ISA", "scalar")
    monkeypatch.setattr(_native, "active_isa", lambda: "scalar")
    main([])
    expected = f"scalar in use: set by STREAMGAN_ISA, {_native.detected_isa()} detected"
    assert line_of(capsys.readouterr().out, "instruction set") == expected


def test_the_precisions_that_auto_measures_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "auto_precisions", lambda device: ("bf16", "fp32"))
    main([])
    assert "auto measures bf16 and fp32" in line_of(capsys.readouterr().out, "precision")
    monkeypatch.setattr(precision, "auto_precisions", lambda device: ("fp32",))
    main([])
    assert line_of(capsys.readouterr().out, "precision") == "auto takes fp32"
