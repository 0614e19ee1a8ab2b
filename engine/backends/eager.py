"""PyTorch as it is, operator by operator: no start-up time, and the reference that every other backend is held to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.generators import Generator


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on `device`, in one line; None if it can."""
    return None


def compile_generator(
    generator: Generator, example: Tensor, precision: str, parity_db: Callable[[Callable[[Tensor], Tensor]], float]
) -> Callable[[Tensor], Tensor]:
    """Returns `generator` itself, with weights in channels_last order, the layout that convolutions are fastest in."""
    return generator.to(dtype=example.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
