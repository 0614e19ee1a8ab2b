"""`python -m bench gpu`, on the processor with a small generator, and on a GPU where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from engine.checkpoint import save_generator
from tests.engine.small_generators import small_generator


def run_bench(folder: Path, device: str, *options: str) -> dict[str, Any]:
    weights = folder / "small.safetensors"
    save_generator(small_generator("resnet"), weights)
    out = folder / "gpu.json"
    arguments = ["gpu", "--generator", str(weights), "--cases", "48x32x1", "48x32x3", "--norms", "1x16x8x8"]
    arguments += ["--videos", "48x32"]
    arguments += ["--rounds", "2", "--seconds", "0.02", "--device", device, "--json", str(out), *options]
    assert main(arguments) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
def test_every_backend_of_a_case_is_measured_or_says_why(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_bench(tmp_path, device, "--backends", "fused", "eager", "tensorrt", "--precision", "fp32")
    rows = {(row["group"].rpartition("small.safetensors ")[2], row["contender"]): row for row in found["rows"]}
    for case, count in (("48x32 batch 1", 1), ("48x32 batch 3", 3)):
        for backend in ("fused", "eager"):
            facts = rows[case, f"{backend} fp32"]["facts"]
            assert 0 < facts["p50_ms"] <= facts["p99_ms"]
            assert facts["frames_per_second"] > count / 2
            assert facts["psnr_db"] is None or facts["psnr_db"] >= 60
            assert len(rows[case, f"{backend} fp32"]["seconds"]) == 2
        assert "tensorrt" in rows[case, "tensorrt fp32"]["failure"]
    norm = rows["instance_norm_act 1x16x8x8 " + ("float16" if device == "cuda" else "bfloat16"), "instance_norm_act"]
    assert norm["facts"]["bytes_moved"] == 2 * 2 * 16 * 8 * 8
    for name in ("yuv_to_bgr", "bgr_to_yuv", "copy"):
        colours = rows["colours 48x32", name]
        assert (colours["facts"]["bytes_moved"], len(colours["seconds"])) == (48 * 32 * 4.5, 2)
    assert len(found["peaks"]) == 4
    printed = capsys.readouterr().out.splitlines()
    assert any("eager fp32" in line and "%" in line for line in printed)


def test_what_takes_too_long_is_left_out(tmp_path: Path) -> None:
    found = run_bench(tmp_path, "cpu", "--backends", "fused", "eager", "--budget", "0", "--precision", "fp32")
    failures = {row["contender"]: row["failure"] for row in found["rows"] if "batch" in row["group"]}
    assert failures["eager fp32"] == "no time left to build it"
    assert failures["fused fp32"] is None


@pytest.mark.parametrize(("case", "said"), [("48x32", "WIDTHxHEIGHT"), ("48x32x0", "WxHxN"), ("axbxc", "WIDTHxHEIGHT")])
def test_a_wrong_case_is_one_line(case: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--device", "cpu", "--cases", case, "--norms", "--videos"]) == 1
    assert said in capsys.readouterr().err


def test_videos_have_even_sides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--device", "cpu", "--cases", "--norms", "--videos", "47x32"]) == 1
    assert "47x32" in capsys.readouterr().err
