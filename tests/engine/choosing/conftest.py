"""What the tests of choosing share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.generators import Generator, ResNetConfig, build
from tests.engine.choosing.runs import saved
from tests.engine.small_generators import unfused_generator


@pytest.fixture(scope="module")
def resnet() -> Generator:
    torch.manual_seed(0)
    return build(ResNetConfig(width=8, blocks=1)).eval()


@pytest.fixture(scope="module")
def unfused() -> Generator:
    """With a layer that no fused engine of ours knows."""
    return unfused_generator()


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    return saved(tmp_path / "tiny.safetensors", seed=0)
