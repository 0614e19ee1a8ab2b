"""TorchScript: traced, frozen, `torch.jit.optimize_for_inference`, run in a process of its own from the saved file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.peers import Session, Spec
from bench.peers.torch_session import torch_input, torch_module, torch_session

_FILE = "generator.ts"

PER_PRECISION = True


def unavailable(device: str, spec: Spec) -> str | None:
    """Nothing else is needed."""
    return None


def convert(generator: torch.nn.Module, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Traces and saves. Freezing comes on loading: what `optimize_for_inference` makes can't be saved."""
    tensor = torch_input(example, spec)
    module = torch_module(generator, tensor)
    with torch.inference_mode(False), torch.no_grad():
        torch.jit.trace(module, tensor, check_trace=False).save(str(folder / _FILE))


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Freezes and optimises the saved program."""
    tensor = torch_input(example, spec)
    with torch.no_grad():
        module = torch.jit.freeze(torch.jit.load(str(folder / _FILE), map_location=spec.device).eval())
        module = torch.jit.optimize_for_inference(module)
        for _ in range(2):  # the profiling executor specialises on the first calls
            module(tensor)
    return torch_session(module, tensor)
