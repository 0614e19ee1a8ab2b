"""Losses of image-to-image GANs: adversarial losses of both players, and pixel losses.

Notation of the formulas: r and f are the discriminator's outputs for real and generated images, before any sigmoid,
of any shape; mean() is over all of their values; a and b are the label values of real and generated images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import EngineError
from training.distributed import mean_of_all

# Weight of the gradient penalty (Gulrajani et al., arXiv:1704.00028).
GRADIENT_PENALTY_WEIGHT = 10.0

CHARBONNIER_EPSILON = 1e-3


def _bce(output: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, torch.full_like(output, label))


def _squared(output: Tensor, label: float) -> Tensor:
    return (output - label).square().mean()


_DiscriminatorLoss = Callable[[Tensor, Tensor, float, float], Tensor]
_GeneratorLoss = Callable[[Tensor, float], Tensor]

# Mode -> the discriminator's loss of (r, f, a, b), and the generator's of (f, a).
_LOSSES: dict[str, tuple[_DiscriminatorLoss, _GeneratorLoss]] = {
    "vanilla": (lambda r, f, a, b: _bce(r, a) + _bce(f, b), _bce),
    "lsgan": (lambda r, f, a, b: _squared(r, a) + _squared(f, b), _squared),
    "wgan": (lambda r, f, a, b: f.mean() - r.mean(), lambda f, a: -f.mean()),
    "wgangp": (lambda r, f, a, b: f.mean() - r.mean(), lambda f, a: -f.mean()),
    "softplus": (lambda r, f, a, b: F.softplus(-r).mean() + F.softplus(f).mean(), lambda f, a: F.softplus(-f).mean()),
    "hinge": (lambda r, f, a, b: F.relu(1.0 - r).mean() + F.relu(1.0 + f).mean(), lambda f, a: -f.mean()),
}
# Relativistic mode -> distance of an output from a label.
_RELATIVISTIC: dict[str, _GeneratorLoss] = {"ragan": _bce, "ragan_lsgan": _squared}

GAN_MODES = (*_LOSSES, *_RELATIVISTIC)


class GanLoss:
    """The adversarial losses of one mode.

    | mode | discriminator | generator |
    |---|---|---|
    | vanilla (arXiv:1406.2661) | BCE(r, a) + BCE(f, b) | BCE(f, a) |
    | lsgan (arXiv:1611.04076) | mean((r - a)^2) + mean((f - b)^2) | mean((f - a)^2) |
    | wgan (arXiv:1701.07875), wgangp | -mean(r) + mean(f) | -mean(f) |
    | softplus | mean(softplus(-r)) + mean(softplus(f)) | mean(softplus(-f)) |
    | hinge (arXiv:1705.02894) | mean(relu(1 - r)) + mean(relu(1 + f)) | -mean(f) |
    | ragan (arXiv:1807.00734) | (BCE(r - mean(f), a) + BCE(f - mean(r), b)) / 2 | (BCE(r - mean(f), b) + BCE(f - mean(r), a)) / 2 |
    | ragan_lsgan | the same with the squared differences of lsgan | |

    BCE takes logits. `wgangp` is `wgan` with `gradient_penalty`, which the caller adds to the discriminator's loss.

    Args:
        mode: one of `GAN_MODES`.
        real_label, fake_label: a and b; 0.9 instead of 1 is one-sided label smoothing. Modes without labels ignore them.

    Raises:
        EngineError: the mode is unknown.
    """  # noqa: E501 (a table)

    def __init__(self, mode: str, *, real_label: float = 1.0, fake_label: float = 0.0) -> None:
        if mode not in GAN_MODES:
            raise EngineError(f"unknown GAN loss {mode!r}: accepted are {', '.join(GAN_MODES)}")
        self.mode = mode
        self.real_label, self.fake_label = real_label, fake_label

    @property
    def needs_real(self) -> bool:
        """Whether the generator's loss depends on the discriminator's output for real images too."""
        return self.mode in _RELATIVISTIC

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss, a scalar, from its outputs for real and for (detached) generated images."""
        if self.needs_real:
            return self._relativistic(real, fake, self.real_label, self.fake_label)
        return _LOSSES[self.mode][0](real, fake, self.real_label, self.fake_label)

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss, a scalar.

        Args:
            fake: the discriminator's output for generated images, with gradients.
            real: its output for real images, without gradients; required where `needs_real`.
        """
        if not self.needs_real:
            return _LOSSES[self.mode][1](fake, self.real_label)
        if real is None:
            raise ValueError(f"the generator's loss of {self.mode} needs the discriminator's output for real images")
        return self._relativistic(real, fake, self.fake_label, self.real_label)

    def _relativistic(self, real: Tensor, fake: Tensor, real_label: float, fake_label: float) -> Tensor:
        distance = _RELATIVISTIC[self.mode]
        of_real = distance(real - mean_of_all(fake), real_label)
        of_fake = distance(fake - mean_of_all(real), fake_label)
        return (of_real + of_fake) / 2


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """`GRADIENT_PENALTY_WEIGHT` times mean((|gradient| - 1)^2) at random mixtures of real and generated images.

    The gradient is that of the discriminator's summed output by its input, its norm taken per image
    (Gulrajani et al., arXiv:1704.00028, equation 3).

    Args:
        discriminator: takes images like `real`.
        real, fake: float [N, C, H, W].
    """
    weight = torch.rand(len(real), 1, 1, 1, dtype=real.dtype).to(real.device)
    mixed = (weight * real.detach() + (1 - weight) * fake.detach()).requires_grad_(True)
    output = discriminator(mixed)
    (gradient,) = torch.autograd.grad(output.float().sum(), mixed, create_graph=True)
    norm = (gradient.flatten(1).float().square().sum(1) + 1e-16).sqrt()
    return GRADIENT_PENALTY_WEIGHT * (norm - 1).square().mean()


def charbonnier(prediction: Tensor, target: Tensor) -> Tensor:
    """mean(sqrt((prediction - target)^2 + 1e-6)), an L1 that is smooth at 0 (Lai et al., arXiv:1704.03915)."""
    return ((prediction - target).square() + CHARBONNIER_EPSILON**2).sqrt().mean()


def multiscale_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """L1 at full, half, quarter and eighth size, and L1 of the gradients at the first two, which keeps edges sharp."""
    difference = prediction - target
    loss = difference.abs().mean() + total_variation(difference)
    for level in range(1, 4):
        difference = F.avg_pool2d(difference, 2)
        loss = loss + 0.5 * difference.abs().mean()
        if level == 1:
            loss = loss + 0.5 * total_variation(difference)
    return loss


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, across plus down."""
    across = (images[..., :, 1:] - images[..., :, :-1]).abs().mean()
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return across + down


PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
    "charbonnier": charbonnier,
    "multiscale_l1": multiscale_l1,
}
