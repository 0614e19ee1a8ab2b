"""What a backend is: one way to run a generator, and what everybody else needs to know about it."""

from __future__ import annotations

import abc
import contextlib
import importlib
import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor, nn

from engine.device import installed_versions
from engine.errors import BackendError, first_line
from engine.generators import Generator
from engine.precision import PRECISIONS

if TYPE_CHECKING:
    from typing_extensions import Unpack

CompiledGenerator = Callable[[Tensor], Tensor]
"""Takes and returns a tensor [N, 3, H, W]. Where it has an attribute `input_dtype`, its input is of that dtype."""


@runtime_checkable
class Capturable(Protocol):
    """A compiled generator whose work can be captured in a CUDA graph, by `engine.runners.cuda_graph` alone.

    Attributes:
        ends_in_tanh: whether what a slot returns lacks the final tanh, which is left to whoever quantises.
    """

    ends_in_tanh: bool

    def __call__(self, image: Tensor) -> Tensor: ...

    def new_slot(self) -> Callable[[Tensor], Tensor]:
        """The generator for one of several frames under way: slots share the weights, and no other memory."""

    def first_non_finite(self, image: Tensor) -> str | None:
        """The first layer whose output holds a NaN or an infinity, if it can be told."""


ParityMeasure = Callable[[CompiledGenerator], float]
"""The PSNR in dB of a compiled generator against eager float32 on a real frame."""

INPUT = "input"
OUTPUT = "output"
"""Names of the input and the output in every model."""


class Backend(abc.ABC):
    """One way to run a generator; subclasses are of one of two kinds, `InMemoryBackend` and `FileBackend`.

    Packages are imported inside the methods, so that a missing one costs nothing.

    Attributes:
        name: as users write it.
        extra: pip extra that installs it.
        modules: Python modules without which it can't run.
        distributions: pip names of the packages whose versions its engines and their speed depend on.
        devices: torch device types from which it takes frames.
        precisions: those that it accepts; the fastest first where it computes elsewhere.
        computes_elsewhere: it runs on a device that torch does not know, in precisions of its own.
        build_cost: how long an engine takes to be ready.
        only_when_named: `auto` does not try it.
        runs_without_torch: later runs start without importing torch.
        is_captured: it runs in CUDA graphs of ours, and so takes frames that are on the device.
        has_fast: `fast` is another arithmetic than half precision.
        is_file: whether it is a `FileBackend`.
    """

    name: str
    extra: str = ""
    modules: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ("torch",)
    devices: tuple[str, ...] = ("cpu", "cuda")
    precisions: tuple[str, ...] = PRECISIONS
    computes_elsewhere: bool = False
    build_cost: Literal["none", "seconds", "minutes"]
    only_when_named: bool = False
    runs_without_torch: bool = False
    is_captured: bool = False
    has_fast: bool = False
    is_file: bool = False

    def unavailable(self, device: torch.device) -> str | None:
        """Why it can't run on `device`, in one line; None if it can."""
        if absent := missing(self.extra, *self.modules):
            return absent
        if device.type in self.devices:
            return None
        return "runs on the CPU only" if "cpu" in self.devices else "needs a CUDA device"


class InMemoryBackend(Backend):
    """A backend that makes its engines ready in each process."""

    @abc.abstractmethod
    def compile(
        self, generator: Generator, example: Tensor, precision: str, parity_db: ParityMeasure
    ) -> CompiledGenerator:
        """Makes `generator` ready to run.

        Args:
            generator: eval mode, float32, on the device of `example`; it may be changed.
            example: input [N, C, H, W] in channels_last order and the dtype to run in; others have its shape.
            precision: what was asked for, one of `engine.precision.PRECISIONS`.
            parity_db: measures the parity of a candidate.

        Raises:
            BackendError: the generator or the precision can't be run.
        """


class BuildOptions(TypedDict, total=False):
    """Options of `FileBackend.build`; a backend ignores those that do not apply to it.

    dynamic: for every frame size, or a range of them, instead of the example's.
    operators: with this project's operators inside, on the devices in `takes_operators`.
    targets: architectures of GPUs to build for, such as "sm89"; none: the GPU of this machine.
    """

    dynamic: bool
    operators: bool
    targets: Sequence[str]


class FileBackend(Backend):
    """A backend whose engines are files, kept in the engine cache or exported.

    Attributes:
        suffix: of the file.
        build_modules: Python modules without which it can run, but not build.
        export_format: as `engine.export --format` has it; empty: its files are not exported.
        export_precision: the default of an export; empty: the fastest of the device.
        same_runtime: a file runs only where `version` is what it was when the file was built.
        takes_operators: device types for which files can hold this project's operators.
        prefers_operators: with them it is faster, so that the cache keeps such files where they can be built.
    """

    is_file = True
    suffix: str
    build_modules: tuple[str, ...] = ()
    export_format: str = ""
    export_precision: str = ""
    same_runtime: bool = False
    takes_operators: tuple[str, ...] = ()
    prefers_operators: bool = False

    def unbuildable(self, device: torch.device) -> str | None:
        """Why no file can be built for `device` here, in one line; None if it can."""
        return self.unavailable(device) or missing(self.extra, *self.build_modules)

    def operators_unavailable(self) -> str | None:
        """Why files that hold this project's operators can't run here, in one line; None if they can."""
        return None

    def version(self, device: torch.device) -> str:
        """The versions that a file is built by and for."""
        return installed_versions(*self.distributions)

    @abc.abstractmethod
    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        """Builds an engine, and writes it to `path` and files beside it.

        Args:
            generator: eval mode, float32, on the device of `example`; it may be changed.
            example: input [N, 3, H, W] in channels_last order and the dtype of `precision`.
            precision: one of `engine.precision.PRECISIONS`.

        Returns:
            Facts about the file, as JSON values: {"smallest_side": 64}.

        Raises:
            BackendError: it can't be built.
            OSError: it can't be written.
        """

    @abc.abstractmethod
    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        """Loads what `build` wrote, to run on inputs like `example`.

        Raises:
            BackendError: the file is damaged, is for another shape, precision, device or version, or does not run here.
        """


def in_channels_last(generator: Generator, dtype: torch.dtype) -> Generator:
    """`generator` in `dtype`, its weights in the memory order in which torch's convolutions are the fastest."""
    return generator.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def module_to_save(generator: Generator, example: Tensor, precision: str, options: BuildOptions) -> nn.Module:
    """`generator` in the dtype of `example`; as one of this project's operators, if `options` ask for that."""
    if not options.get("operators"):
        return in_channels_last(generator, example.dtype)
    from engine.fused.lowering import fuse

    return fuse(generator, precision)


def missing(extra: str, *modules: str) -> str | None:
    """One line that names the extra to install, if one of the Python modules is not there. Imports none of them."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{' and '.join(absent)} not installed: pip install 'streamgan[{extra}]'" if absent else None


def load_module(name: str) -> Any:
    """Imports an optional package, without what it prints.

    Raises:
        BackendError: it is installed, but does not load: a library is missing, or is of another version.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(name)
    except Exception as error:  # ImportError, OSError, and plain Exception of Torch-TensorRT
        first: BaseException = error
        while first.__context__ is not None:  # the later ones tell where else it was looked for
            first = first.__context__
        raise BackendError(f"{name} is installed, but can't be loaded: {first_line(first)}") from error


def sides_of_any_size(
    generator: Generator, example: Tensor, smallest: int, highest: int, widest: int
) -> tuple[dict[int, Any], ...]:
    """`dynamic_shapes` of torch.export for inputs [N, 3, H, W] of any size, in multiples of the generator's.

    Args:
        example: what is traced.
        smallest, highest, widest: the least side, and the largest height and width, in pixels.

    Raises:
        BackendError: the example is smaller than what can be exported.
    """
    multiple = generator.multiple
    low = max(-(-smallest // multiple), 2)  # torch.export takes 1 for a constant
    height, width = (
        multiple * torch.export.Dim(name, min=low, max=highest_side // multiple)
        for name, highest_side in (("h", highest), ("w", widest))
    )
    if min(example.shape[2:]) < low * multiple:
        raise BackendError(
            f"an engine for every size takes sides from {low * multiple} pixels on here: give a larger size"
        )
    return ({2: height, 3: width},)


def fits(shape: Sequence[int | str], example: Sequence[int]) -> bool:
    """Whether a model's input, in which a name stands for any size, takes inputs of the shape `example`."""
    return len(shape) == len(example) and all(
        isinstance(side, str) or side == given for side, given in zip(shape, example, strict=True)
    )
