"""Pairs of satellite picture and map, cut so that no place is in training and test."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.map_tiles import main, tiles


def world(height: int = 180, width: int = 360) -> tuple[np.ndarray, np.ndarray]:
    """A satellite picture whose pixels hold their place, and a map of land everywhere but in the last third."""
    y, x = np.mgrid[:height, :width]
    satellite = np.dstack([x % 256, x // 256, y]).astype(np.uint8)
    relief = np.full((height, width, 3), (120, 160, 90), np.uint8)
    relief[:, 2 * width // 3 :] = (20, 60, 200)
    return satellite, relief


def columns(pair: np.ndarray, size: int) -> set[int]:
    left = pair[:, :size].astype(int)
    return set((left[..., 0] + 256 * left[..., 1]).flatten().tolist())


def test_no_place_is_in_both_phases() -> None:
    seen: dict[str, set[int]] = {"train": set(), "test": set()}
    for phase, _, pair in tiles(*world(), size=16):
        seen[phase] |= columns(pair, 16)
    assert seen["train"]
    assert seen["test"]
    assert not seen["train"] & seen["test"]


def test_tiles_are_aligned_and_on_land() -> None:
    satellite, relief = world()
    names = []
    for _, name, pair in tiles(satellite, relief, size=16):
        left, top = (int(part) for part in name.split("_"))
        assert np.array_equal(pair[:, :16], satellite[top : top + 16, left : left + 16])
        assert np.array_equal(pair[:, 16:], relief[top : top + 16, left : left + 16])
        assert left < 240
        names.append(name)
    assert len(names) == len(set(names))


def test_the_command_writes_equal_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, image in zip(("bmng.jpg", "etopo1.jpg"), world(), strict=True):
        assert cv2.imwrite(str(tmp_path / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    output = tmp_path / "maps"
    assert main(["--maps", str(tmp_path), "--output", str(output), "--size", "16"]) == 0
    for phase in ("train", "test"):
        a, b = ({path.name for path in (output / f"{phase}{domain}").iterdir()} for domain in "AB")
        assert a == b
        assert f"{len(a)}" in capsys.readouterr().out or phase == "test"
    assert main(["--maps", str(tmp_path / "nowhere"), "--output", str(output)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
