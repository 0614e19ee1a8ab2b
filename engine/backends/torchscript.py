"""TorchScript: traced once, saved, frozen on loading. The file runs wherever libtorch does, without Python."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.backends.interface import CompiledGenerator, first_line
from engine.errors import BackendError
from engine.generators import Generator

SUFFIX = ".pt"
SAME_RUNTIME = False


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on `device`, in one line; None if it can."""
    return None


def unbuildable(device: torch.device) -> str | None:
    """Why no engine can be built for `device`, in one line; None if it can."""
    return None


def version(device: torch.device) -> str:
    """What writes the file and has to read it."""
    return f"torch {torch.__version__}"


def build(
    generator: Generator,
    example: Tensor,
    precision: str,
    path: Path,
    *,
    dynamic: bool = False,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Traces `generator` in the dtype of `example` and saves it to `path`; it takes any frame size in any case."""
    module = generator.to(dtype=example.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return save_traced(module, example, path)


def save_traced(module: nn.Module, example: Tensor, path: Path) -> dict[str, Any]:
    """Traces `module` and saves it to `path`.

    Raises:
        BackendError: it can't be traced.
        OSError: it can't be written.
    """
    try:
        with torch.no_grad(), _quiet():
            # Not `save`: torch's writer of files ends the process when the disk is full.
            content = torch.jit.trace(module, example, check_trace=False).save_to_buffer()
    except RuntimeError as error:
        raise BackendError(f"TorchScript can't trace this generator: {first_line(error)}") from error
    path.write_bytes(content)
    return {}


def load(path: Path, example: Tensor, precision: str) -> CompiledGenerator:
    """Loads and freezes what `build` saved; the profiling executor specialises it in the first two calls.

    Raises:
        BackendError: the file is damaged, or of another version of torch.
    """
    try:
        with torch.no_grad(), _quiet():
            module = torch.jit.load(str(path), map_location=example.device).eval()
            # What was frozen when it was saved stays as it is.
            frozen = torch.jit.freeze(module) if hasattr(module, "training") else module
    except (RuntimeError, ValueError) as error:
        raise BackendError(f"{path} can't be run by TorchScript of this torch: {first_line(error)}") from error
    return frozen


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes that torch.jit is not developed further, and that a trace holds constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
