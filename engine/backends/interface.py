"""What backends and their callers share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

CompiledGenerator = Callable[[Tensor], Tensor]
"""Takes and returns a tensor [N, 3, H, W]."""

ParityMeasure = Callable[[CompiledGenerator], float]
"""The PSNR in dB of a compiled generator against eager float32 on a real frame."""


def first_line(error: BaseException) -> str:
    """What an exception of a library says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
