"""The emulation itself: its arithmetic, and that it notices what a GPU would leave to chance.

Each kernel here is compiled with a mistake in it, as the sources of csrc/cuda can have one.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cuda.emulated import ROOT, compile_source, emulated_library, emulated_objects, link


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_that_of_the_hardware(dtype: torch.dtype) -> None:
    """Every value of the type, the middles between neighbours, and what lies just beside them."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    every = every[every.isfinite()].sort().values
    middles = (every[1:].double() + every[:-1].double()).div(2).float()
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 65519.9, 65520.0, 1e30, -1e30, 1e-30, -0.0])
    values = torch.cat([every, middles, middles.nextafter(torch.tensor(1e38)), middles.nextafter(-torch.tensor(1e38))])
    values = torch.cat([values, special])
    actual = values.clone()
    pointer = ctypes.cast(actual.data_ptr(), ctypes.POINTER(ctypes.c_float))
    emulated_library().streamgan_emulate_rounding(pointer, ctypes.c_long(len(actual)), dtype == torch.bfloat16)
    expected = values.to(dtype).float()
    assert torch.equal(actual.view(torch.int32)[~expected.isnan()], expected.view(torch.int32)[~expected.isnan()])
    assert torch.equal(actual.isnan(), expected.isnan())


# What is taken out of a source or changed in it, and what the tests of values then do.
MISTAKES = {
    "barrier": (
        "csrc/cuda/instance_norm_act.cu",
        "  __syncthreads();\n  const int lane =",
        "  const int lane =",
    ),
    "reduction": (
        "csrc/cuda/instance_norm_act.cu",
        "for (int offset = kWarpSize / 2; offset >= lanes; offset /= 2) {",
        "for (int offset = kWarpSize / 2; offset > lanes; offset /= 2) {",
    ),
    "index": (
        "csrc/cuda/instance_norm_act.cu",
        "if (copy == 1) return index >= 1 && index <= before ? before - index : -1;",
        "if (copy == 1) return index >= 0 && index < before ? before - index - 1 : -1;",
    ),
    "cluster barrier": (
        "csrc/cuda/instance_norm_act.cu",
        "  if (p.parts > 1) cluster_sync();  // a block must not end while others read its totals\n",
        "",
    ),
    "barrier that not all reach": (
        "csrc/cuda/instance_norm_act.cu",
        "  cluster_sync();\n  for (int index = thread;",
        "  if (thread % 2 == 0) cluster_sync();\n  for (int index = thread;",
    ),
    "shared memory too small": (
        "csrc/cuda/instance_norm_act_plan.cu",
        "static_cast<size_t>(plan.items_per_part) * lanes * item_bytes;",
        "static_cast<size_t>(plan.items_per_part - 1) * lanes * item_bytes;",
    ),
}

# Normalises, with a residual and padding, in blocks and clusters, in each order of threads; says what is wrong.
PROBE = """
import ctypes, os, sys
import torch
import torch.nn.functional as F
torch.use_deterministic_algorithms(True)  # what is not written is NaN
torch.ops.load_library(sys.argv[1])
library = ctypes.CDLL(sys.argv[1])
library.streamgan_emulate_device.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int]
image = torch.randn(1, 16, 24, 40, generator=torch.Generator().manual_seed(0))
image = image.contiguous(memory_format=torch.channels_last)
expected = F.pad(F.instance_norm(image.double()), (1, 1, 1, 1), mode="reflect")
for form, device in [("resident", (1, 232448, 2**20, 1)), ("resident", (10000, 232448, 2**20, 4)),
                     ("two_passes", (40, 65536, 2**20, 1))]:
    os.environ["STREAMGAN_NORM_FORM"] = form
    library.streamgan_emulate_device(*device)
    for order in range(4):
        library.streamgan_emulate_order(order)
        try:
            actual, _, _ = torch.ops.streamgan_emulated.instance_norm_act(
                image, None, None, None, 1e-5, 1.0, False, [1, 1, 1, 1])
        except RuntimeError as error:
            print(f"{form} {order}: {error}")
            continue
        worst = (actual.double() - expected).abs().max().item()
        if not worst < 1e-4:
            print(f"{form} {order}: off by {worst:.3g}")
"""


def probe(folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(folder / "libstreamgan_emulated.so")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def build_with(mistake: tuple[str, str, str], folder: Path) -> None:
    """The library with a mistake in one of its sources."""
    source, right, wrong = mistake
    text = (ROOT / source).read_text()
    assert text.count(right) == 1, f"{right!r} is not in {source}, once"
    for name in ("csrc", "tests/cuda/emulation"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / source).write_text(text.replace(right, wrong))
    objects = emulated_objects() | {source: compile_source(source, folder, folder)}
    link(list(objects.values()), folder)


def test_what_is_right_passes(tmp_path: Path) -> None:
    link(list(emulated_objects().values()), tmp_path)
    assert probe(tmp_path) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_noticed(mistake: str, tmp_path: Path) -> None:
    build_with(MISTAKES[mistake], tmp_path)
    found = probe(tmp_path)
    print("\n".join([mistake, *found]))
    assert found
