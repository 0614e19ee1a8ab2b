"""Files of tensors: read without running code, written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from engine.checkpoint.reading import read_file
from engine.errors import EngineError, SinkError


def read_mapping(path: Path) -> dict[str, Any]:
    """A PyTorch or safetensors file that holds a dictionary.

    Raises:
        EngineError: missing, damaged, unsafe, or holding something else.
    """
    content = read_file(path).value
    if not isinstance(content, Mapping):
        raise EngineError(f"{path} holds no dictionary of tensors")
    return {str(name): value for name, value in content.items()}


def save_whole(path: Path, state: Mapping[str, Any]) -> None:
    """`torch.save`, such that `path` is either what it was or complete.

    Raises:
        SinkError: the disk is full, or the folder can't be written.
    """
    write_whole(path, lambda partial: torch.save(dict(state), partial))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` write a file beside `path`, then gives it that name.

    Raises:
        SinkError: it could not be written; the file that was there is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        # torch.save reports a full disk as a RuntimeError of its own writer.
        text = str(error)
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        is_full |= isinstance(error, RuntimeError) and any(
            said in text for said in ("PytorchStreamWriter", "inline_cont")
        )
        reason = "the disk is full" if is_full else str(error).strip().splitlines()[0]
        kept = "; what was there is untouched" if path.exists() else ""
        raise SinkError(f"can't write {path}: {reason}{kept}") from error
