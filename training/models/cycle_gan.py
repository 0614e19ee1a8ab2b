"""CycleGAN: two domains without pairs (Zhu et al., arXiv:1703.10593)."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from engine.errors import EngineError
from training.image_pool import ImagePool
from training.losses import set_requires_grad
from training.models.base import Batch, TrainingModel, detached


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
        self.g_a = self._add_generator("G_A")
        self.g_b = self._add_generator("G_B", in_channels=options.output_nc, out_channels=options.input_nc)
        self.d_a = self._add_discriminator("D_A", options.output_nc)
        self.d_b = self._add_discriminator("D_B", options.input_nc)
        self._of_generators = self._add_optimizer("G", [self.networks["G_A"], self.networks["G_B"]])
        self._of_discriminators = self._add_optimizer("D", [self.networks["D_A"], self.networks["D_B"]])
        self.pools = {
            "fake_A": ImagePool(options.pool_size, seed=options.seed),
            "fake_B": ImagePool(options.pool_size, seed=options.seed + 1),
        }

    def step(self, batch: Batch) -> dict[str, Tensor]:
        real_a, real_b = batch["A"], batch["B"]
        # What a generator makes of the other domain and of its own, in one call.
        with_identity = self.options.lambda_identity > 0
        fake_b, *same_b = self.run(self.g_a, real_a, *([real_b] if with_identity else []))
        fake_a, *same_a = self.run(self.g_b, real_b, *([real_a] if with_identity else []))
        losses: dict[str, Tensor] = {}
        if self.options.discriminator_first:
            losses |= self._step_discriminators(real_a, real_b, fake_a, fake_b)
        losses |= self._step_generators(real_a, real_b, fake_a, fake_b, same_a, same_b)
        if not self.options.discriminator_first:
            losses |= self._step_discriminators(real_a, real_b, fake_a, fake_b)
        self.finish_step()
        return detached(losses)

    def _step_generators(
        self, real_a: Tensor, real_b: Tensor, fake_a: Tensor, fake_b: Tensor, same_a: list[Tensor], same_b: list[Tensor]
    ) -> dict[str, Tensor]:
        options = self.options
        set_requires_grad([self.networks["D_A"], self.networks["D_B"]], False)
        (again_a,) = self.run(self.g_b, fake_b)
        (again_b,) = self.run(self.g_a, fake_a)
        losses = {
            "G_A": options.lambda_gan * self._fooled(self.networks["D_A"], real_b, fake_b),
            "G_B": options.lambda_gan * self._fooled(self.networks["D_B"], real_a, fake_a),
            "cycle_A": options.lambda_A * self.pixel_loss(again_a, real_a),
            "cycle_B": options.lambda_B * self.pixel_loss(again_b, real_b),
        }
        if options.lambda_identity:
            losses["idt_A"] = options.lambda_identity * options.lambda_B * self.pixel_loss(same_b[0], real_b)
            losses["idt_B"] = options.lambda_identity * options.lambda_A * self.pixel_loss(same_a[0], real_a)
        total = torch.stack(list(losses.values())).sum()
        self.backward(total / 2 if options.average_pairs else total)
        self.update(self._of_generators)
        return losses

    def _fooled(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        (of_fake,) = self.run(discriminator, fake)
        if not self.gan.needs_real:
            return self.gan.generator(of_fake)
        with torch.no_grad():
            (of_real,) = self.run(discriminator, real)
        return self.gan.generator(of_fake, of_real)

    def _step_discriminators(self, real_a: Tensor, real_b: Tensor, fake_a: Tensor, fake_b: Tensor) -> dict[str, Tensor]:
        set_requires_grad([self.networks["D_A"], self.networks["D_B"]], True)
        losses = {
            "D_A": self._told_apart("D_A", self.d_a, real_b, self.pools["fake_B"].query(fake_b)),
            "D_B": self._told_apart("D_B", self.d_b, real_a, self.pools["fake_A"].query(fake_a)),
        }
        self.backward(losses["D_A"] + losses["D_B"])
        self.update(self._of_discriminators)
        return losses

    def _told_apart(self, name: str, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        loss = self.gan.discriminator(*self.judge(discriminator, real, fake))
        return 0.5 * loss + self.penalty(name, real, fake)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        real_a, real_b = batch["A"], batch["B"]
        g_a, g_b = self.networks["G_A"], self.networks["G_B"]
        (fake_b,), (fake_a,) = self.run(g_a, real_a), self.run(g_b, real_b)
        shown = {"real_A": real_a, "fake_B": fake_b, "rec_A": self.run(g_b, fake_b)[0]}
        if self.options.lambda_identity:
            shown["idt_B"] = self.run(g_b, real_a)[0]
        shown |= {"real_B": real_b, "fake_A": fake_a, "rec_B": self.run(g_a, fake_a)[0]}
        if self.options.lambda_identity:
            shown["idt_A"] = self.run(g_a, real_b)[0]
        return shown
