"""What the operator tests share: sizes around a block of 16 pixels, instruction sets, and a fresh process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import _native, ops

ISAS = _native.supported_isas()
MATRIX_ISA = "avx512_amx"  # the one with a matrix unit, where the fused backend chooses otherwise
NO_MATRIX_ISAS = [isa for isa in ISAS if isa != MATRIX_ISA]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RANGES = [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-2.1179, 2.64)]
# (height, width); the vector kernels work on blocks of 16 pixels.
SIZES = [(1, 1), (1, 2), (2, 15), (3, 16), (3, 17), (5, 31), (2, 32), (4, 33), (7, 47), (37, 101)]


@contextlib.contextmanager
def forced_isa(name: str) -> Iterator[None]:
    _native.set_isa(name)
    try:
        yield
    finally:
        _native.set_isa(None)


# Level 2 and level 3 caches, in bytes: a desktop processor's and a large server's.
CACHES = {"small caches": (1 << 20, 8 << 20), "large caches": (2 << 20, 480 << 20)}


@contextlib.contextmanager
def forced_caches(sizes: tuple[int, int]) -> Iterator[None]:
    _native.set_caches(sizes)
    try:
        yield
    finally:
        _native.set_caches(None)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_frames(images: int, height: int, width: int) -> torch.Tensor:
    """uint8 [images, height, width, 3], the same on every call."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (images, height, width, 3), dtype=torch.uint8, generator=generator)


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def run_script_module(path: Path, inputs: Path, outputs: Path) -> None:
    """Runs a saved TorchScript module in a process that imports torch only and loads the operator library."""
    code = "\n".join(
        [
            "import torch",
            f"torch.ops.load_library({str(ops.LIBRARY)!r})",
            f"torch.save(torch.jit.load({str(path)!r})(torch.load({str(inputs)!r})), {str(outputs)!r})",
            "import sys",
            "assert 'engine' not in sys.modules",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=path.parent)
    assert done.returncode == 0, done.stderr


LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def norm_inputs(shape: tuple[int, ...], dtype: torch.dtype, layout: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """Inputs of instance_norm_act whose mean is far from 0.

    Args:
        layout: of LAYOUTS.
        options: "affine" and "residual" ask for these inputs; all others are arguments of the operator.
    """
    source = torch.Generator().manual_seed(sum(shape))
    made = {"input": torch.randn(shape, generator=source) * 2 + 3}
    if options.get("residual"):
        made["residual"] = torch.randn(shape, generator=source)
    made = {name: tensor.to(dtype).contiguous(memory_format=LAYOUTS[layout]) for name, tensor in made.items()}
    if options.get("affine"):
        made |= {
            "weight": torch.rand(shape[1], generator=source) + 0.5,
            "bias": torch.randn(shape[1], generator=source),
        }
    return made


def norm_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments among the options of `norm_inputs`."""
    return {name: value for name, value in options.items() if name not in ("affine", "residual")}


def assert_norm_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within `tolerance` of the largest value; NaN never passes."""
    assert actual.shape == expected.shape
    assert float((actual.double() - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))
