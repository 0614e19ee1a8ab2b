"""What nvcc reports of the kernels for every architecture: they compile, spill nothing, and fit their launches."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cuda.emulated import ROOT

# Architecture: registers of a multiprocessor, its threads.
ARCHITECTURES = {
    "75": (65536, 1024),
    "80": (65536, 2048),
    "86": (65536, 1536),
    "89": (65536, 1536),
    "90a": (65536, 2048),
    "120": (65536, 1536),
}
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
THREADS = 256
# Of a multiprocessor, that are to be busy at once: two blocks that wait for each other's memory.
BLOCKS = 3
# Without asking for more.
STATIC_SHARED_BYTES = 48 * 1024

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc (CUDA's compiler) is not in PATH")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One entry function as ptxas reports it."""

    name: str
    registers: int
    stack_bytes: int
    spilled_bytes: int
    shared_bytes: int


def report_of(text: str) -> list[Kernel]:
    """The kernels in the output of `nvcc -Xptxas -v`."""
    kernels = []
    for part in text.split("Compiling entry function '")[1:]:
        stack, stores, loads = map(
            int, re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)[0]
        )
        registers = int(re.findall(r"Used (\d+) registers", part)[0])
        shared = re.findall(r"(\d+) bytes smem", part)
        name = part[: part.index("'")]
        kernels.append(Kernel(name, registers, stack, stores + loads, int(shared[0]) if shared else 0))
    return kernels


def compile_kernels(architecture: str, folder: Path) -> list[Kernel]:
    kernels = []
    for source in SOURCES:
        command = ["nvcc", "-std=c++17", "-O3", f"-I{ROOT}", "-cubin", "-Xptxas", "-v", "-Werror", "all-warnings"]
        command += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
        command += [str(source), "-o", str(folder / f"{source.stem}.{architecture}.cubin")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        kernels += report_of(done.stderr)
    return kernels


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Kernel]]:
    folder = tmp_path_factory.mktemp("cubins")
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.map(lambda architecture: compile_kernels(architecture, folder), ARCHITECTURES)
        return dict(zip(ARCHITECTURES, compiled, strict=True))


def test_the_report_is_understood() -> None:
    text = """ptxas info    : Compiling entry function '_Zone' for 'sm_90a'
ptxas info    : Function properties for _Zone
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 16 bytes stack, 2048 bytes smem, 656 bytes cmem[0]
"""
    assert report_of(text) == [Kernel("_Zone", 72, 16, 12, 2048)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_fits(reports: dict[str, list[Kernel]], architecture: str) -> None:
    kernels = reports[architecture]
    # Four templates of 3 dtypes, and for norms of 2 widths and 2 layouts too, and two that join statistics.
    assert len(kernels) == 2 * 3 + 3 * 3 * 2 * 2 + 2
    registers, threads = ARCHITECTURES[architecture]
    blocks = min(BLOCKS, threads // THREADS)
    for kernel in kernels:
        assert kernel.spilled_bytes == 0, kernel
        assert kernel.stack_bytes == 0, kernel
        assert kernel.registers * THREADS * blocks <= registers, kernel
        assert kernel.shared_bytes <= STATIC_SHARED_BYTES, kernel
