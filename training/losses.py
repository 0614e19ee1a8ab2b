"""Losses of image-to-image GANs: adversarial losses of both players, and pixel losses.

Notation of the formulas: r and f are the discriminator's outputs for real and generated images, before any sigmoid,
of any shape; mean() is over all of their values; a and b are the label values of real and generated images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import EngineError
from training.distributed import mean_of_all

GAN_MODES = ("vanilla", "lsgan", "wgan", "wgangp", "softplus", "hinge", "ragan", "ragan_lsgan")

# Weight of the gradient penalty (Gulrajani et al., arXiv:1704.00028).
GRADIENT_PENALTY_WEIGHT = 10.0

CHARBONNIER_EPSILON = 1e-3


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
        EngineError: no such mode.
    """  # noqa: E501 (a table)

    def __init__(self, mode: str, *, real_label: float = 1.0, fake_label: float = 0.0) -> None:
        if mode not in GAN_MODES:
            raise EngineError(f"unknown GAN loss {mode!r}: accepted are {', '.join(GAN_MODES)}")
        self.mode = mode
        self.real_label, self.fake_label = real_label, fake_label

    @property
    def needs_real(self) -> bool:
        """Whether the generator's loss looks at the discriminator's output for real images too."""
        return self.mode.startswith("ragan")

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss, a scalar, of its outputs for real and for generated images.

        The generated images are detached by the caller, so that no gradient flows into the generator.
        """
        a, b = self.real_label, self.fake_label
        if self.mode == "vanilla":
            return _bce(real, a) + _bce(fake, b)
        if self.mode == "lsgan":
            return _squared(real, a) + _squared(fake, b)
        if self.mode in ("wgan", "wgangp"):
            return fake.mean() - real.mean()
        if self.mode == "softplus":
            return F.softplus(-real).mean() + F.softplus(fake).mean()
        if self.mode == "hinge":
            return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()
        return self._relative(real, fake, a, b)

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss, a scalar.

        Args:
            fake: the discriminator's output for generated images, with gradients.
            real: its output for real images, without; needed where `needs_real`.
        """
        if self.mode == "vanilla":
            return _bce(fake, self.real_label)
        if self.mode == "lsgan":
            return _squared(fake, self.real_label)
        if self.mode in ("wgan", "wgangp", "hinge"):
            return -fake.mean()
        if self.mode == "softplus":
            return F.softplus(-fake).mean()
        if real is None:
            raise ValueError(f"the generator's loss of {self.mode} needs the discriminator's output for real images")
        return self._relative(real, fake, self.fake_label, self.real_label)

    def _relative(self, real: Tensor, fake: Tensor, real_label: float, fake_label: float) -> Tensor:
        distance = _bce if self.mode == "ragan" else _squared
        of_real = distance(real - mean_of_all(fake), real_label)
        of_fake = distance(fake - mean_of_all(real), fake_label)
        return (of_real + of_fake) / 2


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """`GRADIENT_PENALTY_WEIGHT` times mean((|gradient| - 1)^2) at random mixtures of real and generated images.

    The gradient is that of the discriminator's summed output by its input, its norm taken per image
    (Gulrajani et al., arXiv:1704.00028, equation 3).

    Args:
        discriminator: takes images like `real`.
        real, fake: float [N, C, H, W].
        generator: source of the mixing weights; None: torch's own.
    """
    weight = torch.rand(len(real), 1, 1, 1, generator=generator, dtype=real.dtype).to(real.device)
    mixed = (weight * real.detach() + (1 - weight) * fake.detach()).requires_grad_(True)
    output = discriminator(mixed)
    (gradient,) = torch.autograd.grad(output.float().sum(), mixed, create_graph=True)
    norm = (gradient.flatten(1).float().square().sum(1) + 1e-16).sqrt()
    return GRADIENT_PENALTY_WEIGHT * (norm - 1).square().mean()


def charbonnier(prediction: Tensor, target: Tensor) -> Tensor:
    """mean(sqrt((prediction - target)^2 + 1e-6)), an L1 that is smooth at 0 (Lai et al., arXiv:1704.03915)."""
    return ((prediction - target).square() + CHARBONNIER_EPSILON**2).sqrt().mean()


PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
    "charbonnier": charbonnier,
}


def set_requires_grad(networks: nn.Module | list[nn.Module], required: bool) -> None:
    """Turns the gradients of networks on or off: off, a discriminator in the generator's step costs no gradients."""
    for network in networks if isinstance(networks, list) else [networks]:
        network.requires_grad_(required)


def _bce(output: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, torch.full_like(output, label))


def _squared(output: Tensor, label: float) -> Tensor:
    return (output - label).square().mean()
