"""GAN and pixel losses against their formulas, written out in float64 without the functions that they use."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.errors import EngineError
from tests.training.published import discriminator_loss, generator_loss
from training.losses import GAN_MODES, PIXEL_LOSSES, GanLoss, gradient_penalty

SHAPES = [(1, 1), (3, 1, 5, 7), (2, 1, 1, 1)]


def outputs(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.9, 0.1)])
@pytest.mark.parametrize("mode", GAN_MODES)
def test_losses_are_the_published_formulas(mode: str, a: float, b: float, shape: tuple[int, ...]) -> None:
    loss = GanLoss(mode, real_label=a, fake_label=b)
    real, fake = outputs(shape, 1), outputs(shape, 2)
    r, f = real.double().numpy(), fake.double().numpy()
    assert float(loss.discriminator(real, fake)) == pytest.approx(discriminator_loss(mode, r, f, a, b), rel=1e-5)
    assert float(loss.generator(fake, real)) == pytest.approx(generator_loss(mode, r, f, a, b), rel=1e-5)


@pytest.mark.parametrize("mode", GAN_MODES)
def test_each_player_gains_by_moving_as_the_game_wants(mode: str) -> None:
    """The discriminator's loss falls with higher outputs for real images, the generator's with higher for its own."""
    loss = GanLoss(mode)
    real, fake = torch.full((4, 1), 0.5, requires_grad=True), torch.full((4, 1), 0.5, requires_grad=True)
    loss.discriminator(real, fake).backward()
    assert (real.grad < 0).all()  # type: ignore[operator]
    assert (fake.grad > 0).all()  # type: ignore[operator]
    fake.grad = None
    loss.generator(fake, real.detach()).backward()
    assert (fake.grad < 0).all()  # type: ignore[operator]


def test_extreme_outputs_stay_finite() -> None:
    for mode in GAN_MODES:
        loss = GanLoss(mode)
        far = torch.full((2, 1), 1e4)
        assert math.isfinite(float(loss.discriminator(-far, far)))
        assert math.isfinite(float(loss.generator(-far, far)))


def test_an_unknown_mode_says_what_there_is() -> None:
    with pytest.raises(EngineError, match="accepted are vanilla, lsgan"):
        GanLoss("lsagn")


def test_a_relativistic_generator_asks_for_the_real_output() -> None:
    assert GanLoss("ragan").needs_real
    assert not GanLoss("hinge").needs_real
    with pytest.raises(ValueError, match="needs the discriminator's output"):
        GanLoss("ragan").generator(torch.zeros(1))


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_the_gradient_penalty_of_a_linear_function(slope: float) -> None:
    """Its gradient has the norm of its weights everywhere, so the penalty is 10 (norm - 1)^2."""
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    weight = weight / weight.norm() * slope
    images = outputs((5, 3, 4, 4), 3), outputs((5, 3, 4, 4), 4)
    penalty = gradient_penalty(lambda x: (x * weight).sum(dim=(1, 2, 3)), *images)
    assert float(penalty) == pytest.approx(10 * (slope - 1) ** 2, rel=1e-4, abs=1e-6)


def test_the_gradient_penalty_reaches_the_weights() -> None:
    discriminator = nn.Conv2d(3, 1, 3)
    gradient_penalty(discriminator, outputs((2, 3, 8, 8), 1), outputs((2, 3, 8, 8), 2)).backward()
    assert discriminator.weight.grad is not None
    assert discriminator.weight.grad.abs().sum() > 0


def _smooth(d: np.ndarray) -> np.ndarray:
    return np.where(np.abs(d) < 1, 0.5 * d * d, np.abs(d) - 0.5)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("l1", np.abs),
        ("l2", np.square),
        ("smooth_l1", _smooth),
        ("charbonnier", lambda d: np.sqrt(d * d + 1e-6)),
    ],
)
def test_pixel_losses(name: str, formula: Callable[[np.ndarray], np.ndarray]) -> None:
    a, b = outputs((2, 3, 9, 5), 5), outputs((2, 3, 9, 5), 6)
    expected = formula(a.double().numpy() - b.double().numpy()).mean()
    assert float(PIXEL_LOSSES[name](a, b)) == pytest.approx(expected, rel=1e-5)
    assert set(PIXEL_LOSSES) == {"l1", "l2", "smooth_l1", "charbonnier", "multiscale_l1"}


def test_multiscale_l1() -> None:
    """L1 at four sizes, and of the gradients at the first two."""
    a, b = outputs((2, 3, 16, 24), 5), outputs((2, 3, 16, 24), 6)
    d, expected = (a.double() - b.double()).numpy(), 0.0
    for level, weight in enumerate((1.0, 0.5, 0.5, 0.5)):
        if level:
            d = d.reshape(*d.shape[:2], d.shape[2] // 2, 2, d.shape[3] // 2, 2).mean(axis=(3, 5))
        expected += weight * np.abs(d).mean()
        if level < 2:
            expected += weight * (np.abs(np.diff(d, axis=2)).mean() + np.abs(np.diff(d, axis=3)).mean())
    assert float(PIXEL_LOSSES["multiscale_l1"](a, b)) == pytest.approx(expected, rel=1e-5)
