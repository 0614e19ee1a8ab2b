"""The device that runs: which one, what its processor is called and can do, and frames that come back from it.

Nothing here imports torch before it has to.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import BackendError
from engine.files import sha256

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Held while a graph is captured, while another engine runs, and where frames are converted or copied on the device: a
# thread that waits for the device would break the capture.
DEVICE_LOCK = threading.RLock()


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
        ctypes.CDLL("libcuda.so.1")
    except OSError:  # without NVIDIA's driver torch finds no device
        return True
    return False


def has_bf16_arithmetic() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX, or bf16 dot products on Arm)."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(processor_abilities())


def has_fp16_arithmetic() -> bool:
    """Whether this CPU multiplies float16 in hardware."""
    return not {"avx512_fp16", "amx_fp16", "fp16_arith"}.isdisjoint(processor_abilities())


def processor_name() -> str:
    """The CPU's marketing name, as well as the system tells it."""
    import torch

    name = str(torch.cpu.get_capabilities().get("cpu_name", "")) or platform.processor()
    return name.strip() or platform.machine()


def processor_abilities() -> list[str]:
    """The instruction sets of this CPU by torch's names, sorted."""
    import torch

    return sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True)


def processor_fingerprint() -> str:
    """Hash of the processor's model name and instruction sets; measurements and compiled code hold for it alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        lines = [f"model name: {platform.processor()} {platform.machine()}"]
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def gpu_name(device: torch.device) -> str:
    """The GPU's marketing name and its compute capability: "NVIDIA H200 sm90"."""
    import torch

    return f"{torch.cuda.get_device_name(device)} {gpu_architecture(device)}"


def gpu_architecture(device: torch.device) -> str:
    """The GPU's compute capability as compilers write it: "sm90"."""
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def installed_versions(*distributions: str) -> str:
    """Versions of those pip distributions that are installed: "torch 2.13.0, numpy 2.4.0"."""
    import importlib.metadata

    found = []
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kernel_facts() -> dict[str, str]:
    """Hash of the library of CPU kernels, and the instruction tier in use.

    Raises:
        ImportError: the kernels aren't built.
        ValueError: STREAMGAN_ISA names no tier that runs here.
    """
    from engine import _native

    return {"kernels": _libraries_hash(), "isa": _native.active_isa()}


@functools.cache
def _libraries_hash() -> str:
    from engine import _native

    folder = Path(_native.__file__).parent / "lib"
    return " ".join(sha256(library)[:16] for library in sorted(folder.glob("*streamgan_cpu*")))


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


def host_image(image: np.ndarray | Tensor) -> np.ndarray:
    """An image, or a batch of them, as an array: itself, or a copy of what is on a device."""
    if isinstance(image, np.ndarray):
        return image
    with DEVICE_LOCK:
        return image.cpu().numpy()
