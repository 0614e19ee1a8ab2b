"""The facts about this processor that a measurement depends on; needs no torch."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path

from engine.cache import sha256


def processor_fingerprint() -> str:
    """Hash of the processor's model name and instruction sets; measurements and compiled code hold for it alone."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:  # not Linux
        lines = [f"model name: {platform.processor()} {platform.machine()}"]
    kept = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


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
