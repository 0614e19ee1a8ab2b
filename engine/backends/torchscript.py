"""TorchScript: traced once, saved, frozen on loading. The file runs wherever libtorch does, without Python."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.backends.base import BuildOptions, CompiledGenerator, FileBackend, module_to_save
from engine.errors import BackendError, first_line
from engine.generators import Generator

if TYPE_CHECKING:
    from typing_extensions import Unpack


class TorchScript(FileBackend):
    """Files take every frame size."""

    name = "torchscript"
    build_cost = "seconds"
    suffix = ".pt"
    export_format = "torchscript"
    takes_operators = ("cpu",)

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        module = module_to_save(generator, example, precision, options)
        try:
            with torch.no_grad(), _quiet():
                # Not `save`: torch's writer of files ends the process when the disk is full.
                content = torch.jit.trace(module, example, check_trace=False).save_to_buffer()
        except RuntimeError as error:
            raise BackendError(f"TorchScript can't trace this generator: {first_line(error)}") from error
        path.write_bytes(content)
        return {}

    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        try:
            with torch.no_grad(), _quiet():
                module = torch.jit.load(str(path), map_location=example.device).eval()
                # A module that was frozen when it was saved stays as it is.
                frozen = torch.jit.freeze(module) if hasattr(module, "training") else module
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"{path} can't be run by TorchScript of this torch: {first_line(error)}") from error
        return frozen


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the warnings that torch.jit is not developed further, and that a trace holds constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
