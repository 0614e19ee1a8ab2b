"""The models that can be trained, one file per `--model`: networks, losses, and the step."""

from __future__ import annotations

import argparse

import torch

from training.models.base import TrainingModel
from training.models.colorization import Colorization
from training.models.cut import Cut
from training.models.cycle_gan import CycleGan
from training.models.distillation import Distillation
from training.models.pix2pix import Pix2Pix
from training.models.style import Style
from training.models.super_resolution import SuperResolution

__all__ = ["MODELS", "TrainingModel", "make_model"]

MODELS: dict[str, type[TrainingModel]] = {
    "cycle_gan": CycleGan,
    "cut": Cut,
    "pix2pix": Pix2Pix,
    "colorization": Colorization,
    "super_resolution": SuperResolution,
    "style": Style,
    "distillation": Distillation,
}


def make_model(options: argparse.Namespace, device: torch.device) -> TrainingModel:
    """Builds the model that `options` name, with random weights. Raises EngineError for options that don't fit."""
    return MODELS[options.model](options, device)
