"""What all tests share."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of engines of each test's own, not the user's."""
    folder = tmp_path_factory.mktemp("engines")
    monkeypatch.setenv("STREAMGAN_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def notes_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the command line of an earlier test has made of them; and not what torch's compilers trace."""
    logging.getLogger("streamgan").handlers = []
    caplog.set_level(logging.WARNING, "streamgan")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips CUDA tests where there is no device, unless one is required."""
    if torch.cuda.is_available() or os.environ.get("STREAMGAN_REQUIRE_CUDA") == "1":
        return
    for item in items:
        if item.get_closest_marker("needs_cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
