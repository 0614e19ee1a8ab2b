"""What all tests share."""

from __future__ import annotations

import os

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips CUDA tests where there is no device, unless one is required."""
    if torch.cuda.is_available() or os.environ.get("STREAMGAN_REQUIRE_CUDA") == "1":
        return
    for item in items:
        if item.get_closest_marker("needs_cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
