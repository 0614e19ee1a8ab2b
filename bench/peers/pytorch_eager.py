"""PyTorch as its tuning guide has it for convolutions: channels_last, inference mode, weights in the precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.peers import Session, Spec, load_weights
from bench.peers.torch_session import torch_input, torch_module, torch_session


def unavailable(device: str, spec: Spec) -> str | None:
    """Nothing else is needed."""
    return None


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """The module itself."""
    if spec.device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    tensor = torch_input(example, spec)
    return torch_session(torch_module(load_weights(folder), tensor), tensor)
