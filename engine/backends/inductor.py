"""torch.compile: up to a minute of compilation for one frame size, then faster than eager."""

from __future__ import annotations

import shutil

import torch
from torch import Tensor, nn

from engine.backends.base import CompiledGenerator, InMemoryBackend, ParityMeasure, in_channels_last
from engine.errors import BackendError, first_line
from engine.generators import Generator


def compiler_missing(device: torch.device) -> str | None:
    """Why torch's compiler can't compile for `device`, in one line; None if it can."""
    if device.type == "cpu":
        from torch._inductor import config

        # `cpp.cxx` lists candidates; None stands for the one that inductor would look for by itself.
        if not any(shutil.which(compiler) for compiler in (*config.cpp.cxx, "g++", "clang++") if compiler):
            return "torch.compile needs a C++ compiler (g++ or clang++) on the PATH"
    return None


class Inductor(InMemoryBackend):
    """Compiles for the shape, dtype and device of the example."""

    name = "inductor"
    build_cost = "minutes"
    only_when_named = True

    def unavailable(self, device: torch.device) -> str | None:
        return compiler_missing(device)

    def compile(
        self, generator: Generator, example: Tensor, precision: str, parity_db: ParityMeasure
    ) -> CompiledGenerator:
        from torch._inductor import config

        # Freezing packs the weights ahead. Transposed convolutions, which else rearrange theirs in every call, and
        # BatchNorm, which is folded into the convolution before it, gain by it; InstanceNorm can lose.
        gains = any(isinstance(layer, (nn.ConvTranspose2d, nn.BatchNorm2d)) for layer in generator.modules())
        module = in_channels_last(generator, example.dtype)
        try:
            # Not by `options`: those reach only a later stage of compilation than the one that looks at `freezing`.
            on_gpu = example.device.type == "cuda"
            with config.patch({"freezing": gains, "triton.cudagraphs": on_gpu, "max_autotune": on_gpu}):
                compiled = torch.compile(module, dynamic=False, fullgraph=True)
                compiled(example)  # compilation happens in the first call
        except Exception as error:  # whatever the compilers below it raise, from many trees of exceptions
            raise BackendError(f"torch.compile failed: {first_line(error)}") from error
        return compiled
