"""Training steps as tutorials write them: float32, one call after the other, nothing shared, nothing turned off.

The same networks, losses and optimizers as `training.models`, so that what differs is how the step is carried out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


class CycleGanTutorial:
    """Generators, then each discriminator, on least squares, cycle and identity losses."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.g_a, self.g_b = networks["G_A"], networks["G_B"]
        self.d_a, self.d_b = networks["D_A"], networks["D_B"]
        generators = itertools.chain(self.g_a.parameters(), self.g_b.parameters())
        self.optimizer_g = torch.optim.Adam(generators, lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d_a = torch.optim.Adam(self.d_a.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d_b = torch.optim.Adam(self.d_b.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def step(self, batch: Batch) -> float:
        """One step; returns the generators' loss."""
        real_a, real_b = batch["A"], batch["B"]
        self.optimizer_g.zero_grad()
        identity = F.l1_loss(self.g_a(real_b), real_b) + F.l1_loss(self.g_b(real_a), real_a)
        fake_b = self.g_a(real_a)
        fake_a = self.g_b(real_b)
        judged_b, judged_a = self.d_a(fake_b), self.d_b(fake_a)
        adversarial = F.mse_loss(judged_b, torch.ones_like(judged_b)) + F.mse_loss(judged_a, torch.ones_like(judged_a))
        cycle = F.l1_loss(self.g_b(fake_b), real_a) + F.l1_loss(self.g_a(fake_a), real_b)
        loss = adversarial + 10 * cycle + 5 * identity
        loss.backward()
        self.optimizer_g.step()
        for discriminator, optimizer, real, fake in (
            (self.d_a, self.optimizer_d_a, real_b, fake_b),
            (self.d_b, self.optimizer_d_b, real_a, fake_a),
        ):
            optimizer.zero_grad()
            of_real, of_fake = discriminator(real), discriminator(fake.detach())
            told = F.mse_loss(of_real, torch.ones_like(of_real)) + F.mse_loss(of_fake, torch.zeros_like(of_fake))
            (told / 2).backward()
            optimizer.step()
        return loss.item()


class Pix2PixTutorial:
    """Discriminator, then generator, on cross-entropy and 100 times L1."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.g, self.d = networks["G"], networks["D"]
        self.optimizer_g = torch.optim.Adam(self.g.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(self.d.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def step(self, batch: Batch) -> float:
        """One step; returns the generator's loss."""
        a, b = batch["A"], batch["B"]
        fake = self.g(a)
        self.optimizer_d.zero_grad()
        of_real, of_fake = self.d(torch.cat((a, b), 1)), self.d(torch.cat((a, fake.detach()), 1))
        of_real_loss = F.binary_cross_entropy_with_logits(of_real, torch.ones_like(of_real))
        of_fake_loss = F.binary_cross_entropy_with_logits(of_fake, torch.zeros_like(of_fake))
        ((of_real_loss + of_fake_loss) / 2).backward()
        self.optimizer_d.step()
        self.optimizer_g.zero_grad()
        judged = self.d(torch.cat((a, fake), 1))
        loss = F.binary_cross_entropy_with_logits(judged, torch.ones_like(judged)) + 100 * F.l1_loss(fake, b)
        loss.backward()
        self.optimizer_g.step()
        return loss.item()
