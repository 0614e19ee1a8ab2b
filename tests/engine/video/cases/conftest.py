"""The inputs, each made once per run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.video.cases.media import FFMPEG, MAKERS


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives an input of `MAKERS` by its name."""
    if FFMPEG is None:
        pytest.skip("the ffmpeg program is not there: apt-get install ffmpeg")
    folder = tmp_path_factory.mktemp("cases")

    def make(name: str) -> Path:
        path = folder / name
        return path if path.exists() else MAKERS[name](path)

    return make


@pytest.fixture(scope="session")
def identity_style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that changes nothing."""
    from tests.engine.small_generators import save_identity

    return save_identity(tmp_path_factory.mktemp("style") / "identity.safetensors")
