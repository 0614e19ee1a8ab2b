"""How much memory a frame takes: the quick bound holds, and the process's own peak is told."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from engine.generators import build
from engine.memory import activation_bytes, most_activation_bytes
from engine.sizes import padded_size
from tests.engine.small_generators import CONFIGS


@pytest.mark.parametrize("size", [(64, 64), (64, 192), (512, 256)])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_quick_bound_is_one(name: str, size: tuple[int, int]) -> None:
    generator = build(CONFIGS[name]).eval()
    for dtype in (torch.float32, torch.bfloat16):
        shape = (2, 3, *padded_size(generator, *size))
        assert most_activation_bytes(generator, shape, dtype) >= activation_bytes(generator, shape, dtype) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_peak_is_that_of_this_process_alone() -> None:
    """The system hands the peak of the one that starts a process on to it, in one of its counters."""
    held = bytearray(b"1") * (400 << 20)
    code = "from engine.memory import peak_process_bytes; print(peak_process_bytes())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 << 20 < int(ran.stdout) < len(held)
