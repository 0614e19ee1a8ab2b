"""Command lines of the reference's README and of people's shell histories, and folders that the reference left."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import training.test as tester
from engine import cli
from tests.training.pictures import aligned_folder, unaligned_folder, write_folder, write_picture
from training import evaluate
from training.data import Transform, open_dataset
from training.options import parse_options
from training.run_folder import RunFolder
from training.train import main


def read(path: object) -> np.ndarray:  # type: ignore[type-arg]
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


SMALL = ["--ngf", "4", "--ndf", "4", "--load_size", "36", "--crop_size", "32"]
SMALL += ["--precision", "fp32", "--no_tensorboard", "--max_steps", "1"]
NETWORKS = {
    "cycle_gan": ["--netG", "resnet_1blocks", "--netD", "pixel"],
    "pix2pix": ["--netG", "unet_16", "--netD", "pixel"],
}


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str], command=main) -> str:  # type: ignore[no-untyped-def]
    try:
        status: object = command(arguments)
    except SystemExit as end:
        status = end.code
    assert status not in (0, None)
    written = capsys.readouterr().err
    lines = [line for line in written.strip().splitlines() if not line.startswith("without effect")]
    assert "Traceback" not in written
    assert len(lines) == 1, written
    return lines[0]


def test_readme_commands_train_and_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pasted, with networks small enough to run here."""
    monkeypatch.chdir(tmp_path)
    for kind in ("train", "test"):
        for domain in "AB":
            write_folder(Path(f"datasets/maps/{kind}{domain}"), 2)
        write_folder(Path(f"datasets/facades/{kind}"), 2, size=(80, 40))
    size = ["--crop_size", "32"]
    train = "--dataroot ./datasets/maps --name maps_cyclegan --model cycle_gan --display_id -1 --gpu_ids -1"
    assert main([*train.split(), *NETWORKS["cycle_gan"], *SMALL]) == 0
    assert (
        tester.main([*["--dataroot", "./datasets/maps", "--name", "maps_cyclegan", "--model", "cycle_gan"], *size]) == 0
    )
    train = "--dataroot ./datasets/facades --name facades_pix2pix --model pix2pix --direction BtoA"
    assert main([*train.split(), *NETWORKS["pix2pix"], *SMALL]) == 0
    test = "--dataroot ./datasets/facades --direction BtoA --model pix2pix --name facades_pix2pix"
    assert tester.main([*test.split(), *size]) == 0
    single = "--dataroot datasets/maps/testA --name maps_cyclegan --model test --no_dropout --model_suffix _A"
    assert tester.main([*single.split(), *size, "--results_dir", "single"]) == 0

    cycle = Path("results/maps_cyclegan/test_latest")
    labels = ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")
    assert {p.name for p in (cycle / "images").iterdir()} == {f"{n:03d}_{x}.png" for n in range(2) for x in labels}
    pairs = Path("results/facades_pix2pix/test_latest")
    assert {p.name for p in (pairs / "images").iterdir()} == {
        f"{n:03d}_{x}.png" for n in range(2) for x in ("real_A", "fake_B", "real_B")
    }
    for folder in (cycle, pairs, Path("single/maps_cyclegan/test_latest")):
        page = (folder / "index.html").read_text()
        assert all(f'src="images/{path.name}"' in page for path in (folder / "images").iterdir())
    original = read("datasets/facades/test/000.png")[:, 40:]
    shown = read(str(pairs / "images/000_real_A.png"))
    wanted = cv2.resize(original, (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - wanted).max() <= 1  # B is the input


def test_old_names_mean_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    old = (
        "--dataroot . --model pix2pix --loadSize 300 --fineSize 200 --batchSize 3 --niter 7 --niter_decay 8 "
        "--nThreads 1 --which_direction BtoA --which_model_netG unet_128 --no_lsgan --max_dataset_size inf "
        "--norm syncbatch "
        "--gpu_ids -1 --display_id 0 --no_html --update_html_freq 10 --save_by_iter --phase val --use_wandb "
        "--display_port=8097 --epoch_count 2"
    )
    options = parse_options(old.split())
    wanted = {
        "load_size": 300, "crop_size": 200, "batch_size": 3, "n_epochs": 7, "n_epochs_decay": 8, "num_threads": 1,
        "direction": "BtoA", "netG": "unet_128", "gan_mode": "vanilla", "max_dataset_size": None, "norm": "batch",
        "device": "cpu", "phase": "val", "epoch_count": 2,
    }  # fmt: skip
    assert {name: getattr(options, name) for name in wanted} == wanted
    named = capsys.readouterr().err
    ignored = ["--display_id", "--no_html", "--update_html_freq", "--save_by_iter", "--use_wandb", "--display_port"]
    assert named == f"without effect here: {', '.join(ignored)}\n"


def test_cut_and_gan_compression_names() -> None:
    options = parse_options(
        ["--dataroot", ".", "--name", "x", "--CUT_mode", "FastCUT", "--lambda_GAN", "2", "--no_antialias_up"]
    )
    assert (options.model, options.lambda_NCE, options.nce_idt, options.lambda_gan) == ("cut", 10.0, False, 2.0)
    assert (options.upsampling, options.downsampling) == ("transposed", "blur")
    theirs = "--dataroot . --model pix2pix --log_dir logs/pix2pix/shoes --nepochs 5 --nepochs_decay 15"
    theirs += " --real_stat_path x.npz"
    options = parse_options(theirs.split())
    assert (options.checkpoints_dir, options.name) == (Path("logs/pix2pix"), "shoes")
    assert (options.n_epochs, options.n_epochs_decay) == (5, 15)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--lamda_A", "3"], "--lambda_A"),
        (["--suffix", "x"], "--name"),
        (["--gpu_ids", "0,1"], "torchrun"),
        (["--name", "../x"], "--name"),
        (["--input_nc", "7"], "input_nc"),
        (["--netD", "nothing"], "netD"),
        (["--gpu_ids"], "gpu_ids"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert part in error_of(["--dataroot", ".", "--model", "cycle_gan", *arguments], capsys)


def test_tests_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--dataroot", str(tmp_path), "--checkpoints_dir", str(tmp_path), "--name", "none"]
    assert "latest_net_G_A.pth" in error_of(where, capsys, tester.main)
    assert "--results_dir" in error_of([*where, "--result_dir", "x"], capsys, tester.main)
    assert tester.parse_options([*where, "--how_many", "3", "--fineSize", "64"]).load_size == 64


def run_of(root: Path, *arguments: str, model: str = "cycle_gan") -> list[str]:
    where = ["--dataroot", str(root), "--name", "run", "--checkpoints_dir", str(root.parent / "c")]
    return [*where, "--model", model, *NETWORKS[model], *SMALL, *arguments]


def test_networks_alone_are_continued_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, folder = unaligned_folder(tmp_path / "data", 2), tmp_path / "c/run"
    assert main(run_of(root)) == 0
    (folder / "latest_state.pth").unlink()
    before = (folder / "latest_net_G_A.pth").read_bytes()
    assert "--restart" in error_of(run_of(root), capsys)
    assert (folder / "latest_net_G_A.pth").read_bytes() == before

    # With a learning rate of nothing the networks that are saved are those that were there.
    assert main(run_of(root, "--continue_train", "--lr", "0")) == 0
    assert "new optimizers" in capsys.readouterr().out
    after = torch.load(folder / "latest_net_G_A.pth", weights_only=True)
    torch.testing.assert_close(after, torch.load(_copy(folder, before), weights_only=True))

    (folder / "latest_state.pth").unlink()
    (folder / "latest_net_D_A.pth").unlink()
    assert "latest_net_D_A.pth" in error_of(run_of(root, "--continue_train"), capsys)
    assert main(run_of(root, "--restart")) == 0


def _copy(folder: Path, data: bytes) -> Path:
    path = folder.parent / "before.pth"
    path.write_bytes(data)
    return path


def test_the_second_run_of_a_name_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, folder = unaligned_folder(tmp_path / "data", 2), RunFolder(tmp_path / "c/run")
    folder.make()
    folder.lock()
    assert "another process trains" in error_of(run_of(root), capsys)
    folder.unlock()
    assert main(run_of(root)) == 0


def test_epoch_count_begins_inside_the_schedule(tmp_path: Path) -> None:
    root = unaligned_folder(tmp_path / "data", 2)
    arguments = run_of(root, "--n_epochs", "1", "--n_epochs_decay", "3", "--epoch_count", "3")
    at = arguments.index("--max_steps")
    assert main([*arguments[:at], *arguments[at + 2 :], "--print_freq", "1"]) == 0
    rows = (tmp_path / "c/run/losses.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["3"] * 3 + ["4"] * 3
    rates = [float(row.split(",")[2]) for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < 2e-4


@pytest.mark.parametrize(("a", "b"), [(1, 3), (1, 1), (4, 4)])
def test_grey_and_alpha(a: int, b: int, tmp_path: Path) -> None:
    root = aligned_folder(tmp_path / "data", 2)
    alpha = np.dstack((read(str(root / "train/000.png")), np.full((40, 80), 60, np.uint8)))
    assert cv2.imwrite(str(root / "train/000.png"), alpha)
    assert main(run_of(root, "--input_nc", str(a), "--output_nc", str(b), model="pix2pix")) == 0
    assert json.loads((tmp_path / "c/run/options.json").read_text())["input_nc"] == a
    weights = torch.load(tmp_path / "c/run/latest_net_G.pth", weights_only=True)
    assert a in next(iter(weights.values())).shape


def test_bad_files_are_named_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = unaligned_folder(tmp_path / "data", 2)
    whole = cv2.imencode(".jpg", read(str(root / "trainA/000.png")))[1].tobytes()
    (root / "trainA/good.jpg").write_bytes(whole + b"a camera's trailer")
    (root / "trainA/._1.jpg").write_bytes(b"junk")
    (root / "trainA/.ipynb_checkpoints").mkdir()
    (root / "trainA/.ipynb_checkpoints/a.png").write_bytes(b"junk")
    dark = read(str(root / "trainA/001.png")).astype(np.uint16) * 16
    assert cv2.imwrite(str(root / "trainA/dark.png"), dark)
    assert main(run_of(root)) == 0
    assert "dark.png" in capsys.readouterr().err

    (root / "trainA/short.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "trainB/none.png").write_bytes(b"")
    (root / "trainB/text.png").write_bytes(b"text")
    line = error_of(run_of(root, "--restart"), capsys)
    for name in ("3 of 10", "short.jpg (cut short)", "none.png (empty)", "text.png (can't be read"):
        assert name in line


def test_pairs_are_keyed_by_relative_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for domain in "AB":
        for number, folder in enumerate(("x", "y")):
            write_picture(root / f"train{domain}/{folder}/1.png", seed=number)
    options = parse_options(run_of(root, model="pix2pix"))
    dataset = open_dataset(options, Transform(mode="none", flip=False))
    for index in range(2):
        sample = dataset[0, index]
        torch.testing.assert_close(sample["A"], sample["B"])
    write_picture(root / "trainA/z/1.png")
    assert "z/1 is in one of" in error_of(run_of(root, model="pix2pix"), capsys)
    (root / "trainA/z/1.png").unlink()
    write_picture(root / "trainA/x/1.png", size=(60, 60))
    assert "equal sizes" in error_of(run_of(root, model="pix2pix"), capsys)


def test_a_wide_picture_is_scaled_so_that_the_crop_fits(tmp_path: Path) -> None:
    root = unaligned_folder(tmp_path / "data", 2, size=(400, 150))
    assert main(run_of(root, "--preprocess", "scale_width_and_crop")) == 0


def test_streamgan_test_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["streamgan"])
    with pytest.raises(SystemExit) as end:
        cli.main(["test", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "streamgan test" in shown
    assert "--num_test" in shown


def test_evaluate_writes_pages_too(tmp_path: Path) -> None:
    root = aligned_folder(tmp_path / "data", 2)
    write_folder(root / "test", 2, size=(80, 40))
    assert main(run_of(root, model="pix2pix")) == 0
    checkpoint = str(tmp_path / "c/run/latest_net_G.pth")
    where = ["--dataroot", str(root), "--model", "pix2pix", "--results_dir", str(tmp_path / "results")]
    size = ["--preprocess", "resize_and_crop", "--load_size", "32", "--crop_size", "32"]
    assert evaluate.main([checkpoint, *where, *size]) == 0
    folder = tmp_path / "results/run/test_latest_net_G"
    labels = ("real_A", "fake_B", "real_B")
    names = {path.name for path in (folder / "images").iterdir()}
    assert names == {f"{n:03d}_{x}.png" for n in range(2) for x in labels}
    assert "images/001_fake_B.png" in (folder / "index.html").read_text()
