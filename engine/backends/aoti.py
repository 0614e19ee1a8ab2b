"""AOTInductor: exported and compiled ahead of time into a package that later processes load without compiling."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.backends import inductor
from engine.backends.interface import CompiledGenerator, first_line
from engine.errors import BackendError
from engine.generators import Generator
from engine.memory import is_out_of_memory
from engine.precision import processor_abilities

SUFFIX = ".pt2"
SAME_RUNTIME = True

LARGEST_SIDE = 8192
"""Of inputs of packages for free sizes, in pixels."""

unbuildable = inductor.unavailable


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on `device`, in one line; None if it can."""
    return None


def version(device: torch.device) -> str:
    """What writes the file and has to read it."""
    return f"torch {torch.__version__}"


def build(
    generator: Generator,
    example: Tensor,
    precision: str,
    path: Path,
    *,
    dynamic: bool = False,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Compiles `generator` for the device, dtype and (unless `dynamic`) the size of `example`, in up to some minutes.

    Raises:
        BackendError: it can't be exported or compiled.
    """
    module = generator.to(dtype=example.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    multiple, least = generator.multiple, max(generator.minimum_size, 2 * generator.multiple)
    return save_package(module, example, path, multiple=multiple if dynamic else 0, least=least)


def save_package(
    module: nn.Module, example: Tensor, path: Path, *, multiple: int = 0, least: int = 2
) -> dict[str, Any]:
    """Exports and compiles `module` into a package at `path`.

    Args:
        multiple: 0: for the size of `example` alone; else for heights and widths that are multiples of this.
        least: the smallest height and width, if they are free.

    Returns:
        What a package itself does not check: the instruction sets that its code uses, and, if sizes are free, the
        smallest and the largest side.

    Raises:
        BackendError: it can't be exported or compiled.
        OSError: it can't be written.
    """
    shapes: Any = None
    facts: dict[str, Any] = {"processor": processor_abilities()} if example.device.type == "cpu" else {}
    if multiple:
        low, high = -(-least // multiple), LARGEST_SIDE // multiple
        sides = [torch.export.Dim(name, min=low, max=high) for name in ("h", "w")]
        shapes = ({2: multiple * sides[0], 3: multiple * sides[1]},)
        facts |= {"smallest_side": low * multiple, "largest_side": high * multiple}
    options = {
        "freezing": example.device.type == "cpu",  # packs the weights for the processor's matrix library
        "max_autotune": example.device.type == "cuda",
        "cpp.dynamic_threads": True,  # as many threads as the process that runs it has, not the one that builds it
    }
    try:
        with torch.no_grad():
            program = torch.export.export(module, (example,), dynamic_shapes=shapes)
            # Not to the file itself: torch's writer ends the process when the disk is full.
            package = io.BytesIO()
            torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=options)
    except Exception as error:  # whatever the compilers below it raise, from many trees of exceptions
        raise BackendError(f"AOTInductor can't compile this generator: {first_line(error)}") from error
    path.write_bytes(package.getbuffer())
    return facts


def load(path: Path, example: Tensor, precision: str) -> CompiledGenerator:
    """Loads a package.

    Raises:
        BackendError: the file is damaged, of another version of torch, or does not run here.
    """
    index = -1 if example.device.type == "cpu" else example.device.index or 0
    try:
        # What torch._inductor.aoti_load_package does, less the second that importing the compiler takes.
        package = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, index)
    except RuntimeError as error:
        raise BackendError(f"{path} can't be run by AOTInductor of this torch: {first_line(error)}") from error

    def run(image: Tensor) -> Tensor:
        try:
            output: Tensor = package.run([image])[0]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise BackendError(f"{path} can't be run by AOTInductor of this torch: {first_line(error)}") from error
        return output

    return run
