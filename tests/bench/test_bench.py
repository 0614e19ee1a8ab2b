"""The benchmarks run and report what they should; nothing here judges a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from engine import save_generator
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.samples import SAMPLE


def test_ops_measures_every_operator(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--size", "65x33", "--rounds", "2", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    for row in ("frames_to_tensor  float32", "frames_to_tensor  bfloat16", "tensor_to_frames  float32"):
        assert row in printed


def test_pipeline_puts_the_contenders_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    style, report = tmp_path / "tiny.safetensors", tmp_path / "report.json"
    torch.manual_seed(0)
    save_generator(build(ResNetConfig(width=4, blocks=1)), style)
    arguments = [str(SAMPLE), "--style", str(style), "--rounds", "1", "--frames", "12", "--seconds", "0.2"]
    assert main(["pipeline", *arguments, "--json", str(report)]) == 0
    measured = json.loads(report.read_text())
    assert measured["size"] == "640x360"
    contenders = measured["contenders"]
    assert set(contenders) == {"this project", "OpenCV loop, eager float32"}
    assert len(measured["generator alone"]["fps"]) == 3
    assert all(row["median_fps"] > 0 for row in contenders.values())
    assert contenders["this project"]["output"] == "12 frames, h264, sound"
    assert contenders["OpenCV loop, eager float32"]["output"] == "12 frames, mpeg4, no sound"
    assert "of generator" in capsys.readouterr().out


def test_the_generator_alone_needs_no_video_library(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["pipeline", "--generator-only", "--rounds", "1", "--seconds", "0.1"]) == 0
    assert "generator alone" in capsys.readouterr().out


def test_a_missing_clip_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipeline", "nowhere.mp4"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
