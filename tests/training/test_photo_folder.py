"""Photographs are reduced, split by picture, and small ones left out."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from tests.training.pictures import write_picture
from training.photo_folder import main


def test_pictures_are_reduced_and_held_out_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        write_picture(tmp_path / f"photos/{number}.png", size=(1400, 1100), seed=number)
    write_picture(tmp_path / "photos/small.png", size=(600, 600))
    write_picture(tmp_path / "photos/wide.png", size=(1400, 500))
    output = tmp_path / "data"
    assert main(["--photos", str(tmp_path / "photos"), "--output", str(output), "--width", "700"]) == 0
    train, test = (sorted((output / phase).iterdir()) for phase in ("train", "test"))
    assert [path.name[:4] for path in train] == ["0001", "0002", "0003", "0004", "0005", "0007"]
    assert [path.name[:4] for path in test] == ["0000"] * 4 + ["0006"] * 4
    assert {cv2.imread(str(path)).shape for path in train} == {(550, 700, 3)}
    assert {cv2.imread(str(path)).shape for path in test} == {(256, 256, 3)}
    assert "6 pictures to train on, 8 tiles held out" in capsys.readouterr().out


def test_too_few_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(tmp_path / "photos/small.png")
    assert main(["--photos", str(tmp_path / "photos"), "--output", str(tmp_path / "data")]) == 1
    assert capsys.readouterr().err.startswith("error: too few photographs")
    assert main(["--photos", str(tmp_path / "nowhere"), "--output", str(tmp_path / "data")]) == 1
    assert capsys.readouterr().err.startswith("error: no folder")
