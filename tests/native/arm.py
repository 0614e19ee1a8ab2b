"""The CPU kernels built for AArch64 and run on emulated processors.

g++ for AArch64 builds csrc/ and run_cases.cpp, which needs neither torch nor Python, and qemu-aarch64 runs it. Debian
has them in the packages g++-aarch64-linux-gnu and qemu-user. Emulation proves results, never speed.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import torch

from engine.fused.program import FusedGenerator

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
BUILD = ROOT / "build" / "cmake-aarch64-linux-gnu"
LIBRARIES = "/usr/aarch64-linux-gnu"

CPUS = {"cortex-a53": ["scalar", "neon"], "cortex-a72": ["scalar", "neon"], "max": ["scalar", "neon", "neon_bf16"]}
"""Processors of the emulator and the tiers they have; those of a Raspberry Pi 3 and 4, and one that has everything."""

TIERS = {"scalar": "cortex-a72", "neon": "cortex-a53", "neon_bf16": "max"}
"""The processor that each tier is tested on: one that rejects the instructions of the tiers above it."""


def why_not() -> str | None:
    """Why the kernels can't be built and run here, or None."""
    missing = [program for program in (COMPILER, EMULATOR) if shutil.which(program) is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} not found: install g++-aarch64-linux-gnu and qemu-user"


@functools.cache
def built() -> Path:
    """Builds the program, in a folder that is kept for the next time; once per process."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    cmake, ninja = shutil.which("cmake", path=path), shutil.which("ninja", path=path)
    assert cmake is not None
    options = [
        "-DSTREAMGAN_KERNELS_ONLY=ON",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={COMPILER}",
        *(["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
    ]
    for command in ([cmake, "-S", str(ROOT), "-B", str(BUILD), *options], [cmake, "--build", str(BUILD)]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
    return BUILD / "run_cases"


def answers(cpu: str, commands: list[str], **environment: str) -> list[str]:
    """What the program says to each command (run_cases.cpp) on a processor of `CPUS`: "ok ..." or "error ..."."""
    done = subprocess.run(
        [EMULATOR, "-cpu", cpu, "-L", LIBRARIES, str(built())],
        input="\n".join(commands),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert len(found) == len(commands)
    return found


def run(cpu: str, commands: list[str]) -> None:
    """Runs commands, none of which may fail."""
    for command, answer in zip(commands, answers(cpu, commands), strict=True):
        assert answer.startswith("ok"), f"{command}: {answer}"


def write_values(values: torch.Tensor | np.ndarray, path: Path) -> Path:
    """Writes the values alone, in the order of the axes."""
    tensor = torch.as_tensor(values).contiguous()
    path.write_bytes(tensor.view(torch.uint8).numpy().tobytes())
    return path


def read_values(path: Path, dtype: torch.dtype) -> torch.Tensor:
    """All values in a file, on one axis."""
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=dtype)


class Case:
    """A fused generator in files, and how it is run.

    Args:
        folder: empty.
    """

    def __init__(self, fused: FusedGenerator, folder: Path) -> None:
        self.channels, self.scale = fused.out_channels, fused.scale
        self.folder = folder
        self.weights = write_values(fused.weights, folder / "weights")
        self.program = write_values(fused.program, folder / "program")

    def outputs(
        self, tier: str, image: torch.Tensor, *, threads: list[int], caches: list[tuple[int, int]]
    ) -> list[torch.Tensor]:
        """float32 [1, 3, H, W] to [1, channels, H * scale, W * scale], by size of caches and number of threads."""
        _, _, height, width = image.shape
        image_file = write_values(image[0].permute(1, 2, 0), self.folder / "image")
        commands, files = [f"isa {tier}"], []
        for level2, level3 in caches:
            commands.append(f"caches {level2} {level3}")
            for count in threads:
                files.append(self.folder / f"output{len(files)}")
                commands.append(
                    f"generator {self.weights} {self.program} {count} {height} {width} {image_file} {files[-1]}"
                )
        run(TIERS[tier], commands)
        shape = (1, height * self.scale, width * self.scale, self.channels)
        return [read_values(file, torch.float32).view(shape).permute(0, 3, 1, 2) for file in files]
