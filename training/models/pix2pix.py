"""pix2pix: a conditional GAN on pairs (Isola et al., arXiv:1611.07004)."""

from __future__ import annotations

import argparse
from typing import ClassVar

import torch
from torch import Tensor

from training.models.base import Batch, Losses, TrainingModel


class Pix2Pix(TrainingModel):
    """G: A -> B; D tells (A, B) from (A, G(A)).

    loss of G = lambda_pixel |G(A) - B| + lambda_gan GAN(D(A, G(A))); loss of D = half of the adversarial one. With
    lambda_gan 0 there is no discriminator.
    """

    is_conditional: ClassVar[bool] = True
    """D sees the input beside the output."""
    discriminator_first: ClassVar[bool] = True
    discriminator_weight: ClassVar[float] = 0.5

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        super().__init__(options, device)
        self._add_generator("G")
        self._add_optimizer("G", "G")
        if options.lambda_gan > 0:
            self._add_discriminator("D", options.input_nc * self.is_conditional + options.output_nc)
            self._add_optimizer("D", "D")

    def step(self, batch: Batch) -> Losses:
        (fake,) = self.run(self.ready["G"], batch["A"])
        steps = [self._step_generator]
        if "D" in self.networks:
            steps.insert(0 if self.discriminator_first else 1, self._step_discriminator)
        losses: Losses = {}
        for step in steps:
            losses |= step(batch, fake)
        return self.finish_step(losses)

    def generator_losses(self, batch: Batch, fake: Tensor) -> Losses:
        """G's losses without the adversarial one."""
        return {"G_pixel": self.options.lambda_pixel * self.pixel_loss(fake, batch["B"])}

    def _judged(self, batch: Batch, image: Tensor) -> Tensor:
        return torch.cat((batch["A"], image), dim=1) if self.is_conditional else image

    def _step_discriminator(self, batch: Batch, fake: Tensor) -> Losses:
        images = self._judged(batch, batch["B"]), self._judged(batch, fake.detach())
        return self.optimise("D", {"D": self.discriminator_loss("D", *images, weight=self.discriminator_weight)})

    def _step_generator(self, batch: Batch, fake: Tensor) -> Losses:
        losses = self.generator_losses(batch, fake)
        if "D" in self.networks:
            images = self._judged(batch, batch["B"]), self._judged(batch, fake)
            losses["G_GAN"] = self.generator_gan_loss("D", *images)
        return self.optimise("G", losses)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        (fake,) = self.run(self.networks["G"], batch["A"])
        return {"real_A": batch["A"], "fake_B": fake, "real_B": batch["B"]}
