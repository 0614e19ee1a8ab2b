"""Files: their hash, and writing one under its name only when it is complete."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

PART = ".part"
"""Suffix of what is not complete yet."""


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def part_of(path: Path) -> Path:
    """The hidden name beside `path` under which this process writes that file."""
    return path.with_name(f".{path.name}.{os.getpid()}{PART}")


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` to write to. The file replaces `path` at the end; after an error it is removed."""
    part = part_of(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
