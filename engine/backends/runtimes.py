"""What the backends of other runtimes have in common: ONNX Runtime, OpenVINO and both TensorRTs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

INPUT = "input"
OUTPUT = "output"
"""What every model calls its input and its output."""


def missing(extra: str, *modules: str) -> str | None:
    """One line that names the extra to install, if one of the Python modules is not there. Imports none of them."""
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{' and '.join(absent)} not installed: pip install 'streamgan[{extra}]'" if absent else None


def last_line(error: BaseException) -> str:
    """What an exception of these runtimes says, in one line: the first ones tell where in their sources it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def fits(shape: Sequence[int | str], example: Sequence[int]) -> bool:
    """Whether a model's input, in which a name stands for any size, takes inputs of the shape `example`."""
    return len(shape) == len(example) and all(
        isinstance(side, str) or side == given for side, given in zip(shape, example, strict=True)
    )
