"""The camera that numbers its frames, and a short run in Chromium. Nothing judges a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("aiortc", reason="aiortc is not installed: pip install 'streamgan[live]'")

from bench import live, results
from bench.__main__ import main
from bench.chromium import CHROMIUM
from engine import save_generator
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.video import open_source

pytestmark = pytest.mark.time_limit(300)


def number_of(image: np.ndarray) -> int:
    """What the page reads."""
    side = image.shape[1] // live._SQUARES
    levels = [float(image[side // 2, place * side + side // 2].sum()) for place in range(live._SQUARES)]
    code = 0
    for level in levels[2:]:
        code = 2 * code + (level > (levels[0] + levels[1]) / 2)
    number = code
    while code := code >> 1:
        number ^= code
    return number


def test_every_frame_of_the_film_has_its_number(tmp_path: Path) -> None:
    film = live.numbered_film(tmp_path / "film.y4m", (160, 96), 30)
    source = open_source(str(film))
    assert [number_of(np.asarray(frame.image)) for frame in source] == list(range(256))
    source.close()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_ages_are_measured_in_the_page(tmp_path: Path) -> None:
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
