"""How close an engine's frames have to be to eager float32, and on which frames that can be measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Parity contract: PSNR in dB of the uint8 output against eager float32 on the same real frame.
PARITY_DB = {"fp32": 60.0, "bf16": 45.0, "fp16": 45.0, "fast": 40.0}

# A frame whose every channel varies by less than this, in grey levels, is nearly uniform: see `is_nearly_uniform`.
UNIFORM_STD = 12.0
_UNIFORM_GRID = 64  # samples per side that the variation is measured on


def psnr_db(frames: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 arrays of one shape, in dB: 10 log10(255^2 / mean squared error)."""
    difference = frames.astype(np.float32) - reference.astype(np.float32)
    mean_squared_error = float(np.mean(np.square(difference), dtype=np.float64))
    return math.inf if mean_squared_error == 0.0 else 10.0 * math.log10(255.0**2 / mean_squared_error)


def is_nearly_uniform(frame: np.ndarray | torch.Tensor) -> bool:
    """Whether a frame, uint8 [H, W, 3], is so flat (black, a fade, fog) that half precision shows in its translation.

    InstanceNorm divides by what little variation there is, and magnifies the rounding of bf16 and fp16 with it. In a
    film that fades in from black, bf16 was at 16 dB of float32 on black, at 40 to 44 dB up to a standard deviation of
    11, and above 47 dB from 12 on.
    """
    step_y, step_x = (max(1, side // _UNIFORM_GRID) for side in frame.shape[:2])
    samples = frame[::step_y, ::step_x]
    if not isinstance(samples, np.ndarray):
        return bool(samples.float().std(dim=(0, 1), correction=0).max() < UNIFORM_STD)
    return bool(np.max(np.std(samples, axis=(0, 1), dtype=np.float32)) < UNIFORM_STD)
