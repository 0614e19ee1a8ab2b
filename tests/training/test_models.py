"""Steps of every model with every generator, discriminator and GAN loss: what moves, and what the losses are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.pictures import write_picture
from tests.training.published import discriminator_loss, generator_loss
from tests.training.vgg import random_layers, torchvision_state, written_out
from training.data.images import read_image
from training.discriminators import DISCRIMINATORS, UNetDiscriminator
from training.losses import GAN_MODES
from training.models import TrainingModel, make_model
from training.options import parse_options

GENERATORS: dict[str, list[str]] = {
    "resnet": ["--netG", "resnet_1blocks"],
    "resize": ["--netG", "resnet_1blocks", "--upsampling", "nearest"],
    "reflect": ["--netG", "resnet_1blocks", "--downsampling_padding", "reflect"],
    "unet": ["--netG", "unet_16"],
}


def made(model: str, *arguments: str) -> TrainingModel:
    small = ["--ngf", "4", "--ndf", "4", "--precision", "fp32"]
    options = parse_options(["--dataroot", ".", "--model", model, *small, *arguments])
    torch.manual_seed(0)
    model = make_model(options, torch.device("cpu"))
    for network in model.networks.values():
        if isinstance(network, UNetDiscriminator):
            _settle(network)
    return model


@torch.no_grad()
def _settle(network: UNetDiscriminator) -> None:
    """Every call refines the estimated spectral norms: afterwards another order of calls gives nearly the same."""
    image = torch.zeros(1, network.conv0.in_channels, 32, 32)
    for _ in range(100):
        network(image)


def batch_for(model: TrainingModel, *, count: int = 2) -> dict[str, Tensor]:
    side = 64 if model.options.netD in ("vgg", "basic", "reflect") else 32
    source = torch.Generator().manual_seed(5)
    channels = (1, 2) if model.options.model == "colorization" else (3, 3)
    a, b = (torch.rand(count, c, side, side, generator=source) * 2 - 1 for c in channels)
    if model.options.model == "super_resolution":
        b = (b + 1) / 2
        a = torch.nn.functional.avg_pool2d(b, model.options.scale)
    return {"A": a, "B": b}


def double(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).double().requires_grad_(False)


def values(output: Tensor) -> Any:
    return output.detach().double().numpy()


def l1(a: Tensor, b: Tensor) -> float:
    return float(np.abs(values(a) - values(b)).mean())


def moved(model: TrainingModel, before: dict[str, dict[str, Tensor]]) -> None:
    """Every weight of every network changed."""
    for name, network in model.networks.items():
        for key, parameter in network.named_parameters():
            if parameter.dim() > 1:
                assert not torch.equal(parameter, before[name][key]), f"{name}.{key} did not move"


def state(model: TrainingModel) -> dict[str, dict[str, Tensor]]:
    return {n: {k: p.detach().clone() for k, p in m.named_parameters()} for n, m in model.networks.items()}


def tolerance(model: TrainingModel) -> dict[str, float]:
    return {"rel": 1e-2, "abs": 1e-3} if model.options.netD == "unet" else {"rel": 1e-4, "abs": 1e-5}


@pytest.mark.parametrize("gan_mode", GAN_MODES)
@pytest.mark.parametrize("net_d", DISCRIMINATORS)
@pytest.mark.parametrize("generator", GENERATORS)
def test_cycle_gan(generator: str, net_d: str, gan_mode: str) -> None:
    model = made("cycle_gan", "--netD", net_d, "--gan_mode", gan_mode, *GENERATORS[generator])
    batch, before = batch_for(model), state(model)
    a, b = batch["A"].double(), batch["B"].double()
    g_a, g_b, d_a, d_b = (double(model.networks[name]) for name in ("G_A", "G_B", "D_A", "D_B"))
    fake_b, fake_a = g_a(a), g_b(b)
    losses = model.step(batch)
    moved(model, before)
    close = tolerance(model)
    assert float(losses["cycle_A"]) == pytest.approx(10 * l1(g_b(fake_b), a), **close)
    assert float(losses["cycle_B"]) == pytest.approx(10 * l1(g_a(fake_a), b), **close)
    assert float(losses["idt_A"]) == pytest.approx(5 * l1(g_a(b), b), **close)
    assert float(losses["idt_B"]) == pytest.approx(5 * l1(g_b(a), a), **close)
    r, f = values(d_a(b)), values(d_a(fake_b))
    assert float(losses["G_A"]) == pytest.approx(generator_loss(gan_mode, r, f), **close)
    if gan_mode != "wgangp":
        assert float(losses["D_A"]) == pytest.approx(0.5 * discriminator_loss(gan_mode, r, f), **close)
        r, f = values(d_b(a)), values(d_b(fake_a))
        assert float(losses["D_B"]) == pytest.approx(0.5 * discriminator_loss(gan_mode, r, f), **close)


@pytest.mark.parametrize("gan_mode", GAN_MODES)
@pytest.mark.parametrize("net_d", DISCRIMINATORS)
@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("name", ["pix2pix", "colorization"])
def test_pix2pix(name: str, generator: str, net_d: str, gan_mode: str) -> None:
    """The discriminator steps first: the generator's adversarial loss is that of the updated one."""
    model = made(
        name, "--netD", net_d, "--gan_mode", gan_mode, "--norm", "instance", "--no_dropout", *GENERATORS[generator]
    )
    batch, before = batch_for(model), state(model)
    a, b = batch["A"].double(), batch["B"].double()
    g, d = double(model.networks["G"]), double(model.networks["D"])
    fake = g(a)
    losses = model.step(batch)
    moved(model, before)
    close = tolerance(model)
    assert float(losses["G_pixel"]) == pytest.approx(100 * l1(fake, b), **close)
    real_pair, fake_pair = torch.cat((a, b), 1), torch.cat((a, fake), 1)
    if gan_mode != "wgangp":
        expected = 0.5 * discriminator_loss(gan_mode, values(d(real_pair)), values(d(fake_pair)))
        assert float(losses["D"]) == pytest.approx(expected, **close)
    updated = double(model.networks["D"])
    expected = generator_loss(gan_mode, values(updated(real_pair)), values(updated(fake_pair)))
    assert float(losses["G_GAN"]) == pytest.approx(expected, **close)


@pytest.mark.parametrize("gan_mode", GAN_MODES)
@pytest.mark.parametrize("net_d", DISCRIMINATORS)
@pytest.mark.parametrize("net_g", ["srresnet", "rrdbnet"])
def test_super_resolution(net_g: str, net_d: str, gan_mode: str) -> None:
    model = made(
        "super_resolution", "--netG", net_g, "--n_blocks", "1", "--scale", "2", "--netD", net_d, "--gan_mode", gan_mode,
        "--norm", "instance",
    )  # fmt: skip
    batch, before = batch_for(model), state(model)
    g, d = double(model.networks["G"]), double(model.networks["D"])
    fake, b = g(batch["A"].double()), batch["B"].double()
    losses = model.step(batch)
    moved(model, before)
    close = tolerance(model)
    r, f = values(d(b)), values(d(fake))
    assert float(losses["G_pixel"]) == pytest.approx(l1(fake, b), **close)
    assert float(losses["G_GAN"]) == pytest.approx(1e-3 * generator_loss(gan_mode, r, f), **close)
    if gan_mode != "wgangp":
        assert float(losses["D"]) == pytest.approx(discriminator_loss(gan_mode, r, f), **close)


STYLE_WEIGHTS = ["--lambda_content", "2", "--lambda_style", "3", "--lambda_tv", "0.5", "--lambda_temporal", "7"]


def test_style(tmp_path: Path) -> None:
    """The published losses in float64, features of VGG's layers written out."""
    layers = random_layers(width=4)
    torch.save(torchvision_state(layers), tmp_path / "vgg.pth")
    painting = write_picture(tmp_path / "painting.png", size=(80, 64), seed=9)
    files = ["--vgg", str(tmp_path / "vgg.pth"), "--style_image", str(painting), "--crop_size", "32"]
    model = made("style", "--dataset_mode", "frames", *STYLE_WEIGHTS, *files)
    source = torch.Generator().manual_seed(5)
    a, following = (torch.rand(2, 3, 32, 32, generator=source) * 2 - 1 for _ in range(2))
    # Everything moved by a pixel to the right: a place of the next frame is a pixel further left in this one.
    flow = torch.stack((torch.full((2, 32, 32), -1.0), torch.zeros(2, 32, 32)), dim=1)
    mask = torch.ones(2, 1, 32, 32)
    mask[..., 0] = 0
    before, g = state(model), double(model.networks["G"])
    losses = model.step({"A": a, "next": following, "flow": flow, "mask": mask})
    moved(model, before)

    painted = [g((frames.double() + 1) * 127.5) / 127.5 - 1 for frames in (a, following)]
    of_painted, of_frames = (written_out(torch.cat(x), layers, nn.MaxPool2d(2)) for x in (painted, (a, following)))
    style = torch.from_numpy(cv2.resize(read_image(painting), (40, 32), interpolation=cv2.INTER_AREA))
    of_style = written_out(style.permute(2, 0, 1)[None] / 127.5 - 1, layers, nn.MaxPool2d(2))
    content = (of_painted[1] - of_frames[1]).square().mean() / of_frames[1].square().mean()
    distances = []
    for x, y in zip(of_painted[:4], of_style[:4], strict=True):
        gram, wanted = (torch.einsum("nchw,ndhw->ncd", z, z) / z[0, 0].numel() for z in (x, y))
        distances.append((gram - wanted).square().mean() / wanted.square().mean())
    pictures = torch.cat(painted)
    variation = (pictures[..., 1:] - pictures[..., :-1]).abs().mean()
    variation = variation + (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().mean()
    change = (painted[1] - painted[0].roll(1, dims=3)).abs() * mask
    assert float(losses["content"]) == pytest.approx(2 * float(content), rel=1e-3)
    assert float(losses["style"]) == pytest.approx(3 * float(torch.stack(distances).sum()), rel=1e-3)
    assert float(losses["tv"]) == pytest.approx(0.5 * float(variation), rel=1e-3)
    assert float(losses["temporal"]) == pytest.approx(7 * float(change.mean()), rel=1e-3)


@pytest.mark.parametrize("pixel_loss", ["l2", "smooth_l1", "charbonnier"])
def test_pixel_losses_reach_every_term(pixel_loss: str) -> None:
    small = ["--netG", "resnet_1blocks", "--netD", "pixel", "--pixel_loss", pixel_loss]
    model, plain = made("cycle_gan", *small), made("cycle_gan", *small[:4])
    losses, of_plain = model.step(batch_for(model)), plain.step(batch_for(plain))
    assert all(float(losses[n]) != float(of_plain[n]) for n in ("cycle_A", "cycle_B", "idt_A", "idt_B"))


def test_without_identity_loss_there_is_none() -> None:
    model = made("cycle_gan", "--netG", "resnet_1blocks", "--lambda_identity", "0")
    assert set(model.step(batch_for(model))) == {"G_A", "G_B", "cycle_A", "cycle_B", "D_A", "D_B"}
    assert set(model.pictures(batch_for(model))) == {"real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B"}


def test_l1_alone_has_no_discriminator() -> None:
    model = made("pix2pix", "--netG", "unet_16", "--lambda_gan", "0", "--norm", "instance")
    assert set(model.networks) == {"G"}
    assert set(model.step(batch_for(model))) == {"G_pixel"}


def test_the_generators_step_gives_discriminators_no_gradients() -> None:
    model = made("cycle_gan", "--netG", "resnet_1blocks", "--netD", "pixel")
    taken: list[bool] = []
    update = model.update

    def watch(optimizer: torch.optim.Optimizer) -> None:
        if optimizer is model.optimizers["G"]:
            taken.extend(p.grad is None for p in model.networks["D_A"].parameters())
        update(optimizer)

    model.update = watch  # type: ignore[method-assign]
    model.step(batch_for(model))
    assert taken
    assert all(taken)


def test_averaged_pairs_halve_the_generators_gradients() -> None:
    """Under SGD, because Adam does not see the scale of a loss."""
    steps = []
    for extra in ([], ["--average_pairs"]):
        model = made("cycle_gan", "--netG", "resnet_1blocks", "--netD", "pixel", *extra)
        parameters = list(model.networks["G_A"].parameters()) + list(model.networks["G_B"].parameters())
        model.optimizers["G"] = torch.optim.SGD(parameters, lr=1e-3)
        weight = model.networks["G_A"].model[1].weight  # type: ignore[union-attr, index]
        before = weight.detach().clone()
        model.step(batch_for(model))
        steps.append(weight.detach() - before)
    assert torch.allclose(steps[0], 2 * steps[1], rtol=1e-3, atol=1e-8)


def test_the_discriminator_may_come_first() -> None:
    """Then the generators see it updated, so their loss differs, and nothing else does."""
    small = ["--netG", "resnet_1blocks", "--netD", "pixel", "--lr", "0.01"]
    later, first = made("cycle_gan", *small), made("cycle_gan", *small, "--discriminator_first")
    of_later, of_first = later.step(batch_for(later)), first.step(batch_for(first))
    assert float(of_later["D_A"]) == float(of_first["D_A"])
    assert float(of_later["cycle_A"]) == float(of_first["cycle_A"])
    assert float(of_later["G_A"]) != float(of_first["G_A"])


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_joined_calls_are_the_same_as_single_ones(norm: str) -> None:
    model = made("pix2pix", "--netG", "unet_16", "--norm", norm, "--no_dropout")
    batch = batch_for(model)
    together = model.run(model.networks["G"], batch["A"], batch["B"])
    for output, image in zip(together, (batch["A"], batch["B"]), strict=True):
        assert torch.allclose(output, model.networks["G"](image), atol=1e-5)


def test_a_moving_average_follows_the_generator() -> None:
    model = made("pix2pix", "--netG", "unet_16", "--norm", "instance", "--ema", "0.9")
    weights = [p.detach().double().clone() for p in model.networks["G"].parameters()]
    for step in range(12):
        model.step(batch_for(model))
        decay = min(0.9, (1 + step) / (10 + step))
        new = [p.detach().double() for p in model.networks["G"].parameters()]
        weights = [decay * w + (1 - decay) * n for w, n in zip(weights, new, strict=True)]
    for mine, expected in zip(model.averages["G"].network.parameters(), weights, strict=True):
        assert torch.allclose(mine.double(), expected, atol=1e-6)


def test_bf16_trains_and_keeps_float32_weights() -> None:
    model = made("cycle_gan", "--netG", "resnet_1blocks", "--netD", "pixel", "--precision", "bf16")
    exact = made("cycle_gan", "--netG", "resnet_1blocks", "--netD", "pixel")
    losses, expected = model.step(batch_for(model)), exact.step(batch_for(exact))
    assert all(p.dtype == torch.float32 for network in model.networks.values() for p in network.parameters())
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert {n: float(v) for n, v in losses.items()} == pytest.approx(
        {n: float(v) for n, v in expected.items()}, rel=0.02
    )


@pytest.mark.parametrize("generator", GENERATORS)
def test_gradients_of_a_batch_are_those_of_its_images_averaged(generator: str) -> None:
    """True of the loss; torch's InstanceNorm had other ones for single images in channels_last memory."""
    arguments = ["--netD", "pixel", "--norm", "instance", "--no_dropout", "--lambda_L1", "1", *GENERATORS[generator]]
    batch = batch_for(made("pix2pix", *arguments))

    def gradients(part: dict[str, Tensor]) -> Tensor:
        model = made("pix2pix", *arguments)
        found: list[Tensor] = []
        model.update = lambda optimizer: found.extend(  # type: ignore[method-assign]
            p.grad.flatten().clone() for group in optimizer.param_groups for p in group["params"]
        )
        model.step(part)
        return torch.cat(found)

    whole = gradients(batch)
    single = [gradients({name: images[n : n + 1] for name, images in batch.items()}) for n in range(2)]
    average = (single[0] + single[1]) / 2
    assert float((whole - average).norm() / whole.norm()) < 1e-4
