"""AOTInductor: exported and compiled ahead of time into a package that later processes load without compiling."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.backends.base import BuildOptions, CompiledGenerator, FileBackend, module_to_save, sides_of_any_size
from engine.backends.inductor import compiler_missing
from engine.device import processor_abilities
from engine.errors import BackendError, first_line
from engine.generators import Generator
from engine.memory import is_out_of_memory

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LARGEST_SIDE = 8192  # of inputs of packages for every size, in pixels


class AOTInductor(FileBackend):
    """Packages hold machine code. `build` returns what they do not check: instruction sets, and the range of sides."""

    name = "aoti"
    build_cost = "minutes"
    runs_without_torch = True
    suffix = ".pt2"
    export_format = "aoti"
    same_runtime = True
    takes_operators = ("cpu",)

    def unbuildable(self, device: torch.device) -> str | None:
        return compiler_missing(device)

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        on_cpu = example.device.type == "cpu"
        facts: dict[str, Any] = {"processor": processor_abilities()} if on_cpu else {}
        shapes: Any = None
        if options.get("dynamic"):
            shapes = sides_of_any_size(generator, example, generator.minimum_size, _LARGEST_SIDE, _LARGEST_SIDE)
            facts |= {"smallest_side": shapes[0][2].min, "largest_side": shapes[0][2].max}
        settings = {
            "freezing": on_cpu,  # packs the weights for the processor's matrix library
            "max_autotune": not on_cpu,
            "cpp.dynamic_threads": True,  # as many threads as the process that runs it has, not the one that builds it
        }
        module = module_to_save(generator, example, precision, options)
        try:
            with torch.no_grad():
                program = torch.export.export(module, (example,), dynamic_shapes=shapes)
                # Not to the file itself: torch's writer ends the process when the disk is full.
                package = io.BytesIO()
                torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=settings)
        except Exception as error:  # whatever the compilers below it raise, from many trees of exceptions
            raise BackendError(f"AOTInductor can't compile this generator: {first_line(error)}") from error
        path.write_bytes(package.getbuffer())
        return facts

    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        index = -1 if example.device.type == "cpu" else example.device.index or 0
        try:
            # What torch._inductor.aoti_load_package does, without the second that importing the compiler takes.
            package = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, index)
        except RuntimeError as error:
            raise _refused(path, error) from error

        def run(image: Tensor) -> Tensor:
            try:
                output: Tensor = package.run([image])[0]
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                raise _refused(path, error) from error
            return output

        return run


def _refused(path: Path, error: RuntimeError) -> BackendError:
    return BackendError(f"{path} can't be run by AOTInductor of this torch: {first_line(error)}")
