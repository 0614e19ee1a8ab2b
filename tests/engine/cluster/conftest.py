"""A Ray cluster of two nodes with one core each, on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine import save_generator
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from tests.media import Audio, make_video

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="package")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of engines of all workers, so that all take the same algorithms."""
    return tmp_path_factory.mktemp("engines of workers")


@pytest.fixture(scope="package")
def cluster(cache: Path) -> Iterator[str]:
    """Its address."""
    pytest.importorskip("ray", reason="Ray is not installed: python -m pip install 'streamgan[cluster]'")
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ.update(STREAMGAN_CACHE=str(cache), RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=os.pathsep.join(paths))
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.add_node(**node)
    os.environ.clear()
    os.environ.update(before)
    yield str(made.address)
    made.shutdown()


@pytest.fixture
def shared_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes runs of a test use the workers' cache."""
    monkeypatch.setenv("STREAMGAN_CACHE", str(cache))
    return cache


@pytest.fixture(scope="package")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("style") / "tiny.safetensors"
    save_generator(build(ResNetConfig(width=16, blocks=3)), path, metadata={})
    return path


@pytest.fixture(scope="package")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of 25 frames with B-frames and shorter sound; but for the first one no frame is a key frame."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    options = {"g": "1000", "keyint_min": "1000", "bf": "3"}
    pts = [512 * i for i in range(200)]
    return make_video(path, pts=pts, size=(128, 80), audio=(Audio(seconds=7.5),), options=options)
