"""Super-resolution: pixel, perceptual and adversarial losses (Ledig et al., arXiv:1609.04802; arXiv:1809.00219)."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import EngineError
from training.losses import set_requires_grad
from training.models.base import Batch, TrainingModel, detached
from training.perceptual import PerceptualLoss


class SuperResolution(TrainingModel):
    """G: small -> large, both RGB in [0, 1]; D tells large ones from G's.

    loss of G = lambda_pixel |G(A) - B| + lambda_perceptual |features(G(A)) - features(B)| + lambda_gan GAN(D(G(A)));
    loss of D = the adversarial one. With lambda_gan 0 there is no discriminator, with lambda_perceptual 0 no VGG.
    """

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        super().__init__(options, device)
        if options.netG not in ("srresnet", "rrdbnet"):
            raise EngineError(f"--model super_resolution takes --netG srresnet or rrdbnet, not {options.netG}")
        self.g = self._add_generator("G")
        self._of_generator = self._add_optimizer("G", [self.networks["G"]])
        self.has_discriminator = options.lambda_gan > 0
        if self.has_discriminator:
            self.d = self._add_discriminator("D", options.output_nc)
            self._of_discriminator = self._add_optimizer("D", [self.networks["D"]])
        weight = options.lambda_perceptual
        self.perceptual_weight = (1.0 if options.vgg else 0.0) if weight is None else weight
        if self.perceptual_weight and not options.vgg:
            raise EngineError("--lambda_perceptual needs --vgg, a file of VGG weights")
        self.perceptual = PerceptualLoss.load(options.vgg, device) if self.perceptual_weight else None

    def step(self, batch: Batch) -> dict[str, Tensor]:
        real = batch["B"]
        (fake,) = self.run(self.g, batch["A"])
        losses = self._step_generator(fake, real)
        if self.has_discriminator:
            losses |= self._step_discriminator(fake.detach(), real)
        self.finish_step()
        return detached(losses)

    def _step_generator(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        losses = {"G_pixel": self.options.lambda_pixel * self.pixel_loss(fake, real)}
        if self.perceptual is not None:
            with self.autocast():
                losses["G_perceptual"] = self.perceptual_weight * self.perceptual(fake, real)
        if self.has_discriminator:
            discriminator = self.networks["D"]
            set_requires_grad(discriminator, False)
            (of_fake,) = self.run(discriminator, fake)
            of_real = None
            if self.gan.needs_real:
                with torch.no_grad():
                    (of_real,) = self.run(discriminator, real)
            losses["G_GAN"] = self.options.lambda_gan * self.gan.generator(of_fake, of_real)
        self.backward(torch.stack(list(losses.values())).sum())
        self.update(self._of_generator)
        return losses

    def _step_discriminator(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        set_requires_grad(self.networks["D"], True)
        loss = self.gan.discriminator(*self.judge(self.d, real, fake)) + self.penalty("D", real, fake)
        self.backward(loss)
        self.update(self._of_discriminator)
        return {"D": loss}

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        small, large = batch["A"], batch["B"]
        (fake,) = self.run(self.networks["G"], small)
        bicubic = F.interpolate(small, size=large.shape[2:], mode="bicubic", align_corners=False)
        shown = {"bicubic": bicubic, "fake": fake, "real": large}
        return {name: images.clamp(0.0, 1.0) * 2.0 - 1.0 for name, images in shown.items()}
