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
# Of a multiprocessor at once, at least: while one waits for memory, others read or write.
BLOCKS = {"norm_apply": 2, "norm_resident": 2}
MOST_BLOCKS = 3
# Without asking for more.
STATIC_SHARED_BYTES = 48 * 1024

pytestmark = [
    pytest.mark.time_limit(900),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc (CUDA's compiler) is not in PATH"),
]


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
    # Templates of 3 dtypes, two for frames and three for norms, those in 2 widths and 2 layouts too; two that join
    # statistics; for video two sample types one way and one the other.
    assert len(kernels) == 2 * 3 + 3 * 3 * 2 * 2 + 2 + 3
    registers, threads = ARCHITECTURES[architecture]
    for kernel in kernels:
        wanted = next((count for name, count in BLOCKS.items() if name in kernel.name), MOST_BLOCKS)
        blocks = min(wanted, threads // THREADS)
        assert kernel.spilled_bytes == 0, kernel
        assert kernel.stack_bytes == 0, kernel
        assert kernel.registers * THREADS * blocks <= registers, kernel
        assert kernel.shared_bytes <= STATIC_SHARED_BYTES, kernel


def test_loads_and_stores_are_of_16_bytes(tmp_path: Path) -> None:
    """The kernels for packs of interleaved channels: their activations move in no smaller pieces."""
    target = tmp_path / "kernels.ptx"
    command = ["nvcc", "-std=c++17", "-O3", f"-I{ROOT}", "-arch=compute_90", "-ptx", "-o", str(target)]
    done = subprocess.run([*command, str(ROOT / "csrc/cuda/instance_norm_act.cu")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    entries = re.split(r"\.entry ", target.read_text())[1:]
    wide = [entry for entry in entries if re.search(r"(__half|__nv_bfloat16)Li8ELb1E", entry[: entry.index("(")])]
    assert len(wide) == 2 * 3
    for entry in wide:
        assert len(re.findall(r"ld\.global(\.nc)?\.v4", entry)) >= 2
        assert not re.search(r"(ld|st)\.global(\.nc)?\.[bu](8|16)\b", entry)
        if "norm_statistics" not in entry[: entry.index("(")]:
            assert re.search(r"st\.global\.v4", entry)


def test_video_moves_in_8_and_16_bytes(tmp_path: Path) -> None:
    """Where rows are aligned; the same kernels have a way in single bytes for those that are not."""
    target = tmp_path / "kernels.ptx"
    command = ["nvcc", "-std=c++17", "-O3", f"-I{ROOT}", "-arch=compute_90", "-ptx", "-o", str(target)]
    done = subprocess.run([*command, str(ROOT / "csrc/cuda/yuv.cu")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    entries = re.split(r"\.entry ", target.read_text())[1:]
    assert len(entries) == 3
    for entry in entries:
        assert len(re.findall(r"st\.global\.v2\.[bu]32", entry)) >= 3
        assert re.search(r"ld\.global(\.nc)?\.(v2\.[bu]32|v4\.[bu]32|[bu]64|v4\.[bu]16|v2\.[bu]64)", entry)
