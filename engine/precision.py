"""Precisions, the arithmetic each one stands for, and which of them a device has in hardware."""

from __future__ import annotations

import contextlib
import ctypes
import math
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import BackendError

if TYPE_CHECKING:
    import torch

# Parity contract: PSNR in dB of the uint8 output against eager float32 on the same real frame.
PARITY_DB = {"fp32": 60.0, "bf16": 45.0, "fp16": 45.0, "fast": 40.0}

PRECISIONS = tuple(PARITY_DB)

# A frame whose every channel varies by less than this, in grey levels, is nearly uniform: see `is_nearly_uniform`.
UNIFORM_STD = 12.0
_UNIFORM_GRID = 64  # samples per side that the variation is measured on


def choose_device(device: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU; any other name is taken as torch means it.

    Raises:
        BackendError: no such device.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise BackendError(f"unknown device {device!r}: accepted are auto, cpu, cuda, cuda:N") from None
    if chosen.type not in ("cpu", "cuda"):
        raise BackendError(f"device {device!r} is not supported: accepted are auto, cpu, cuda, cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"device {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return chosen


def is_surely_cpu(device: str) -> bool:
    """Whether `choose_device` would take the CPU, as far as can be told without importing torch."""
    if device != "auto" or sys.platform == "darwin":
        return device in ("cpu", "auto")
    if any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd")):
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:  # without NVIDIA's driver torch finds no device
        return True
    return False


def has_bf16_arithmetic() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX, or bf16 dot products on Arm)."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def has_fp16_arithmetic() -> bool:
    """Whether this CPU multiplies float16 in hardware."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_fp16", "amx_fp16", "fp16_arith"))


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


@contextlib.contextmanager
def true_float32() -> Iterator[None]:
    """Keeps cuDNN and cuBLAS from computing float32 in TF32, of 10 bits of fraction, as cuDNN does by default."""
    import torch

    flags: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    before = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = False
        yield
    finally:
        for flag, allowed in zip(flags, before, strict=True):
            flag.allow_tf32 = allowed


def psnr_db(frames: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 arrays of one shape, in dB: 10 log10(255^2 / mean squared error)."""
    difference = frames.astype(np.float32) - reference.astype(np.float32)
    mean_squared_error = float(np.mean(np.square(difference), dtype=np.float64))
    return math.inf if mean_squared_error == 0.0 else 10.0 * math.log10(255.0**2 / mean_squared_error)


def is_nearly_uniform(frame: np.ndarray | torch.Tensor) -> bool:
    """Whether a frame, uint8 [H, W, 3], is so flat (black, a fade, fog) that half precision shows in its translation.

    InstanceNorm divides by what little variation there is, and magnifies the rounding of bf16 and fp16 with it. In a
    film that fades in from black, bf16 was at 16 dB of float32 on black, at 40 to 44 dB up to a standard deviation of
    11, and above 47 dB from 12 on.
    """
    step_y, step_x = (max(1, side // _UNIFORM_GRID) for side in frame.shape[:2])
    samples = frame[::step_y, ::step_x]
    if not isinstance(samples, np.ndarray):
        return bool(samples.float().std(dim=(0, 1), correction=0).max() < UNIFORM_STD)
    return bool(np.max(np.std(samples, axis=(0, 1), dtype=np.float32)) < UNIFORM_STD)


def processor_abilities() -> list[str]:
    """The instruction sets of this CPU by torch's names, sorted."""
    import torch

    return sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True)


def processor_name() -> str:
    """The CPU's marketing name, as well as the system tells it."""
    import torch

    name = str(torch.cpu.get_capabilities().get("cpu_name", "")) or platform.processor()
    return name.strip() or platform.machine()
