"""The kernels of csrc/cuda on the host: built by a C++ compiler with an emulation of threads, barriers and memory.

The sources are those that nvcc compiles, operators included; only what tests/cuda/emulation has in place of CUDA's
headers differs. `emulated_library()` registers them as `torch.ops.streamgan_emulated`, for CPU tensors.
"""

from __future__ import annotations

import atexit
import ctypes
import dataclasses
import functools
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
SOURCES = [
    "csrc/cuda/instance_norm_act.cu",
    "csrc/cuda/instance_norm_act_plan.cu",
    "csrc/cuda/frames.cu",
    "csrc/cuda/yuv.cu",
    "csrc/cuda/operators.cpp",
    "csrc/ops/common.cpp",
    "csrc/ops/frames_checks.cpp",
    "csrc/ops/instance_norm_act_checks.cpp",
    "csrc/ops/yuv_checks.cpp",
    "tests/cuda/emulation/settings.cpp",
]


@dataclasses.dataclass(frozen=True)
class Device:
    """What launches depend on: multiprocessors, shared memory of a block and L2 in bytes, blocks of a cluster."""

    multiprocessors: int
    shared_bytes: int
    l2_bytes: int
    max_cluster: int


H100 = Device(132, 227 * 1024, 50 * 2**20, 16)
TURING = Device(40, 64 * 1024, 4 * 2**20, 1)

ORDERS = ("forward", "backward", "shuffled", "blockwise")
"""In which order the emulated threads of a block run."""


def compile_source(source: str, folder: Path, root: Path = ROOT) -> Path:
    """Compiles one of SOURCES, under `root`, for the emulation; returns the object file, in `folder`."""
    target = folder / f"{Path(source).stem}.o"
    in_cudas_place = "current_device.h" if source == "csrc/cuda/operators.cpp" else "cuda_emulation.h"
    command = [
        *os.environ.get("CXX", "c++").split(),
        *("-c", "-fPIC", "-std=c++17", "-O1", "-ffp-contract=off", "-fvisibility=hidden"),
        *("-U_FORTIFY_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
        *("-DSTREAMGAN_EMULATE", "-DTORCH_TARGET_VERSION=0x020b000000000000"),
        *("-include", str(root / "tests/cuda/emulation" / in_cudas_place)),
        *(f"-I{root}", "-isystem", str(Path(torch.__file__).parent / "include")),
        *("-x", "c++", str(root / source), "-o", str(target)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def link(objects: list[Path], folder: Path) -> Path:
    """Links what `compile_source` made into a library, in `folder`."""
    target = folder / "libstreamgan_emulated.so"
    libraries = (f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu")
    command = [*os.environ.get("CXX", "c++").split(), "-shared", *map(str, objects), *libraries, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@functools.cache
def emulated_objects() -> dict[str, Path]:
    """The object file of each source, compiled once per process, two at a time."""
    folder = Path(tempfile.mkdtemp(prefix="streamgan-emulated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SOURCES, pool.map(lambda source: compile_source(source, folder), SOURCES), strict=True))


@functools.cache
def emulated_library() -> ctypes.CDLL:
    """Builds and loads the emulated operators, once per process."""
    objects = emulated_objects()
    path = link(list(objects.values()), next(iter(objects.values())).parent)
    torch.ops.load_library(path)
    library = ctypes.CDLL(str(path))
    library.streamgan_emulate_device.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_int]
    return library


@dataclasses.dataclass(frozen=True)
class Plan:
    """How instance_norm_act would be launched: as NormPlan of csrc/cuda/instance_norm_act.h has it."""

    resident: bool
    vector: int
    lanes: int
    blocks: int
    parts: int
    shared_bytes: int


def plan_for(shape: tuple[int, int, int, int], dtype: torch.dtype, *, interleaved: bool) -> Plan:
    """The plan for a tensor [N, C, H, W] on the device that is emulated."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    numbers = (ctypes.c_long * 6)()
    emulated_library().streamgan_emulate_plan((ctypes.c_int * 4)(*shape), dtypes.index(dtype), interleaved, numbers)
    return Plan(bool(numbers[0]), *numbers[1:])


def emulate(device: Device = H100, order: str = "forward") -> None:
    """What the emulated operators run on from now on."""
    library = emulated_library()
    library.streamgan_emulate_device(*dataclasses.astuple(device))
    library.streamgan_emulate_order(ORDERS.index(order))


def among_nans(tensor: torch.Tensor, device: str = "cpu") -> torch.Tensor:
    """A copy in the same layout, in the middle of memory where every other element is NaN (or the largest)."""
    margin = 64
    poison = torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = torch.full((span + 2 * margin,), poison, dtype=tensor.dtype, device=device)
    copy = memory.as_strided(tensor.shape, tensor.stride(), margin)
    return copy.copy_(tensor)
