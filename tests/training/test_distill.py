"""The student that is fast enough here, and what it learns from a checkpoint."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.checkpoint import inspect_checkpoint, save_generator
from engine.errors import EngineError
from engine.generators import ResNetConfig, SRVGGConfig, build
from training import distill
from training.data.images import Image
from training.data.teacher import load_teacher
from training.distill import SHARE, choose_student, main, parse_target
from training.metrics import pan_error

Sizes = Sequence[tuple[int, int]]


def linear(students: Sizes) -> list[float]:
    """A machine on which a student takes 1 ms, and 0.01 ms more for each block and channel."""
    return [1.0 + 0.01 * width * blocks for width, blocks in students]


@pytest.mark.parametrize("ms", [1.13, 1.5, 2.0, 3.0, 100.0])
def test_the_largest_that_is_in_time(ms: float) -> None:
    student = choose_student(distill.Target(1000.0 * SHARE / ms, 640, 360), linear)
    all_sizes = itertools.product(distill.WIDTHS, range(distill.FEWEST_BLOCKS, distill.MOST_BLOCKS + 1))
    in_time = [size for size in all_sizes if linear([size])[0] <= ms + 1e-9]
    best = max(in_time, key=lambda size: size[0] ** 2 * size[1])
    assert (student.width, student.blocks, student.ms) == (*best, *linear([best]))


def test_what_measures_slower_in_the_end_is_not_taken() -> None:
    calls: list[Sizes] = []

    def measure(students: Sizes) -> list[float]:
        calls.append(students)
        times = linear(students)
        return [times[0] + 100.0, *times[1:]] if len(students) == 3 else times

    student = choose_student(distill.Target(1000.0 * SHARE / 100.0, 640, 360), measure)
    assert (student.width, student.blocks) == (48, 9)
    assert len(calls[-1]) == 3


def test_a_target_that_nothing_meets_names_the_nearest() -> None:
    with pytest.raises(EngineError, match=r"reaches 900fps@640x360 here.* nearest target is 714\.2fps@640x360$"):
        choose_student(distill.Target(900.0, 640, 360), linear)
    assert choose_student(distill.Target(714.2, 640, 360), linear).ms == linear([(4, 3)])[0]


@pytest.mark.parametrize("text", ["30", "30fps", "fps@640x360", "0fps@640x360", "30fps@640", "-1fps@640x360", "nan"])
def test_other_speeds_are_refused(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, EngineError), match=r"expected "):
        parse_target(text)


def test_students_are_measured_on_this_machine() -> None:
    measure = distill.measuring(parse_target("30fps@64x48"), upsampling="transposed", device="cpu", threads=1)
    small, large = measure([(4, 3), (64, 9)])
    assert 0.0 < 4.0 * small < large  # of 600 times the arithmetic


# --- a whole run ---


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of smooth colours, and `teacher.pth`, a generator with random weights; students take 1 ms and more."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(6):
        small = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(small, (96, 64), interpolation=cv2.INTER_CUBIC))
    save_generator(build(ResNetConfig(width=8, blocks=1)), tmp_path / "teacher.safetensors")
    monkeypatch.setattr(distill, "measuring", lambda *_, **__: linear)
    return folder


def command(pictures: Path, *arguments: str) -> list[str]:
    where = ["--dataroot", str(pictures), "--name", "fast", "--checkpoints_dir", str(pictures.parent / "runs")]
    size = ["--crop_size", "48", "--crops", "12", "--no_compile", "--no_tensorboard", "--threads", "1"]
    teacher = ["--teacher", str(pictures.parent / "teacher.safetensors"), "--target", f"{1000 * SHARE / 1.13}fps@64x48"]
    return [*where, *size, *teacher, *arguments]


def test_a_checkpoint_teaches_a_student(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(pictures, "--max_steps", "3", "--seeds", "2")) == 0
    runs = pictures.parent / "runs"
    for seed in (0, 1):
        style = inspect_checkpoint(runs / f"fast_seed{seed}" / f"fast_seed{seed}.safetensors")
        assert style.config == ResNetConfig(width=4, blocks=3)
        assert style.metadata["teacher"] == "teacher.safetensors"
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [row[0] for row in rows] == ["teacher", "fast_seed0", "fast_seed1"]
    assert [len(row) for row in rows] == [3, 6, 6]
    assert all(float(row[1]) > 0 for row in rows)
    kept = [len(list((runs / name).glob("pairs-*"))) for name in ("fast_seed0", "fast_seed1")]
    assert kept == [2, 0]  # for each seed; in the folder of the first


def test_going_on_keeps_the_student(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(command(pictures, "--max_steps", "2")) == 0
    run = pictures.parent / "runs" / "fast"
    (run / "fast.safetensors").unlink()
    monkeypatch.setattr(distill, "measuring", None)
    assert main(command(pictures, "--max_steps", "3", "--continue_train")) == 0
    assert inspect_checkpoint(run / "fast.safetensors").config == ResNetConfig(width=4, blocks=3)
    (run / "fast.safetensors").unlink()
    (run / "student.json").write_text(json.dumps({"width": 4}))
    assert main(command(pictures, "--max_steps", "4", "--continue_train")) == 1


def test_teachers_that_are_none_are_one_line(pictures: Path, tmp_path: Path) -> None:
    enlarging = tmp_path / "x2.safetensors"
    save_generator(build(SRVGGConfig(width=8, convolutions=1, scale=2)), enlarging)
    with pytest.raises(EngineError, match=r"x2\.safetensors enlarges by 2"):
        load_teacher(enlarging, None)
    with pytest.raises(EngineError, match="a checkpoint with one style"):
        load_teacher(tmp_path / "teacher.safetensors", 3)
    (tmp_path / "styles.onnx").write_bytes(b"")
    with pytest.raises(EngineError, match="--teacher_style says which one"):
        load_teacher(tmp_path / "styles.onnx", None)


# --- steadiness ---


def test_what_moves_with_the_picture_has_no_pan_error() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    assert pan_error(lambda crop: 255 - crop, picture) == 0.0


def test_what_sticks_to_the_frame_has_its_contrast_as_error() -> None:
    def stripes(crop: Image) -> Image:
        """Columns of 0 and 51, whatever is in the picture: half of the moves change each of them."""
        return np.broadcast_to((np.arange(crop.shape[1]) % 2 * 51).astype(np.uint8)[None, :, None], crop.shape)

    picture = np.zeros((80, 96, 3), np.uint8)
    assert pan_error(stripes, picture) == pytest.approx(2 / 3 * 0.04)  # moves by 1, 0 and 3 columns
