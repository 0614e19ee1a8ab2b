"""What the tests of choosing share: frames, and what eager float32 makes of them."""

from __future__ import annotations

import numpy as np
import torch

from engine.backends import BACKENDS
from engine.generators import Generator
from engine.precision import fastest_precision
from engine.translator import Translator


def random_frame(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


FRAME = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, (40, 24, 3), dtype=np.uint8)
AOTI, TORCHSCRIPT = BACKENDS["aoti"], BACKENDS["torchscript"]
HALF = fastest_precision(torch.device("cpu"))


def exact(generator: Generator, frame: np.ndarray) -> np.ndarray:
    return Translator(generator, backend="eager", precision="fp32")(frame)
