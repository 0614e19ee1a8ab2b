"""Engines of TensorRT with our plugin and without, as the benchmark has them beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.plugin import has_operators, without_operators
from engine.backends import get_backend
from engine.cache import EngineCache, default_folder
from engine.engine_files import HAS_OPERATORS


def test_engines_without_operators_are_not_those_of_the_cache() -> None:
    backend, folder = get_backend("tensorrt"), default_folder()
    assert backend.prefers_operators
    with without_operators():
        assert not backend.prefers_operators
        assert default_folder() not in (folder, *folder.parents)
        temporary = default_folder()
        assert temporary.is_dir()
    assert backend.prefers_operators
    assert default_folder() == folder
    assert not temporary.exists()


@pytest.mark.parametrize("facts", [{}, HAS_OPERATORS])
def test_it_is_told_whether_an_engine_has_them(facts: dict[str, str]) -> None:
    def write(path: Path) -> dict[str, str]:
        path.write_bytes(b"engine")
        return facts

    assert not has_operators("tensorrt")
    EngineCache().add({"backend": "tensorrt"}, {}, "engine.plan", write)
    assert has_operators("tensorrt") == bool(facts)
    assert not has_operators("aoti")
