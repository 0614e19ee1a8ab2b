"""One module per way of running a generator that is compared: this project's backends, and what a user would else take.

Each module has two functions, or three:

`unavailable(device, spec) -> str | None`: why it can't run here, in one line; None if it can.

`convert(generator, example, folder, spec)`: once, from a loaded generator to files in `folder`, as the tool's
documentation has it. Those that run the module itself have no `convert`. PER_PRECISION = True says that the files
differ from precision to precision.

`load(folder, example, spec) -> Session`: in a fresh process, makes ready to run from these files. `example` is the
input, float32 [1, 3, H, W]; the session keeps it in the type and layout that the tool likes best, so that no conversion
is timed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spec:
    """How a contender runs.

    Attributes:
        precision: fp32, bf16, fp16 or fast.
        threads: for the computation.
        device: "cpu" or "cuda".
        backend: which one, for this project's own.
    """

    precision: str
    threads: int
    device: str = "cpu"
    backend: str = ""


@dataclasses.dataclass(frozen=True)
class Session:
    """A generator ready to run on one input.

    Attributes:
        run: one frame, timed; on a GPU it returns when the frame is done.
        fetch: what `run` returned, as float32 [1, 3, H, W].
    """

    run: Callable[[], Any]
    fetch: Callable[[Any], np.ndarray]


WEIGHTS = "generator.safetensors"


def load_weights(folder: Path) -> Any:
    """The generator that `folder` was prepared with; for those that run the module itself."""
    from engine.checkpoint import load_generator

    return load_generator(folder / WEIGHTS)


def missing(module: str, package: str) -> str | None:
    """One line if the Python module `module` is not installed."""
    import importlib.util

    return None if importlib.util.find_spec(module) else f"not installed: pip install {package}"


def only_cpu(device: str) -> str | None:
    """One line if `device` is not the CPU."""
    return None if device == "cpu" else "compared on the CPU only"
