"""CUT: its loss against a definition in loops, its step, and its files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import engine
from engine.errors import EngineError
from tests.training.pictures import unaligned_folder
from training.models import make_model
from training.models.cut import Cut, PatchProjection, patch_nce
from training.options import parse_options
from training.train import main

SMALL = ["--dataroot", ".", "--netG", "resnet_5blocks", "--ngf", "4", "--ndf", "4"]
SMALL += ["--netD", "n_layers", "--n_layers_D", "1", "--precision", "fp32"]


def made(*arguments: str, preset: str = "cut") -> Cut:
    torch.manual_seed(0)
    model = make_model(parse_options([*SMALL, "--preset", preset, *arguments]), torch.device("cpu"))
    assert isinstance(model, Cut)
    return model


def batch() -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(3)
    return {name: torch.rand(2, 3, 32, 32, generator=source) * 2 - 1 for name in "AB"}


def defined_nce(queries: Tensor, keys: Tensor, temperature: float) -> float:
    """-log(exp(q.k+ / t) / (exp(q.k+ / t) + the sum of exp(q.k- / t))), the k- being other places of the image."""
    q, k = queries.detach().double().numpy(), keys.detach().double().numpy()
    losses = []
    for image in range(q.shape[0]):
        for place in range(q.shape[1]):
            own = math.exp(np.dot(q[image, place], k[image, place]) / temperature)
            others = [np.dot(q[image, place], k[image, n]) for n in range(k.shape[1]) if n != place]
            losses.append(-math.log(own / (own + sum(math.exp(value / temperature) for value in others))))
    return float(np.mean(losses))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_patch_nce_is_its_definition(temperature: float) -> None:
    queries, keys = (torch.nn.functional.normalize(torch.randn(3, 7, 5), dim=2).requires_grad_() for _ in range(2))
    loss = patch_nce(queries, keys, temperature)
    assert float(loss.detach()) == pytest.approx(defined_nce(queries, keys, temperature), rel=1e-5)
    loss.backward()
    assert queries.grad is not None
    assert keys.grad is None


def test_projection_takes_the_places_that_are_named_and_gives_unit_vectors() -> None:
    projection = PatchProjection([3], 6)
    feature = torch.randn(2, 3, 4, 5)
    (vectors,) = projection([feature], [torch.tensor([7, 0])])
    mlp = projection.get_submodule("mlp_0")
    expected = mlp(feature[1, :, 1, 2])  # place 7 of rows of 5
    torch.testing.assert_close(vectors[1, 0], expected / expected.norm())
    torch.testing.assert_close(vectors.norm(dim=2), torch.ones(2, 2))


def test_features_are_those_of_the_published_layers_and_are_not_changed_later() -> None:
    model = made()
    layers = model.generator("G").get_submodule("model")
    image, expected = batch()["A"], []
    x = image
    for number, layer in enumerate(layers.children()):
        x = layer(x)
        if number in (0, 4, 8, 12, 16):
            expected.append(x.clone())
    assert [feature.shape[1] for feature in expected] == [3, 8, 16, 16, 16]
    for feature, wanted in zip(model.features(image), expected, strict=True):
        torch.testing.assert_close(feature, wanted)


@pytest.mark.parametrize(("preset", "terms"), [("cut", {"NCE", "NCE_Y"}), ("fastcut", {"NCE"})])
def test_a_step_moves_all_networks(preset: str, terms: set[str]) -> None:
    model = made(preset=preset)
    before = {name: [p.clone() for p in net.parameters()] for name, net in model.networks.items()}
    losses = model.step(batch())
    assert losses.keys() == terms | {"G_GAN", "D"}
    for name, network in model.networks.items():
        changed = [not torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True)]
        assert any(changed), name


def test_the_loss_of_a_copy_is_low_and_a_flipped_output_is_flipped_back() -> None:
    model, image = made(), batch()["A"]
    other = image.roll(7, dims=3)
    assert model.nce_loss(image, image) < model.nce_loss(image, other)
    with torch.no_grad():
        model.networks["F"] = PatchProjection([3, 8, 16, 16, 16], 0, learned=False)
    model._layers = [0]
    torch.manual_seed(1)
    same = float(model.nce_loss(image, image).detach())
    torch.manual_seed(1)
    assert float(model.nce_loss(image, image.flip(3), is_flipped=True).detach()) == pytest.approx(same, rel=1e-4)


def test_weights_of_the_terms() -> None:
    torch.manual_seed(0)
    whole = made("--lambda_NCE", "2").step(batch())
    torch.manual_seed(0)
    half = made("--lambda_NCE", "1").step(batch())
    assert float(whole["NCE"]) == pytest.approx(2 * float(half["NCE"]), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--netG", "unet_32"], "ResNet"),
        (["--nce_layers", "0,99"], "nce_layers"),
        (["--nce_layers", "4,0"], "nce_layers"),
        (["--output_nc", "1"], "equal"),
    ],
)
def test_what_does_not_fit(arguments: list[str], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        made(*arguments)


def test_a_run_leaves_cuts_files_which_the_engine_reads_and_goes_on(tmp_path: Path) -> None:
    root = unaligned_folder(tmp_path / "data", 3)
    where = ["--dataroot", str(root), "--checkpoints_dir", str(tmp_path), "--name", "run"]
    size = ["--load_size", "36", "--crop_size", "32", "--no_tensorboard"]
    assert main([*SMALL, "--preset", "fastcut", *where, *size, "--max_steps", "2"]) == 0
    assert main([*SMALL, "--preset", "fastcut", *where, *size, "--max_steps", "3", "--continue_train"]) == 0
    projection = torch.load(tmp_path / "run/latest_net_F.pth", weights_only=True)
    assert {f"mlp_{n}.{layer}.{kind}" for n in range(5) for layer in (0, 2) for kind in ("weight", "bias")} == set(
        projection
    )
    discriminator = torch.load(tmp_path / "run/latest_net_D.pth", weights_only=True)
    assert "model.2.filt" in discriminator
    generator = engine.load_generator(tmp_path / "run/latest_net_G.pth")
    assert generator.config.upsampling == generator.config.downsampling == "blur"  # type: ignore[attr-defined]
