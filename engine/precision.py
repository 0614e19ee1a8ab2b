"""Precisions, and which of them a device computes fastest in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.device import has_bf16_arithmetic, has_fp16_arithmetic
from engine.parity import PARITY_DB

if TYPE_CHECKING:
    import torch

PRECISIONS = tuple(PARITY_DB)


def fastest_precision(device: torch.device) -> str:
    """The half precision that `device` has arithmetic for, else fp32.

    On a CPU it need not be faster than float32: on Intel's Xeons AVX512-BF16 multiplies at half the rate of float32.
    """
    if device.type == "cuda":
        return "fp16"
    return "bf16" if has_bf16_arithmetic() else "fp32"


def auto_precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions that `auto` chooses from, the one that it tries first in front; several are measured."""
    half = fastest_precision(device)
    return (half,) if device.type == "cuda" else tuple(dict.fromkeys((half, "fp32")))


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of activations and weights. `fast` is the device's half precision under a looser parity limit."""
    import torch

    if precision == "fast":
        precision = fastest_precision(device)
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def is_emulated(precision: str, device: torch.device) -> bool:
    """Whether `device` has to emulate `precision`, which is slower than float32."""
    if device.type == "cuda":
        return False
    return (precision == "bf16" and not has_bf16_arithmetic()) or (precision == "fp16" and not has_fp16_arithmetic())
