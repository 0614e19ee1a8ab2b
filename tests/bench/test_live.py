"""The camera that numbers its frames, and a short run in Chromium. Nothing judges a time."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import live, live_window, numbers, results
from bench.__main__ import main
from bench.chromium import CHROMIUM
from engine import save_generator
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.video import open_source

pytestmark = pytest.mark.time_limit(300)


def number_of(image: np.ndarray) -> int | None:
    return numbers.number_of(image[image.shape[1] // numbers.SQUARES // 2])


def test_every_frame_of_the_film_has_its_number(tmp_path: Path) -> None:
    film = live.numbered_film(tmp_path / "film.y4m", (160, 96), 30)
    source = open_source(str(film))
    assert [number_of(np.asarray(frame.image)) for frame in source] == list(range(256))
    source.close()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_ages_are_measured_in_the_page(tmp_path: Path) -> None:
    pytest.importorskip("aiortc", reason="aiortc is not installed: pip install 'streamgan[live]'")
    torch.manual_seed(0)
    style = tmp_path / "tiny.safetensors"
    save_generator(build(ResNetConfig(width=4, blocks=1)), style)
    report = tmp_path / "live.json"
    options = ["--size", "160x96", "--rate", "15", "--seconds", "3", "--warm-seconds", "1", "--style", str(style)]
    assert main(["live", *options, "--json", str(report)]) == 0
    for row in results.read(report).rows:
        assert row.failure is None
        assert 0 < row.facts["age_ms_p50"][0] <= row.facts["age_ms_p95"][0]
        assert row.facts["fps"][0] == pytest.approx(1 / row.measured[0], rel=1e-3)


def test_ages_count_from_the_latest_capture_of_a_number() -> None:
    captured = [(5, 1.0), (6, 1.1), (5, 9.0)]
    shown = [(5, 1.04), (6, 1.16), (7, 2.0), (5, 9.03)]
    assert live_window._ages(shown, captured) == [
        (moment, pytest.approx(age)) for moment, age in ((1.04, 40.0), (1.16, 60.0), (9.03, 30.0))
    ]


@pytest.mark.skipif(shutil.which("Xvfb") is None, reason="Xvfb is not installed")
def test_ages_are_measured_in_the_window(tmp_path: Path) -> None:
    """And every frame of the camera is shown, dropped or skipped."""
    torch.manual_seed(0)
    style = tmp_path / "tiny.safetensors"
    save_generator(build(ResNetConfig(width=4, blocks=1)), style)
    report = tmp_path / "window.json"
    options = ["--size", "640x360", "--rate", "20", "--seconds", "1.5", "--warm-seconds", "2.5", "--style", str(style)]
    assert main(["live", "--window", *options, "--json", str(report)]) == 0
    (row,) = results.read(report).rows
    assert row.failure is None
    facts = {name: values[0] for name, values in row.facts.items()}
    assert 0 < facts["age_ms_p50"] <= facts["age_ms_p95"]
    assert facts["camera_frames"] == facts["received"] == facts["shown"] + facts["dropped"] + facts["skipped"]
