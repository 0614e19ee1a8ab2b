"""What is trained: networks, losses and the steps that alternate between them. One file per `--model`."""

from __future__ import annotations

import argparse

import torch

from training.models.base import TrainingModel
from training.models.colorization import Colorization
from training.models.cycle_gan import CycleGan
from training.models.pix2pix import Pix2Pix
from training.models.style import Style
from training.models.super_resolution import SuperResolution

__all__ = ["MODELS", "TrainingModel", "make_model"]

MODELS: dict[str, type[TrainingModel]] = {
    "cycle_gan": CycleGan,
    "pix2pix": Pix2Pix,
    "colorization": Colorization,
    "super_resolution": SuperResolution,
    "style": Style,
}


def make_model(options: argparse.Namespace, device: torch.device) -> TrainingModel:
    """Builds networks and optimizers of `options.model`, with weights drawn from torch's random numbers.

    Raises:
        EngineError: options that don't go together.
    """
    return MODELS[options.model](options, device)
