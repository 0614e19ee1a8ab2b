"""The whole generator as one operator of ours: normalisation, activation and padding inside the convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.errors import BackendError
from engine.generators import Generator

HAS_FAST = True


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on `device`, in one line; None if it can."""
    if device.type != "cpu":
        return "the fused operators run on the CPU"
    try:
        from engine import ops  # noqa: F401
    except (ImportError, BackendError) as error:
        return str(error)
    return None


def compile_generator(generator: Generator, example: Tensor, precision: str) -> Callable[[Tensor], Tensor]:
    """Packs the weights, in a fraction of a second, for every frame size.

    Raises:
        BackendError: the generator has a layer that the fused operator does not know, or the dtype is float16.
    """
    from engine.fuse import fuse

    if example.dtype not in (torch.float32, torch.bfloat16):
        raise BackendError(f"the fused backend runs in fp32, bf16 and fast, not in {precision}")
    return fuse(generator, precision if example.dtype == torch.bfloat16 else "fp32")
