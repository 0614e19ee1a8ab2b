"""Pairs of satellite picture and map, cut so that no place is in training and test."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from training.map_tiles import is_land, main, tiles


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
    satellite, relief = world()
    for phase, _, pair in tiles(satellite, relief, is_land(relief), size=16):
        seen[phase] |= columns(pair, 16)
    assert seen["train"]
    assert seen["test"]
    assert not seen["train"] & seen["test"]


def test_tiles_are_aligned_and_on_land() -> None:
    satellite, relief = world()
    names = []
    for _, name, pair in tiles(satellite, relief, is_land(relief), size=16):
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


def test_another_map_is_reduced_and_cut_at_the_same_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    satellite, relief = world()
    shaded = np.kron(satellite, np.ones((2, 2, 1), np.uint8))
    for name, image in (("bmng", satellite), ("etopo1", relief), ("shadedrelief", shaded)):
        assert cv2.imwrite(str(tmp_path / f"{name}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    for kind in ("etopo1", "shadedrelief"):
        assert main(["--maps", str(tmp_path), "--map", kind, "--output", str(tmp_path / kind), "--size", "16"]) == 0
    names = [
        sorted(path.name for path in (tmp_path / kind / "trainB").iterdir()) for kind in ("etopo1", "shadedrelief")
    ]
    assert names[0] == names[1]
    inputs, targets = (
        cv2.imread(str(tmp_path / "shadedrelief" / folder / names[0][0])) for folder in ("trainA", "trainB")
    )
    assert inputs is not None
    assert targets is not None
    # The map is the satellite picture twice as large; JPEG keeps them apart by a little.
    assert np.abs(inputs.astype(int) - targets).mean() < 12
    cv2.imwrite(str(tmp_path / "shadedrelief.jpg"), shaded[:, :100])
    capsys.readouterr()
    assert main(["--maps", str(tmp_path), "--map", "shadedrelief", "--output", str(tmp_path / "none")]) == 1
    assert "not of the shape" in capsys.readouterr().err
