"""The command line of training: files, resuming, stopping, bad input."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import engine
from engine.checkpoint import inspect_checkpoint
from tests.training.pictures import aligned_folder, unaligned_folder, write_folder
from training import train
from training.train import main

TINY = ["--ngf", "4", "--ndf", "4", "--load_size", "36", "--crop_size", "32", "--precision", "fp32", "--no_tensorboard"]
QUIET = ["--display_freq", "1000000", "--save_latest_freq", "1000000"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return aligned_folder(tmp_path / "data", 5)


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    return unaligned_folder(tmp_path / "data", 5)


def pix2pix(root: Path, *arguments: str, name: str = "run") -> list[str]:
    where = ["--dataroot", str(root), "--name", name, "--checkpoints_dir", str(root.parent / "checkpoints")]
    return [*where, "--model", "pix2pix", "--netG", "unet_16", "--netD", "pixel", *TINY, *arguments]


def cycle_gan(root: Path, *arguments: str, name: str = "run") -> list[str]:
    where = ["--dataroot", str(root), "--name", name, "--checkpoints_dir", str(root.parent / "checkpoints")]
    return [*where, "--model", "cycle_gan", "--netG", "resnet_1blocks", "--netD", "pixel", *TINY, *arguments]


def folder_of(root: Path, name: str = "run") -> Path:
    return root.parent / "checkpoints" / name


def weights(folder: Path, network: str = "G") -> dict[str, torch.Tensor]:
    return torch.load(folder / f"latest_net_{network}.pth", weights_only=True)  # type: ignore[no-any-return]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    written = capsys.readouterr().err
    lines = written.strip().splitlines()
    assert "Traceback" not in written
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_run_leaves_what_it_promises(domains: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = cycle_gan(domains, "--max_steps", "6", "--print_freq", "2", "--display_freq", "3", "--ema", "0.9")
    assert main(arguments) == 0
    folder = folder_of(domains)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    networks = {f"latest_net_{name}.pth" for name in ("G_A", "G_B", "D_A", "D_B", "G_A_ema", "G_B_ema")}
    pictures = {f"web/images/step_{step:08d}_epoch_0001.png" for step in (1, 3, 6)}
    assert files == networks | pictures | {"latest_state.pth", "options.json", "losses.csv", "web/index.html"}
    page = (folder / "web/index.html").read_text()
    assert page.index("step_00000006") < page.index("step_00000003") < page.index("step_00000001")
    rows = list(csv.DictReader((folder / "losses.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "4", "6"]
    assert set(rows[0]) >= {"epoch", "learning_rate", "G_A", "cycle_A", "idt_A", "D_A"}
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    printed = capsys.readouterr().out
    assert "images/s" in printed
    assert "left" in printed
    frame = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    for name in ("G_A", "G_B", "G_A_ema"):
        translated = engine.Translator(folder / f"latest_net_{name}.pth")(frame)
        assert translated.shape == frame.shape


@pytest.mark.parametrize(
    "variant",
    [
        ["--netG", "resnet_2blocks"],
        ["--netG", "resnet_2blocks", "--norm", "batch"],
        ["--netG", "resnet_2blocks", "--upsampling", "nearest"],
        ["--netG", "resnet_2blocks", "--downsampling_padding", "reflect", "--no_dropout"],
        ["--netG", "unet_32"],
        ["--netG", "unet_32", "--norm", "instance"],
    ],
)
def test_the_engine_reads_what_was_trained(pairs: Path, variant: list[str]) -> None:
    """The generator that the engine builds from the file alone gives what the trained one gives."""
    options = train.parse_options(pix2pix(pairs, *QUIET, "--max_steps", "2", *variant))
    run = train.Run(options)
    run.train()
    path = folder_of(pairs) / "latest_net_G.pth"
    loaded = engine.load_generator(path)
    trained = run.model.generator("G").eval()
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(loaded(image), trained(image), atol=1e-5)
    config = inspect_checkpoint(path).config
    if isinstance(config, engine.generators.ResNetConfig):
        assert config.downsampling_padding == ("reflect" if "reflect" in variant else "zeros")


@pytest.mark.parametrize("policy", ["linear", "plateau"])
@pytest.mark.parametrize("model", ["pix2pix", "cycle_gan"])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path: Path, model: str, policy: str) -> None:
    """Stopped in the middle of an epoch, with dropout, a pool, a moving average and a changing learning rate."""
    if model == "pix2pix":
        root, command = aligned_folder(tmp_path / "data", 5), pix2pix
    else:
        root, command = unaligned_folder(tmp_path / "data", 5), cycle_gan
    common = [*QUIET, "--n_epochs", "1", "--n_epochs_decay", "2", "--ema", "0.99", "--pool_size", "3"]
    common += ["--lr_policy", policy]
    assert main(command(root, *common, name="whole")) == 0
    _stop_after(7, command(root, *common, name="parts"))
    assert main(command(root, *common, "--continue_train", name="parts")) == 0
    whole, parts = (torch.load(folder_of(root, n) / "latest_state.pth", weights_only=True) for n in ("whole", "parts"))
    assert whole["progress"]["steps"] == parts["progress"]["steps"]
    assert_equal(whole["model"], parts["model"])
    assert_equal(whole["schedulers"], parts["schedulers"])
    assert_equal(whole["watched"], parts["watched"])
    assert torch.equal(whole["random"]["cpu"], parts["random"]["cpu"])


def _stop_after(steps: int, arguments: list[str]) -> None:
    run = train.Run(train.parse_options(arguments))
    step = run.model.step

    def counted(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if run.progress.steps + 1 == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return step(batch)

    run.model.step = counted  # type: ignore[method-assign, assignment]
    run.train()
    assert run.stopped_by == signal.SIGINT
    assert run.progress.steps == steps


def assert_equal(a: object, b: object) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()  # type: ignore[attr-defined]
        for key, value in a.items():
            assert_equal(value, b[key])  # type: ignore[index]
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):  # type: ignore[call-overload]
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)  # type: ignore[arg-type]
    else:
        assert a == b


def test_a_signal_saves_and_tells_how_to_go_on(pairs: Path) -> None:
    command = [sys.executable, "-m", "training.train", *pix2pix(pairs, "--print_freq", "1", "--n_epochs", "100000")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "step 3:" not in process.stdout.readline():
        time.sleep(0)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "--continue_train goes on from there" in error
    assert "Traceback" not in error
    assert weights(folder_of(pairs))
    assert main(pix2pix(pairs, *QUIET, "--continue_train", "--max_steps", "1")) == 0


def test_the_learning_rate_falls_over_the_steps_that_are_given(pairs: Path) -> None:
    arguments = pix2pix(
        pairs, *QUIET, "--max_steps", "20", "--print_freq", "1", "--n_epochs", "5", "--n_epochs_decay", "5"
    )
    assert main(arguments) == 0
    rates = [float(row["learning_rate"]) for row in csv.DictReader((folder_of(pairs) / "losses.csv").open())]
    assert rates[:8] == [2e-4] * 8
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0.0


def test_tensorboard_files_are_written_where_it_is_installed(pairs: Path) -> None:
    pytest.importorskip("tensorboard")
    arguments = [part for part in pix2pix(pairs, *QUIET, "--max_steps", "2") if part != "--no_tensorboard"]
    assert main(arguments) == 0
    assert list((folder_of(pairs) / "tensorboard").glob("events.*"))


def test_minutes_end_it(pairs: Path) -> None:
    start = time.monotonic()
    assert main(pix2pix(pairs, *QUIET, "--max_minutes", "0.02", "--n_epochs", "100000")) == 0
    assert time.monotonic() - start < 30


def test_epochs_are_kept(pairs: Path) -> None:
    assert main(pix2pix(pairs, *QUIET, "--n_epochs", "2", "--n_epochs_decay", "1", "--save_epoch_freq", "2")) == 0
    names = {path.name for path in folder_of(pairs).glob("*_net_G.pth")}
    assert names == {"2_net_G.pth", "latest_net_G.pth"}


def test_super_resolution_and_colorization_run(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data/train", 3, size=(80, 72)).parent
    where = ["--dataroot", str(root), "--checkpoints_dir", str(tmp_path / "c"), *TINY, *QUIET, "--max_steps", "2"]
    small = ["--n_blocks", "1", "--batch_size", "2", "--crop_size", "64"]
    assert main([*where, "--model", "super_resolution", *small, "--scale", "2", "--name", "sr"]) == 0
    assert engine.Translator(tmp_path / "c/sr/latest_net_G.pth").scale == 2
    assert main([*where, "--model", "colorization", "--netG", "unet_16", "--netD", "pixel", "--name", "colour"]) == 0


def test_a_pretrained_generator_is_where_a_run_begins(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(pix2pix(pairs, *QUIET, "--max_steps", "3", name="first")) == 0
    first = folder_of(pairs, "first") / "latest_net_G.pth"
    assert main(pix2pix(pairs, *QUIET, "--max_steps", "1", "--lr", "0", "--pretrained", str(first))) == 0
    begun, kept = weights(folder_of(pairs)), weights(folder_of(pairs, "first"))
    assert all(torch.equal(begun[key], kept[key]) for key in kept if "running" not in key and "num_" not in key)
    other = pix2pix(pairs, "--netG", "unet_32", "--pretrained", str(first), name="other")
    assert "is U-Net 16" in error_of(other, capsys)
    assert "models of one generator" in error_of(cycle_gan(pairs, "--pretrained", str(first), name="b"), capsys)


# --- bad input ---


def test_missing_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no folder" in error_of(pix2pix(tmp_path / "nowhere"), capsys)
    write_folder(tmp_path / "data/trainA", 1)
    (tmp_path / "data/trainB").mkdir()
    assert "no images in" in error_of(cycle_gan(tmp_path / "data"), capsys)


def test_sizes_that_a_unet_cannot_take(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(pix2pix(pairs, "--netG", "unet_256"), capsys)
    assert "--crop_size 32 is no multiple of 256" in line


def test_a_state_of_another_model_or_network(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to go on from" in error_of(pix2pix(pairs, "--continue_train"), capsys)
    assert main(pix2pix(pairs, *QUIET, "--max_steps", "1")) == 0
    capsys.readouterr()
    other = error_of(pix2pix(pairs, "--continue_train", "--netG", "unet_32"), capsys)
    assert "saved network G is another one" in other
    wide = error_of(pix2pix(pairs, "--continue_train", "--ngf", "8"), capsys)
    assert "saved network G is another one" in wide
    other_root = unaligned_folder(pairs.parent / "unaligned")
    assert "the state of --model pix2pix" in error_of(cycle_gan(other_root, "--continue_train"), capsys)
    (folder_of(pairs) / "latest_state.pth").write_bytes(b"PK\x03\x04 damaged")
    assert "latest_state.pth" in error_of(pix2pix(pairs, "--continue_train"), capsys)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pix2pix(pairs, *QUIET, "--max_steps", "2")) == 0
    before = (folder_of(pairs) / "latest_net_G.pth").read_bytes()
    capsys.readouterr()
    line = error_of(pix2pix(pairs, "--continue_train", "--max_steps", "50", "--lambda_L1", "1e39"), capsys)
    assert "at step" in line
    assert "the loss G_" in line or "the loss D" in line
    assert (folder_of(pairs) / "latest_net_G.pth").read_bytes() == before


def test_a_new_run_does_not_write_over_another(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(pix2pix(pairs, *QUIET, "--max_steps", "1")) == 0
    before = {path: path.read_bytes() for path in folder_of(pairs).rglob("*") if path.is_file()}
    capsys.readouterr()
    assert "holds a run: go on with it by --continue_train" in error_of(pix2pix(pairs, "--max_steps", "1"), capsys)
    assert {path: path.read_bytes() for path in folder_of(pairs).rglob("*") if path.is_file()} == before


def test_a_full_disk_leaves_the_old_checkpoint(
    pairs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(pix2pix(pairs, *QUIET, "--max_steps", "1")) == 0
    before = {path.name: path.read_bytes() for path in folder_of(pairs).glob("*.pth")}
    capsys.readouterr()

    def fail(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    line = error_of(pix2pix(pairs, *QUIET, "--continue_train", "--max_steps", "3"), capsys)
    assert "the disk is full; what was there is untouched" in line
    assert {path.name: path.read_bytes() for path in folder_of(pairs).glob("*.pth")} == before
    assert not list(folder_of(pairs).glob(".*.part"))


def test_options_that_do_not_go_together(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--batch_size 1" in error_of(pix2pix(pairs, "--preprocess", "none", "--batch_size", "2"), capsys)
    assert "unknown generator 'resnet'" in error_of(pix2pix(pairs, "--netG", "resnet"), capsys)
    unsavable = ["--netG", "resnet_2blocks", "--downsampling_padding", "reflect", "--norm", "none", "--no_dropout"]
    assert "saved with a norm" in error_of(pix2pix(pairs, *unsavable), capsys)
    assert "--vgg" in error_of(["--dataroot", str(pairs), "--model", "style", *TINY], capsys)


# --- several processes ---


def test_two_processes_train_as_one_with_the_doubled_batch(domains: Path) -> None:
    """Losses of 8 steps, one process with a batch of 2 against two gloo processes with one image each."""
    common = [*QUIET, "--print_freq", "1", "--batch_size", "2", "--max_steps", "8", "--gan_mode", "ragan"]
    assert main(cycle_gan(domains, *common, name="one")) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "-m", "training.train", *cycle_gan(domains, *common, name="two")],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = [list(csv.DictReader((folder_of(domains, n) / "losses.csv").open())) for n in ("one", "two")]
    assert len(tables[0]) == len(tables[1]) == 8
    for one, two in zip(*tables, strict=True):
        for name in one:
            assert float(one[name]) == pytest.approx(float(two[name]), abs=1e-4, rel=1e-4), (name, one["step"])
