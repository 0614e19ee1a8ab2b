"""Measuring trained generators beside what costs nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.parity import psnr_db
from tests.training.pictures import aligned_folder, write_folder
from tests.training.test_frechet import random_state
from training.evaluate import main
from training.metrics import ssim
from training.train import main as train

TINY = ["--ngf", "4", "--ndf", "4", "--precision", "fp32", "--no_tensorboard", "--display_freq", "1000000"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with pairs, and two checkpoints."""
    root = tmp_path_factory.mktemp("evaluate")
    aligned_folder(root / "data", 4, side=40)
    write_folder(root / "data/test", 3, size=(80, 40), seed=50)
    arguments = ["--dataroot", str(root / "data"), "--model", "pix2pix", "--netG", "unet_16", "--netD", "pixel", *TINY]
    sizes = ["--load_size", "36", "--crop_size", "32", "--checkpoints_dir", str(root), "--name", "run"]
    assert train([*arguments, *sizes, "--n_epochs", "2", "--n_epochs_decay", "0", "--save_epoch_freq", "1"]) == 0
    return root / "data", [str(root / "run" / f"{epoch}_net_G.pth") for epoch in (1, 2)]


def test_a_table_beside_the_baselines(
    trained: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, checkpoints = trained
    torch.save(random_state(), tmp_path / "features.pth")
    arguments = [*checkpoints, "--dataroot", str(data), "--model", "pix2pix", "--json", str(tmp_path / "result.json")]
    arguments += [
        "--efficientnet",
        str(tmp_path / "features.pth"),
        "--best",
        "psnr",
        "--keep_best",
        str(tmp_path / "b.pth"),
    ]
    assert main([*arguments, "--pictures", str(tmp_path / "look")]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["images"] == 3
    assert set(result["results"]) == {"mean colour", "input", *checkpoints}
    assert all(set(values) == {"psnr", "ssim", "frechet"} for values in result["results"].values())
    best = max(checkpoints, key=lambda name: result["results"][name]["psnr"])
    assert (tmp_path / "b.pth").read_bytes() == Path(best).read_bytes()
    assert f"best by psnr: {best}" in capsys.readouterr().out
    assert list((tmp_path / "look/web/images").glob("*.png"))


def test_the_input_as_output_is_measured_right(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    data, checkpoints = trained
    result = tmp_path / "result.json"
    assert main([checkpoints[0], "--dataroot", str(data), "--model", "pix2pix", "--json", str(result)]) == 0
    from training.data.images import read_image

    pictures = [read_image(path) for path in sorted((data / "test").iterdir())]
    # 40 pixels are no multiple of 16: pictures are resized to 48 before they are compared.
    measured = json.loads(result.read_text())["results"]["input"]["psnr"]
    expected = np.mean([psnr_db(p[:, :40], p[:, 40:]) for p in pictures])
    assert measured == pytest.approx(expected, abs=0.7)


def test_what_needs_weights_or_pairs_is_said(
    trained: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    data, checkpoints = trained
    common = [checkpoints[0], "--dataroot", str(data), "--model", "pix2pix"]
    assert main([*common, "--best", "fid"]) == 1
    assert "--best fid was not measured" in capsys.readouterr().err
    assert main([*common, "--phase", "nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: no folder")
    assert main(["missing.pth", *common[1:]]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_ssim_of_known_pictures() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert ssim(picture, picture) == pytest.approx(1)
    assert ssim(picture, 255 - picture) < 0
    flat = np.full((32, 32, 3), 100, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(flat, flat + 20) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1), rel=1e-6)
