"""torch.compile: up to a minute of compilation for one frame size, then faster than eager."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.errors import BackendError
from engine.generators import Generator


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on `device`, in one line; None if it can."""
    if device.type == "cpu":
        from torch._inductor import config

        # `cpp.cxx` lists candidates, None standing for the one that inductor would look for by itself.
        if not any(shutil.which(compiler) for compiler in (*config.cpp.cxx, "g++", "clang++") if compiler):
            return "torch.compile needs a C++ compiler (g++ or clang++) on the PATH"
    return None


def compile_generator(
    generator: Generator, example: Tensor, precision: str, parity_db: Callable[[Callable[[Tensor], Tensor]], float]
) -> Callable[[Tensor], Tensor]:
    """Compiles `generator` for the shape, dtype and device of `example`, and runs it once so that nothing is left."""
    from torch._inductor import config

    # Freezing packs the weights ahead. Transposed convolutions, which else rearrange theirs in every call, and
    # BatchNorm, which is folded into the convolution before it, gain by it; InstanceNorm can lose.
    gains_by_freezing = any(isinstance(layer, (nn.ConvTranspose2d, nn.BatchNorm2d)) for layer in generator.modules())
    module = generator.to(dtype=example.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        # Not by `options`: those reach only a later stage of compilation than the one that looks at `freezing`.
        on_gpu = example.device.type == "cuda"
        with config.patch({"freezing": gains_by_freezing, "triton.cudagraphs": on_gpu, "max_autotune": on_gpu}):
            compiled = torch.compile(module, dynamic=False, fullgraph=True)
            compiled(example)
    except Exception as error:  # whatever the compilers below it raise, from many trees of exceptions
        raise BackendError(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
    return compiled
