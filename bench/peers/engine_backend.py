"""This project's own backends, made ready as `Translator` does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.peers import Session, Spec, load_weights
from bench.peers.torch_session import torch_input, torch_session
from engine.backends import get_backend


def unavailable(device: str, spec: Spec) -> str | None:
    """What the backend itself says."""
    reason: str | None = get_backend(spec.backend).unavailable(torch.device(device))
    return reason


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Compiles the generator with `spec.backend`."""
    tensor = torch_input(example, spec)
    generator = load_weights(folder).to(device=spec.device)
    with torch.no_grad():
        compiled = get_backend(spec.backend).compile_generator(generator, tensor, spec.precision)
    tensor = tensor.to(getattr(compiled, "input_dtype", tensor.dtype))
    return torch_session(compiled, tensor, mode=torch.no_grad)  # as `Translator` does
