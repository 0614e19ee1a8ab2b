"""A real, tiny distillation: the teacher inverts colours, the student learns it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import engine
from engine.checkpoint import inspect_checkpoint
from engine.errors import EngineError, SourceError
from engine.generators import ResNetConfig
from engine.parity import psnr_db
from tests.training.test_train import assert_equal, error_of
from training import evaluate, train
from training.data import teacher
from training.data.images import Image
from training.data.teacher import TeacherOptions, load_teacher, random_crop, teacher_pairs
from training.losses import PIXEL_LOSSES
from training.metrics import ssim
from training.train import main

TINY = ["--netG", "resnet_1blocks", "--ngf", "4", "--crop_size", "32", "--crops", "24", "--no_compile"]
QUIET = ["--no_tensorboard", "--display_freq", "1000000", "--precision", "fp32", "--threads", "1"]


def invert(picture: Image) -> Image:
    return 255 - picture


@pytest.fixture(autouse=True)
def any_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is taken for a teacher, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("any.onnx").write_bytes(b"a teacher")
    return Path("any.onnx")


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
def painted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Teachers invert colours; the list has an entry per crop that was painted."""
    count: list[int] = []

    def load(path: Path, style: int) -> Callable[[Image], Image]:
        def paint(picture: Image) -> Image:
            count.append(1)
            return invert(picture)

        return paint

    monkeypatch.setattr(teacher, "load_teacher", load)
    return count


def command(folder: Path, *arguments: str, name: str = "negative") -> list[str]:
    where = ["--dataroot", str(folder), "--name", name, "--checkpoints_dir", str(folder.parent / "checkpoints")]
    asked = ["--model", "distillation", "--teacher", "any.onnx", "--teacher_style", "0"]
    return [*where, *asked, *TINY, *QUIET, *arguments]


def pairs_of(folder: Path, kept_in: Path, **options: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    wanted = TeacherOptions(Path("any.onnx"), 0, crops=options.pop("crops", 24), noise=4.0, kept_in=kept_in)
    return dict(teacher_pairs([folder], wanted, crop_size=32, **options))


def run_folder(folder: Path, name: str = "negative") -> Path:
    return folder.parent / "checkpoints" / name


def test_a_run_makes_a_style_that_describes_itself(
    folder: Path, painted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["--description", "colours inverted", "--licence", "CC0-1.0", "--author", "nobody"]
    assert main(command(folder, *texts, "--max_steps", "100", "--lr", "4e-3", "--warmup_steps", "10")) == 0
    style = run_folder(folder) / "negative.safetensors"
    info = inspect_checkpoint(style)
    assert info.config == ResNetConfig(width=4, blocks=1)
    assert info.metadata["description"] == "colours inverted"
    assert info.metadata["teacher"] == "any.onnx style 0"
    assert "trained_on" not in info.metadata
    quality = float(info.metadata["held_out_quality"].split()[1])
    held_out = pairs_of(folder, run_folder(folder))["test"]
    assert quality > np.mean([psnr_db(a, b) for a, b in zip(*held_out, strict=True)]) + 1.5
    assert f"PSNR {quality:.2f} dB" in capsys.readouterr().out
    assert len(painted) == 24 + 2
    frame = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    assert engine.Translator(style)(frame).shape == frame.shape


def test_it_is_measured_like_the_others(
    folder: Path, painted: list[int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(command(folder, "--max_steps", "2")) == 0
    style = run_folder(folder) / "negative.safetensors"
    asked = ["--model", "distillation", "--teacher", "any.onnx", "--teacher_style", "0", "--crop_size", "32"]
    capsys.readouterr()
    assert evaluate.main([str(style), "--dataroot", str(folder), *asked, "--crops", "24"]) == 0
    table = capsys.readouterr().out
    quality = inspect_checkpoint(style).metadata["held_out_quality"]
    assert table.splitlines()[-1].split()[1].startswith(quality.split()[1].split(",")[0][:4])
    assert len(painted) == 24 + 2  # the run's pairs are taken


def test_an_interrupted_run_resumes_to_the_bit(folder: Path, painted: list[int]) -> None:
    common = ["--max_steps", "13", "--warmup_steps", "9", "--pairs_dir", str(folder.parent / "pairs")]
    assert main(command(folder, *common, name="whole")) == 0
    run = train.Run(train.parse_options(command(folder, *common, name="parts")))
    step = run.model.step

    def interrupted(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if run.progress.steps + 1 == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(batch)

    run.model.step = interrupted  # type: ignore[method-assign, assignment]
    run.train()
    assert run.progress.steps == 7
    assert not (run_folder(folder, "parts") / "parts.safetensors").exists()
    assert main(command(folder, *common, "--continue_train", name="parts")) == 0
    whole, parts = (
        torch.load(run_folder(folder, name) / "latest_state.pth", weights_only=True) for name in ("whole", "parts")
    )
    assert_equal(whole["model"], parts["model"])
    assert_equal(whole["schedulers"], parts["schedulers"])
    assert (run_folder(folder, "parts") / "parts.safetensors").is_file()
    assert len(painted) == 24 + 2


def test_the_learning_rate_warms_up(folder: Path, painted: list[int]) -> None:
    options = ["--max_steps", "6", "--warmup_steps", "4", "--lr_policy", "constant"]
    run = train.Run(train.parse_options(command(folder, *options)))
    step, rates = run.model.step, []

    def watched(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rates.append(run.model.optimizers["G"].param_groups[0]["lr"])
        return step(batch)

    run.model.step = watched  # type: ignore[method-assign, assignment]
    run.train()
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


def test_minutes_are_the_default_and_steps_replace_them() -> None:
    asked = ["--dataroot", ".", "--model", "distillation"]
    assert train.parse_options(asked).max_minutes == 40.0
    assert train.parse_options([*asked, "--max_steps", "9"]).max_minutes is None
    both = train.parse_options([*asked, "--max_steps", "9", "--max_minutes", "2"])
    assert (both.max_steps, both.max_minutes) == (9, 2.0)
    assert train.parse_options(asked).compile
    assert not train.parse_options([*asked, "--no_compile"]).compile


def test_what_it_needs_is_said(
    folder: Path, any_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    any_teacher.unlink()
    bare = [part for part in command(folder) if part not in ("--teacher", "any.onnx")]
    assert "needs --teacher" in error_of(bare, capsys)
    assert "no teacher at any.onnx" in error_of(command(folder), capsys)
    assert "--dataset_mode distillation only" in error_of(command(folder, "--dataset_mode", "single"), capsys)
    (tmp_path / "empty").mkdir()
    assert "no images" in error_of(command(tmp_path / "empty"), capsys)


# --- pairs ---


def test_pairs_are_painted_once(folder: Path, tmp_path: Path, painted: list[int]) -> None:
    first = pairs_of(folder, tmp_path, crops=10)
    count = len(painted)
    second = pairs_of(folder, tmp_path, crops=10)
    assert count == len(first["train"][0]) + len(first["test"][0]) == 11
    assert len(painted) == count
    assert np.array_equal(first["train"][0], second["train"][0])
    assert np.array_equal(first["train"][1], 255 - first["train"][0])
    pairs_of(folder, tmp_path, crops=10, seed=1)
    assert len(painted) == 2 * count
    assert not list(tmp_path.glob("*.part"))


def test_the_last_pictures_of_each_folder_are_held_out(tmp_path: Path, painted: list[int]) -> None:
    for name, count, held_out in (("photos", 6, 1), ("film", 16, 2)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(count):  # black and white stay what they are when a crop is made darker or brighter
            colour = 255 if index >= count - held_out else 0
            cv2.imwrite(str(tmp_path / "images" / name / f"{index:02d}.png"), np.full((64, 64, 3), colour, np.uint8))
    pairs = pairs_of(tmp_path / "images", tmp_path, crops=400)
    assert np.unique(pairs["train"][0]).tolist() == [0]
    assert np.unique(pairs["test"][0]).tolist() == [255]
    assert [len(pairs[phase][0]) for phase in ("train", "test")] == [400, 40]


def test_more_folders_are_read(folder: Path, tmp_path: Path, painted: list[int]) -> None:
    more = TeacherOptions(Path("any.onnx"), 0, crops=20, noise=0.0, kept_in=tmp_path)
    both = teacher_pairs([folder / "film", folder / "photos"], more, crop_size=32)
    one = teacher_pairs([folder / "film"], more, crop_size=32)
    assert len(both["train"][0]) == len(one["train"][0]) == 20
    assert not np.array_equal(both["train"][0], one["train"][0])
    with pytest.raises(SourceError, match="no folder"):
        teacher_pairs([tmp_path / "absent"], more, crop_size=32)


@pytest.mark.parametrize("shape", [(31, 47), (240, 320), (1080, 1920)])
def test_a_crop_has_its_size_whatever_the_picture(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 90, np.uint8)
    for seed in range(8):
        assert random_crop(picture, 64, np.random.default_rng(seed)).shape == (64, 64, 3)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path, painted: list[int]) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"broken\.png"):
        pairs_of(tmp_path, tmp_path, crops=2)


def test_a_missing_onnxruntime_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "teacher.onnx").write_bytes(b"a network")
    with pytest.raises(EngineError, match=r"pip install 'streamgan\[train\]'"):
        load_teacher(tmp_path / "teacher.onnx", 0)


def test_a_teacher_that_is_none_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineError, match="no teacher at"):
        load_teacher(tmp_path / "absent.onnx", 0)
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(EngineError, match=r"is not an ONNX network[^\n]*$"):
        load_teacher(tmp_path / "broken.onnx", 0)


# --- losses and metrics ---


def test_the_loss_is_zero_for_equal_pictures_alone() -> None:
    picture = torch.rand(1, 3, 32, 32) * 2.0 - 1.0
    loss = PIXEL_LOSSES["multiscale_l1"]
    assert loss(picture, picture).item() == 0.0
    # a constant difference has no gradients: 1 + 0.5 + 0.5 + 0.5 times it
    assert loss(picture, picture + 0.1).item() == pytest.approx(0.25, rel=1e-4)


def test_psnr_and_ssim_have_their_known_values() -> None:
    picture = np.random.default_rng(0).integers(0, 200, (40, 40, 3), dtype=np.uint8)
    assert psnr_db(picture, picture) == float("inf")
    assert psnr_db(picture, picture + np.uint8(1)) == pytest.approx(48.13, abs=0.01)  # 20 log10(255)
    assert ssim(picture, picture) == pytest.approx(1.0)
    assert ssim(picture, 255 - picture) < 0.0
