"""torch.compile with frozen weights and max-autotune, channels_last; CUDA graphs on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.peers import Session, Spec, load_weights
from bench.peers.torch_session import torch_input, torch_module, torch_session


def unavailable(device: str, spec: Spec) -> str | None:
    """What torch.compile needs: the same as this project's backend on it."""
    from engine.backends.inductor import compiler_missing

    return compiler_missing(torch.device(device))


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Compiles for this shape."""
    from torch._inductor import config

    config.freezing = True
    tensor = torch_input(example, spec)
    module = torch_module(load_weights(folder), tensor)
    return torch_session(torch.compile(module, mode="max-autotune", dynamic=False, fullgraph=True), tensor)
