"""Torch-TensorRT's real wheel without TensorRT's libraries, on a stand-in for a GPU: another engine runs, in a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.wheels import unpacked

pytestmark = [pytest.mark.slow, pytest.mark.time_limit(600)]

ROOT = Path(__file__).parents[3]
PACKAGES = ("torch-tensorrt==2.14.*", "tensorrt-cu13-bindings==11.1.*")

SCRIPT = """
import logging, sys
import numpy as np
import torch
from engine.backends import BACKENDS
from engine.translator import Translator
from tests.engine.small_generators import small_generator

logging.basicConfig(level=logging.INFO, format="%(message)s")
print(BACKENDS["tensorrt"].version(torch.device("cuda")))
how = {"live": True} if sys.argv[1] == "auto" else {}
translator = Translator(small_generator("resnet"), backend=sys.argv[1], device="cuda", **how)
frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
assert translator(frame).shape == frame.shape
for preparation in translator._chooser()._preparing.values():
    preparation.join()
print(translator.engine.backend)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folders for PYTHONPATH with the wheels' packages, and a GPU that every process finds."""
    wheels = [unpacked(package, slow=True) for package in PACKAGES]
    folder = tmp_path_factory.mktemp("site")
    # Of TensorRT's own packages, which are not to be had without its libraries: the name, and the distribution's.
    (folder / "tensorrt.py").write_text("from tensorrt_bindings import __version__\n")
    facts = folder / "tensorrt_cu13-11.1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt-cu13\nVersion: 11.1.0\n")
    (folder / "sitecustomize.py").write_text(
        "from tests.engine.cuda_stand_in import cuda_on_the_host\ngpu = cuda_on_the_host()\ngpu.__enter__()\n"
    )
    return os.pathsep.join(map(str, [folder, *wheels]))


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_another_engine_runs(backend: str, site: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), site]),
        "STREAMGAN_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-c", SCRIPT, backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    version, chosen = done.stdout.splitlines()  # nothing of Torch-TensorRT's advice
    assert version.startswith("torch-tensorrt 2.14.")
    assert ", tensorrt-cu13 11.1.0, " in version
    assert chosen != "tensorrt"
    assert "Traceback" not in done.stderr
    reason = "torch_tensorrt is installed, but can't be loaded: libnv"
    lines = [line for line in done.stderr.splitlines() if line.startswith("tensorrt fp16 is not used: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"tensorrt fp16 is not used: {reason}")
