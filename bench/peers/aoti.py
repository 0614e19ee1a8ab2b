"""AOTInductor: exported, compiled ahead of time with frozen weights into a package, run from the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.peers import Session, Spec
from bench.peers.torch_compile import unavailable
from bench.peers.torch_session import torch_input, torch_module, torch_session

__all__ = ["convert", "load", "unavailable"]

_FILE = "generator.pt2"

PER_PRECISION = True


def convert(generator: torch.nn.Module, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Exports and compiles."""
    tensor = torch_input(example, spec)
    module = torch_module(generator, tensor)
    with torch.no_grad():
        program = torch.export.export(module, (tensor,))
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(folder / _FILE),
            inductor_configs={"freezing": True, "max_autotune": True},
        )


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Loads the package."""
    tensor = torch_input(example, spec)
    return torch_session(torch._inductor.aoti_load_package(str(folder / _FILE)), tensor)
