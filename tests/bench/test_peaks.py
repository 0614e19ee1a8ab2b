"""The peak probe measures what it says; nothing here judges a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import peaks
from engine import _native

SECONDS = 0.002
KINDS = ["float32", "float16", "bf16", "int8"]
CPUINFO = Path("/proc/cpuinfo")
BF16_TIERS = ("avx512_bf16", "avx512_amx", "neon_bf16")


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "CPU_COPY_BYTES", 2**20)
    monkeypatch.setattr(peaks, "CUDA_COPY_BYTES", 2**20)
    monkeypatch.setattr(peaks, "CUDA_MATRIX_SIZE", 64)


def measured_kinds(isa: str) -> set[str]:
    rates = {kind: _native.peak(kind, 1, SECONDS, isa) for kind in KINDS}
    assert all(rate is None or rate > 0 for rate in rates.values()), rates
    return {kind for kind, rate in rates.items() if rate is not None}


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_each_instruction_set_measures_what_it_has_instructions_for(isa: str) -> None:
    kinds = measured_kinds(isa)
    assert "float32" in kinds
    assert ("bf16" in kinds) == (isa in BF16_TIERS)
    assert isa.startswith("avx512") or not {"int8", "float16"} & kinds


@pytest.mark.skipif(not CPUINFO.exists(), reason="needs the system's list of instructions")
def test_none_only_if_the_instruction_is_missing() -> None:
    flags = set(CPUINFO.read_text().split())
    kinds = measured_kinds(_native.detected_isa())
    has_bf16 = bool(flags & {"avx512_bf16", "bf16"})  # x86's name, Arm's name
    assert ("bf16" in kinds) == (_native.detected_isa() in BF16_TIERS) == has_bf16
    has_avx512 = _native.detected_isa().startswith("avx512")
    assert ("int8" in kinds) == ("avx512_vnni" in flags and has_avx512)
    assert ("float16" in kinds) == ("avx512_fp16" in flags and has_avx512)


def test_the_instruction_set_in_use_does_not_matter() -> None:
    before = measured_kinds(_native.detected_isa())
    try:
        _native.set_isa("scalar")
        assert {kind for kind in KINDS if _native.peak(kind, 1, SECONDS) is not None} == before
    finally:
        _native.set_isa(None)


def test_more_threads_than_processors_end_too() -> None:
    rate = _native.peak("float32", 9, SECONDS)
    assert rate is not None
    assert rate > 0


def test_peak_is_no_operator() -> None:
    assert not any("peak" in op for op in _native.kernels())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("float64", 1, SECONDS), "kind 'float64' is unknown; accepted are float32, float16, bf16, int8"),
        (("float32", 0, SECONDS), "threads is 0; at least 1"),
        (("int8", -1, SECONDS), "threads is -1; at least 1"),
        (("float32", 1, 0.0), "seconds is 0"),
        (("float32", 1, float("nan")), "seconds is nan"),
        (("float32", 1, float("inf")), "seconds is inf"),
        (("float32", 1, SECONDS, "sse9"), "isa 'sse9' can't run here"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, int, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.peak(*arguments)


@pytest.mark.usefixtures("small_buffers")
def test_probe() -> None:
    rates = peaks.probe(1, seconds=SECONDS)
    assert list(rates) == ["float32_gflops", "float16_gflops", "bf16_gflops", "int8_gops", "copy_gbytes"]
    for kind in KINDS:
        rate = rates[f"{kind}_gops" if kind == "int8" else f"{kind}_gflops"]
        assert (rate is None) == (_native.peak(kind, 1, SECONDS) is None)
    assert all(rate is None or rate > 0 for rate in rates.values())


@pytest.mark.usefixtures("small_buffers")
def test_a_kind_that_the_kernels_do_not_know_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with kernels of an earlier build; any other trouble is told."""
    trouble = "peak: kind 'float16' is unknown; accepted are float32, float16, bf16, int8"

    def fake_peak(kind: str, threads: int, seconds: float, isa: str | None) -> float | None:
        if kind == "float16":
            raise ValueError(trouble)
        return 1e9

    monkeypatch.setattr(peaks._native, "peak", fake_peak)
    measured = peaks.Probe(1, seconds=SECONDS).measure()
    assert measured["float16_gflops"] is None
    assert measured["float32_gflops"] == 1.0
    trouble = "peak: isa 'avx512_amx' can't run here"
    with pytest.raises(ValueError, match="can't run here"):
        peaks.Probe(1, seconds=SECONDS, isa="avx512_amx").measure()


@pytest.mark.usefixtures("small_buffers")
def test_the_peak_of_an_instruction_set_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str | None] = set()

    def fake_peak(kind: str, threads: int, seconds: float, isa: str | None) -> float | None:
        asked.add(isa)
        return None

    monkeypatch.setattr(peaks._native, "peak", fake_peak)
    peaks.Probe(1, seconds=SECONDS, isa="avx2").measure()
    assert asked == {"avx2"}


@pytest.mark.usefixtures("small_buffers")
def test_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of several, 3e9 operations per second, is 3 GFLOPS; a copy of 1 MiB in 1 ms moves 2 MiB."""
    asked: list[tuple[str, int, float]] = []

    def fake_peak(kind: str, threads: int, seconds: float, isa: str | None) -> float | None:
        assert isa is None
        asked.append((kind, threads, seconds))
        return None if kind == "bf16" else 3e9 / (1 + len(asked) % 2)

    monkeypatch.setattr(peaks._native, "peak", fake_peak)
    monkeypatch.setattr(peaks, "_wall_seconds", lambda work: 1e-3)
    rates = peaks.Probe(2, seconds=0.5).measure()
    assert rates == {
        "float32_gflops": 3.0,
        "float16_gflops": 3.0,
        "bf16_gflops": None,
        "int8_gops": 3.0,
        "copy_gbytes": pytest.approx(2 * 2**20 / 1e6),
    }
    assert asked == [(kind, 2, 0.1) for kind in ("float32", "float16", "bf16", "int8") for _ in range(peaks.REPEATS)]


@pytest.mark.usefixtures("small_buffers")
def test_a_probe_keeps_its_buffers_copies_them_and_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    measuring = peaks.Probe(before + 1, seconds=SECONDS)
    address = measuring._target.data_ptr()
    measuring.measure()
    measuring.measure()
    assert measuring._target.data_ptr() == address
    assert torch.equal(measuring._target, measuring._source)
    assert torch.get_num_threads() == before


def test_probe_rejects_no_threads() -> None:
    with pytest.raises(ValueError, match="threads is 0"):
        peaks.probe(0)


@pytest.mark.needs_cuda
@pytest.mark.usefixtures("small_buffers")
def test_probe_on_cuda() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    rates = peaks.probe(1, "cuda")
    names = ["float32_gflops", "tf32_gflops", "bf16_gflops", "float16_gflops", "int8_gops", "copy_gbytes"]
    assert list(rates) == names
    assert all(rate is None or rate > 0 for rate in rates.values())
    assert torch.backends.cuda.matmul.allow_tf32 == before
