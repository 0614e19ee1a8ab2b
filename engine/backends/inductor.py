"""torch.compile with weights frozen in: up to a minute of compilation for one frame size, then faster than eager."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from torch import Tensor

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


def compile_generator(generator: Generator, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Compiles `generator` for the shape, dtype and device of `example`, and runs it once so that nothing is left."""
    options: dict[str, str | int | bool | Callable[..., object]] = {"freezing": True}
    if example.device.type == "cuda":
        options["triton.cudagraphs"] = True
    module = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        compiled = torch.compile(module, dynamic=False, fullgraph=True, options=options)
        compiled(example)
    except Exception as error:  # whatever the compilers below it raise, from many trees of exceptions
        raise BackendError(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
    return compiled
