"""Colours for grey pictures: pix2pix from lightness to a and b of CIE Lab (Zhang et al., arXiv:1603.08511, use Lab)."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from training.data.transforms import from_lab
from training.models.base import Batch
from training.models.pix2pix import Pix2Pix


class Colorization(Pix2Pix):
    """G: lightness [N, 1, H, W] -> colours [N, 2, H, W]; see `training.data.transforms.to_lab` for the scales."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        options.input_nc, options.output_nc = 1, 2
        super().__init__(options, device)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        shown = super().pictures(batch)
        lightness = shown["real_A"]
        return {
            "grey": from_lab(lightness, torch.zeros_like(shown["real_B"])),
            "fake": from_lab(lightness, shown["fake_B"]),
            "real": from_lab(lightness, shown["real_B"]),
        }
