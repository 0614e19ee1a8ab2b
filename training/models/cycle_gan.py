"""CycleGAN: two domains without pairs (Zhu et al., arXiv:1703.10593)."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from engine.errors import EngineError
from training.image_pool import ImagePool
from training.models.base import Batch, Losses, TrainingModel

# Domain that a generator takes, domain that it makes; networks are named after the first.
_DIRECTIONS = (("A", "B"), ("B", "A"))


class CycleGan(TrainingModel):
    """G_A: A -> B and G_B: B -> A; D_A tells real B from G_A(A), D_B real A from G_B(B).

    loss of the generators = GAN(D_A(G_A(A))) + GAN(D_B(G_B(B)))
        + lambda_A |G_B(G_A(A)) - A| + lambda_B |G_A(G_B(B)) - B|
        + lambda_identity (lambda_B |G_A(B) - B| + lambda_A |G_B(A) - A|), halved by --average_pairs;
    loss of a discriminator = half of the adversarial one, on a history of generated images.
    """

    has_dropout = False

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        super().__init__(options, device)
        if options.pretrained:
            raise EngineError("--pretrained is for models of one generator: cycle_gan has two")
        if options.lambda_identity and options.input_nc != options.output_nc:
            raise EngineError("the identity loss needs --input_nc and --output_nc equal: --lambda_identity 0")
        self._add_generator("G_A")
        self._add_generator("G_B", in_channels=options.output_nc, out_channels=options.input_nc)
        self._add_discriminator("D_A", options.output_nc)
        self._add_discriminator("D_B", options.input_nc)
        self._add_optimizer("G", "G_A", "G_B")
        self._add_optimizer("D", "D_A", "D_B")
        self.pools = {
            f"fake_{domain}": ImagePool(options.pool_size, seed=options.seed + n) for n, domain in enumerate("AB")
        }

    def step(self, batch: Batch) -> Losses:
        fake: dict[str, Tensor] = {}
        same: dict[str, list[Tensor]] = {}
        for source, target in _DIRECTIONS:
            # One call for the translated images and the identity images.
            images = [batch[source], batch[target]] if self.options.lambda_identity else [batch[source]]
            fake[target], *same[target] = self.run(self.ready[f"G_{source}"], *images)
        losses: Losses = {}
        if self.options.discriminator_first:
            losses |= self._step_discriminators(batch, fake)
        losses |= self._step_generators(batch, fake, same)
        if not self.options.discriminator_first:
            losses |= self._step_discriminators(batch, fake)
        return self.finish_step(losses)

    def _step_generators(self, batch: Batch, fake: dict[str, Tensor], same: dict[str, list[Tensor]]) -> Losses:
        options, losses = self.options, {}
        weights = {"A": options.lambda_A, "B": options.lambda_B}
        again = {source: self.run(self.ready[f"G_{target}"], fake[target])[0] for source, target in _DIRECTIONS}
        for source, target in _DIRECTIONS:
            losses[f"G_{source}"] = self.generator_gan_loss(f"D_{source}", batch[target], fake[target])
        for source, _ in _DIRECTIONS:
            losses[f"cycle_{source}"] = weights[source] * self.pixel_loss(again[source], batch[source])
        if options.lambda_identity:
            for source, target in _DIRECTIONS:
                distance = self.pixel_loss(same[target][0], batch[target])
                losses[f"idt_{source}"] = options.lambda_identity * weights[target] * distance
        return self.optimise("G", losses, share=0.5 if options.average_pairs else 1.0)

    def _step_discriminators(self, batch: Batch, fake: dict[str, Tensor]) -> Losses:
        losses = {}
        for source, target in _DIRECTIONS:
            images = batch[target], self.pools[f"fake_{target}"].query(fake[target])
            losses[f"D_{source}"] = self.discriminator_loss(f"D_{source}", *images, weight=0.5)
        return self.optimise("D", losses)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        shown: dict[str, Tensor] = {}
        for source, target in _DIRECTIONS:
            there, back = self.networks[f"G_{source}"], self.networks[f"G_{target}"]
            (fake,) = self.run(there, batch[source])
            shown |= {f"real_{source}": batch[source], f"fake_{target}": fake, f"rec_{source}": self.run(back, fake)[0]}
            if self.options.lambda_identity:
                shown[f"idt_{target}"] = self.run(back, batch[source])[0]
        return shown
