"""Engines of the backend tensorrt with our operators inside, as its plugin, and without."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from unittest import mock

from engine.backends import get_backend
from engine.cache import EngineCache

WITHOUT_PLUGIN = "tensorrt-without-plugin"
"""How the benchmark calls the backend tensorrt with engines that have no plugin."""


@contextlib.contextmanager
def without_operators() -> Iterator[None]:
    """Engines are built without our operators inside, and not kept."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="streamgan-"))
        stack.enter_context(mock.patch.dict(os.environ, {"STREAMGAN_CACHE": folder}))
        stack.enter_context(mock.patch.object(get_backend("tensorrt"), "prefers_operators", False))
        yield


def has_operators(backend: str) -> bool:
    """Whether the engine of the cache that was used last has our operators inside."""
    entries = [entry for entry in EngineCache().entries() if entry.of.get("backend") == backend]
    return "operators" in max(entries, key=lambda entry: entry.used).facts if entries else False
