"""What object files leave to the linker."""

from __future__ import annotations

import subprocess
from pathlib import Path


def defined_symbols(object_file: Path, *, nm: str = "nm") -> list[str]:
    """Names that an object file defines for others, weak ones included, but for the compiler's own."""
    done = subprocess.run(
        [nm, "--demangle", "--defined-only", "--extern-only", "--format=posix", str(object_file)],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.rsplit(" ", 3)[0].strip() for line in done.stdout.splitlines()]
    return [name for name in names if not name.startswith("DW.ref.")]


def check_tiers(build: Path, *, nm: str = "nm") -> None:
    """Fails if a tier's object file in `build` defines more than its table of kernels.

    The linker keeps one copy of an inline function that several files define, perhaps the one of a tier that the
    processor lacks.
    """
    object_files = sorted((build / "CMakeFiles/streamgan_cpu.dir/csrc/cpu/tiers").glob("*.o"))
    assert len(object_files) >= 3, build
    for file in object_files:
        name = file.name.removesuffix(".cpp.o").title().replace("_", "")
        assert defined_symbols(file, nm=nm) == [f"streamgan::k{name}Kernels"], file.name
