"""A real, tiny distillation: the teacher inverts colours, the student learns it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.checkpoint import load_generator
from engine.errors import CheckpointError, EngineError, SourceError
from engine.generators import ResNet, ResNetConfig, build
from engine.precision import psnr_db
from training import distill_style
from training.distill_style import TrainOptions, distillation_loss, evaluate, main, train
from training.metrics import ssim
from training.style_pairs import Pairs, Picture, RenderOptions, find_pictures, load_teacher, random_crop, render_pairs

TINY = ResNetConfig(width=4, blocks=1)


def invert(picture: Picture) -> Picture:
    return 255 - picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders of pictures: smooth colours with a bright disc, each different."""
    random = np.random.default_rng(0)
    for name, count in (("photos", 6), ("film", 4)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(count):
            small = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
            picture = cv2.resize(small, (96, 64), interpolation=cv2.INTER_CUBIC)
            cv2.circle(picture, (20 + 8 * index, 30), 9, (240, 250, 255), -1)
            cv2.imwrite(str(tmp_path / "images" / name / f"{index:02d}.png"), picture)
    return tmp_path / "images"


@pytest.fixture
def pairs(folder: Path, tmp_path: Path) -> tuple[Pairs, Pairs]:
    options = RenderOptions(crop_size=32, crops=24)
    return render_pairs(find_pictures([folder]), invert, "invert", tmp_path, options)


def tiny_student() -> ResNet:
    torch.manual_seed(0)
    student = build(TINY)
    assert isinstance(student, ResNet)
    return student


def options(steps: int) -> TrainOptions:
    return TrainOptions(steps=steps, compile=False, learning_rate=4e-3)


def test_the_student_learns(pairs: tuple[Pairs, Pairs]) -> None:
    student = tiny_student()
    before = evaluate(student, pairs[1])
    losses = train(student, pairs[0], options(steps=120))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert evaluate(student, pairs[1]).psnr_db > before.psnr_db + 1.5
    assert not student.training


def test_a_resumed_run_gives_what_an_uninterrupted_one_does(pairs: tuple[Pairs, Pairs], tmp_path: Path) -> None:
    whole, interrupted, resumed = tiny_student(), tiny_student(), tiny_student()
    expected = train(whole, pairs[0], options(steps=12))
    state = tmp_path / "tiny.state.pt"
    first = train(interrupted, pairs[0], options(steps=12), state_path=state, stop_after=5)
    rest = train(resumed, pairs[0], options(steps=12), state_path=state)
    assert len(first) == 5
    assert first + rest == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_finished_run_has_nothing_left_to_do(pairs: tuple[Pairs, Pairs], tmp_path: Path) -> None:
    state = tmp_path / "tiny.state.pt"
    train(tiny_student(), pairs[0], options(steps=2), state_path=state)
    assert train(tiny_student(), pairs[0], options(steps=2), state_path=state) == []


def test_a_run_ends_by_the_clock(pairs: tuple[Pairs, Pairs], capsys: pytest.CaptureFixture[str]) -> None:
    clock = TrainOptions(minutes=0.01, compile=False, report_seconds=0.1)
    assert len(train(tiny_student(), pairs[0], clock)) >= 1
    assert "images/s" in capsys.readouterr().out


def test_a_state_of_another_student_is_refused(pairs: tuple[Pairs, Pairs], tmp_path: Path) -> None:
    state = tmp_path / "tiny.state.pt"
    train(tiny_student(), pairs[0], options(steps=1), state_path=state)
    with pytest.raises(CheckpointError, match="delete it to start anew"):
        train(build(ResNetConfig(width=8, blocks=1)), pairs[0], options(steps=1), state_path=state)


def test_a_loss_that_is_no_number_ends_the_run(pairs: tuple[Pairs, Pairs]) -> None:
    student = tiny_student()
    with torch.no_grad():
        next(student.parameters()).fill_(torch.nan)
    with pytest.raises(EngineError, match="lower --learning-rate"):
        train(student, pairs[0], options(steps=2))


def test_pairs_are_painted_once(folder: Path, tmp_path: Path) -> None:
    painted: list[int] = []

    def counting(picture: Picture) -> Picture:
        painted.append(1)
        return invert(picture)

    groups, cut = find_pictures([folder]), RenderOptions(crop_size=32, crops=10)
    first, held_out = render_pairs(groups, counting, "counting", tmp_path, cut)
    count = len(painted)
    second, _ = render_pairs(groups, counting, "counting", tmp_path, cut)
    assert count == len(first.inputs) + len(held_out.inputs)
    assert len(painted) == count
    assert np.array_equal(first.inputs, second.inputs)
    assert np.array_equal(first.targets, 255 - first.inputs)


def test_the_last_pictures_of_each_folder_are_held_out(folder: Path, tmp_path: Path) -> None:
    for index, path in enumerate(path for group in find_pictures([folder]) for path in group):
        cv2.imwrite(str(path), np.full((64, 64, 3), index, np.uint8))  # each crop tells its picture, when not gamma'd
    cut = RenderOptions(crop_size=32, crops=400, held_out_fraction=0.25)
    train_pairs, held_out = render_pairs(find_pictures([folder]), invert, "invert", tmp_path, cut)
    numbers = [int(np.unique(pairs.inputs[:, 0, 0, 0]).size) for pairs in (train_pairs, held_out)]
    film, photos = {0, 1, 2}, {4, 5, 6, 7}
    assert (film | photos) <= set(np.unique(train_pairs.inputs[:, 0, 0, 0]).tolist())
    assert {3, 8, 9} <= set(np.unique(held_out.inputs[:, 0, 0, 0]).tolist())
    assert all(number >= 3 for number in numbers)


@pytest.mark.parametrize("shape", [(31, 47), (240, 320), (1080, 1920)])
def test_a_crop_has_its_size_whatever_the_picture(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 90, np.uint8)
    for seed in range(8):
        assert random_crop(picture, 64, np.random.default_rng(seed)).shape == (64, 64, 3)


def test_no_pictures_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no pictures"):
        find_pictures([tmp_path])
    with pytest.raises(SourceError, match="no folder"):
        find_pictures([tmp_path / "absent"])


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"broken\.png"):
        render_pairs(find_pictures([tmp_path]), invert, "invert", tmp_path, RenderOptions(crop_size=32, crops=2))


def test_a_missing_onnxruntime_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"pip install 'streamgan\[train\]'"):
        load_teacher(tmp_path / "teacher.onnx", 0)


def test_a_teacher_that_is_none_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineError, match="no teacher at"):
        load_teacher(tmp_path / "absent.onnx", 0)
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(EngineError, match="is no ONNX network"):
        load_teacher(tmp_path / "broken.onnx", 0)


def test_the_command_line_makes_a_style(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(path: Path, style: int) -> Callable[[Picture], Picture]:
        return invert

    monkeypatch.setattr(distill_style, "load_teacher", load)
    output = tmp_path / "styles" / "negative.safetensors"
    size = ["--width", "4", "--blocks", "1", "--crop-size", "32", "--crops", "8", "--steps", "3", "--no-compile"]
    status = main(["--images", str(folder), "--teacher", "any", "--teacher-style", "0", "--output", str(output), *size])
    assert status == 0
    assert load_generator(output).config == TINY
    assert "PSNR" in capsys.readouterr().out


def test_the_command_line_reports_errors_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "a.safetensors")
    status = main(["--images", str(tmp_path), "--teacher", "absent.onnx", "--teacher-style", "0", "--output", output])
    assert status == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_loss_is_zero_for_equal_pictures_alone() -> None:
    picture = torch.rand(1, 3, 32, 32) * 2.0 - 1.0
    assert distillation_loss(picture, picture).item() == 0.0
    assert distillation_loss(picture, picture + 0.1).item() > 0.1


def test_psnr_and_ssim_have_their_known_values() -> None:
    picture = np.random.default_rng(0).integers(0, 200, (40, 40, 3), dtype=np.uint8)
    assert psnr_db(picture, picture) == float("inf")
    assert psnr_db(picture, picture + np.uint8(1)) == pytest.approx(48.13, abs=0.01)  # 20 log10(255)
    assert ssim(picture, picture) == pytest.approx(1.0)
    assert ssim(picture, 255 - picture) < 0.0
