"""Files of tensors: read without running code, written whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from engine.checkpoint.reading import read_file
from engine.errors import EngineError, SinkError, first_line
from engine.files import written_beside

_Network = TypeVar("_Network")


def read_mapping(path: Path) -> dict[str, Any]:
    """Reads a PyTorch or safetensors file that holds a dictionary. Raises EngineError for any other file."""
    content = read_file(path).value
    if not isinstance(content, Mapping):
        raise EngineError(f"{path} holds no dictionary of tensors")
    return {str(name): value for name, value in content.items()}


def load_network(path: Path, build: Callable[[dict[str, Tensor]], _Network]) -> _Network:
    """Builds a network from the tensors in a file. Raises EngineError, with the file's name, where that fails."""
    content: Mapping[str, Any] = read_mapping(path)
    # Unwraps dictionaries such as {"state_dict": ...}.
    while len(content) == 1 and isinstance(inner := next(iter(content.values())), Mapping):
        content = inner
    try:
        return build({str(name): value for name, value in content.items() if isinstance(value, Tensor)})
    except EngineError as error:
        raise EngineError(f"{path}: {error}") from None


def save_whole(path: Path, state: Mapping[str, Any]) -> None:
    """Saves with `torch.save` as `write_whole` does."""
    write_whole(path, lambda partial: torch.save(dict(state), partial))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a name beside `path`, then renames. Raises SinkError, and keeps the old file, on failure."""
    try:
        with written_beside(path) as partial:
            write(partial)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its own writer.
        text = str(error)
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        is_full |= isinstance(error, RuntimeError) and ("PytorchStreamWriter" in text or "inline_cont" in text)
        reason = "the disk is full" if is_full else first_line(error)
        kept = "; what was there is untouched" if path.exists() else ""
        raise SinkError(f"can't write {path}: {reason}{kept}") from error
