"""Runs with a small style on frames of the sample, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from engine import Translator, save_generator
from engine.generators import GeneratorConfig, build
from engine.generators.resnet import ResNetConfig
from engine.samples import SAMPLE

SIZE = (90, 160)


def saved(path: Path, *, seed: int, config: GeneratorConfig | None = None) -> Path:
    torch.manual_seed(seed)
    save_generator(build(config or ResNetConfig(width=8, blocks=1)), path, metadata={})
    return path


def frame(number: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    capture = cv2.VideoCapture(str(SAMPLE))
    capture.set(cv2.CAP_PROP_POS_FRAMES, number)
    read, image = capture.read()
    assert read
    return cv2.resize(image, (size[1], size[0]))


class Run:
    """A translator as a run of the command line makes it; `loads` says whether it needed torch."""

    def __init__(self, style: Path, **asked: Any) -> None:
        options = {"precision": "fp32", "frames_at_once": 2, **asked}
        self.translator = Translator(style, device="cpu", **options)

    @property
    def loads(self) -> int:
        return int(self.translator._loaded is not None)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.translator.engine_for(image)
        return self.translator(image)


def loads(style: Path, **asked: Any) -> int:
    """Whether a run that begins with that frame needs torch."""
    run = Run(style, **asked)
    run(frame())
    return run.loads
