"""`bench model --isa`: who is held to an instruction set, by which variables, and that the results say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench import instruction_sets, model, results
from bench.__main__ import main
from bench.contenders import contenders
from bench.instruction_sets import emulates_bf16, unforced, variables
from bench.processes import WorkerProcess
from engine import _native, save_generator
from engine.errors import EngineError
from engine.generators import ResNetConfig, build

TIERS = ["scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx"]


@pytest.fixture
def every_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has them all."""
    monkeypatch.setattr(_native, "supported_isas", lambda: list(TIERS))


@pytest.mark.usefixtures("every_tier")
def test_each_tier_sets_ours_and_what_pytorch_and_openvino_read() -> None:
    assert variables(None) == {}
    for tier in TIERS:
        assert variables(tier)["STREAMGAN_ISA"] == tier
    assert variables("avx2") == {
        "STREAMGAN_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
    assert variables("avx512_bf16")["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_BF16"
    assert variables("avx512_amx") == {"STREAMGAN_ISA": "avx512_amx"}  # nothing to hold back


def test_every_tier_of_this_processor_has_variables() -> None:
    for tier in _native.supported_isas():
        assert variables(tier)["STREAMGAN_ISA"] == tier


def test_what_the_processor_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "supported_isas", lambda: ["scalar", "avx2"])
    for tier in ("avx512", "sse9"):
        with pytest.raises(EngineError, match=f"unknown instruction set '{tier}': this processor has scalar, avx2"):
            variables(tier)


@pytest.mark.usefixtures("every_tier")
def test_runtimes_without_a_switch_are_named() -> None:
    everyone = contenders("cpu")
    names = {"onnxruntime fp32", "ncnn fp32", "ncnn bf16", "mnn fp32"}
    assert set(unforced(everyone, "avx2")) == names
    assert unforced(everyone, None) == []
    # Torch's compiler has one name for AVX-512 with and without AMX.
    assert set(unforced(everyone, "avx512_bf16")) - names == {
        one.name for one in everyone if "inductor" in one.name or "torch.compile" in one.name
    }
    assert set(unforced(everyone, "avx512_amx")) == names


def test_torch_s_compiler_is_held_where_there_is_no_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "supported_isas", lambda: TIERS[:-1])
    assert not any("torch.compile" in name for name in unforced(contenders("cpu"), "avx512"))


def test_tiers_that_emulate_bf16() -> None:
    assert [tier for tier in TIERS if emulates_bf16(tier)] == ["scalar", "avx2", "avx512"]
    assert not emulates_bf16(None)


def test_ours_is_not_measured_in_what_a_tier_would_emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "is_emulated", lambda precision, device: False)

    def ours(isa: str | None) -> set[str]:
        return {one.precision for one in model._chosen_contenders("cpu", None, isa) if one.ours}

    assert ours("avx2") == {"fp32", "fp16"}
    assert ours(None) == ours("avx512_bf16") == {"fp32", "bf16", "fp16", "fast"}


def test_processes_get_the_variables_and_results_say_who_was_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    style = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    save_generator(build(ResNetConfig(width=8, blocks=1)), style)
    environments: list[dict[str, str]] = []

    class Told(WorkerProcess):
        def __init__(self, *, threads: int, environment: dict[str, str] | None = None) -> None:
            environments.append(dict(environment or {}))
            super().__init__(threads=threads, environment=environment)

    monkeypatch.setattr(model, "WorkerProcess", Told)
    probed: list[Any] = []
    probe = model.Probe

    def told_probe(**options: Any) -> Any:
        probed.append(options["isa"])
        return probe(**options)

    monkeypatch.setattr(model, "Probe", told_probe)
    monkeypatch.setattr(instruction_sets, "_UNFORCED", ("pytorch_eager",))  # installed everywhere
    path = tmp_path / "model.json"
    arguments = ["--generators", str(style), "--sizes", "32x32", "--rounds", "1", "--starts", "1", "--seconds", "0.01"]
    chosen = ["--contenders", "fused fp32", "pytorch eager fp32", "--isa", "scalar", "--json", str(path)]
    assert main(["model", *arguments, *chosen]) == 0
    assert all(one["STREAMGAN_ISA"] == "scalar" and one["ONEDNN_MAX_CPU_ISA"] == "SSE41" for one in environments)
    assert probed == ["scalar"]
    report = results.read(path)
    assert report.machine["isa"] == "scalar"
    assert report.arguments["isa"] == "scalar"
    assert report.arguments["unforced"] == ["pytorch eager fp32"]
    printed = capsys.readouterr()
    assert "held to scalar, except (-): pytorch eager fp32" in printed.out
    assert "- pytorch eager fp32" in printed.out
    assert "* engine fused fp32" in printed.out


def test_an_unknown_instruction_set_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--quick", "--isa", "sse9"]) == 1
    assert capsys.readouterr().err.count("error: unknown instruction set 'sse9'") == 1
