"""pix2pix: a conditional GAN on pairs (Isola et al., arXiv:1611.07004)."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from training.losses import set_requires_grad
from training.models.base import Batch, TrainingModel, detached


class Pix2Pix(TrainingModel):
    """G: A -> B; D tells (A, B) from (A, G(A)).

    loss of G = lambda_gan GAN(D(A, G(A))) + lambda_pixel |G(A) - B|; loss of D = half of the adversarial one. With
    lambda_gan 0 there is no discriminator.
    """

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        super().__init__(options, device)
        self.g = self._add_generator("G")
        self._of_generator = self._add_optimizer("G", [self.networks["G"]])
        self.has_discriminator = options.lambda_gan > 0
        if self.has_discriminator:
            self.d = self._add_discriminator("D", options.input_nc + options.output_nc)
            self._of_discriminator = self._add_optimizer("D", [self.networks["D"]])

    def step(self, batch: Batch) -> dict[str, Tensor]:
        (fake,) = self.run(self.g, batch["A"])
        losses: dict[str, Tensor] = {}
        if self.has_discriminator:
            losses |= self._step_discriminator(batch, fake)
        losses |= self._step_generator(batch, fake)
        self.finish_step()
        return detached(losses)

    def _step_discriminator(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        set_requires_grad(self.networks["D"], True)
        real_pair = torch.cat((batch["A"], batch["B"]), dim=1)
        fake_pair = torch.cat((batch["A"], fake.detach()), dim=1)
        loss = 0.5 * self.gan.discriminator(*self.judge(self.d, real_pair, fake_pair))
        loss = loss + self.penalty("D", real_pair, fake_pair)
        self.backward(loss)
        self.update(self._of_discriminator)
        return {"D": loss}

    def _step_generator(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        losses = {"G_pixel": self.options.lambda_pixel * self.pixel_loss(fake, batch["B"])}
        if self.has_discriminator:
            discriminator = self.networks["D"]
            set_requires_grad(discriminator, False)
            (of_fake,) = self.run(discriminator, torch.cat((batch["A"], fake), dim=1))
            of_real = None
            if self.gan.needs_real:
                with torch.no_grad():
                    (of_real,) = self.run(discriminator, torch.cat((batch["A"], batch["B"]), dim=1))
            losses["G_GAN"] = self.options.lambda_gan * self.gan.generator(of_fake, of_real)
        self.backward(torch.stack(list(losses.values())).sum())
        self.update(self._of_generator)
        return losses

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        (fake,) = self.run(self.networks["G"], batch["A"])
        return {"real_A": batch["A"], "fake_B": fake, "real_B": batch["B"]}
