"""Super-resolution: pixel, perceptual and adversarial losses (Ledig et al., arXiv:1609.04802; arXiv:1809.00219)."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import EngineError
from training.models.base import Batch, Losses
from training.models.pix2pix import Pix2Pix
from training.perceptual import PerceptualLoss, VggFeatures


class SuperResolution(Pix2Pix):
    """G: small -> large, both RGB in [0, 1]; D tells large ones from G's.

    loss of G = lambda_pixel |G(A) - B| + lambda_perceptual |features(G(A)) - features(B)| + lambda_gan GAN(D(G(A)));
    loss of D = the adversarial one. With lambda_gan 0 there is no discriminator, with lambda_perceptual 0 no VGG.
    """

    is_conditional = False
    discriminator_first = False
    discriminator_weight = 1.0

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        if options.netG not in ("srresnet", "rrdbnet"):
            raise EngineError(f"--model super_resolution takes --netG srresnet or rrdbnet, not {options.netG}")
        super().__init__(options, device)
        weight = options.lambda_perceptual
        self.perceptual_weight = (1.0 if options.vgg else 0.0) if weight is None else weight
        if self.perceptual_weight and not options.vgg:
            raise EngineError("--lambda_perceptual needs --vgg, a file of VGG weights")
        self.perceptual: PerceptualLoss | None = None
        if self.perceptual_weight:
            self.perceptual = PerceptualLoss(VggFeatures.load(options.vgg, device, layers=PerceptualLoss.LAYERS))

    def generator_losses(self, batch: Batch, fake: Tensor) -> Losses:
        losses = super().generator_losses(batch, fake)
        if self.perceptual is not None:
            with self.autocast():
                losses["G_perceptual"] = self.perceptual_weight * self.perceptual(fake, batch["B"])
        return losses

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        shown = super().pictures(batch)
        small, large = shown["real_A"], shown["real_B"]
        bicubic = F.interpolate(small, size=large.shape[2:], mode="bicubic", align_corners=False)
        shown = {"bicubic": bicubic, "fake": shown["fake_B"], "real": large}
        return {name: images.clamp(0.0, 1.0) * 2.0 - 1.0 for name, images in shown.items()}
