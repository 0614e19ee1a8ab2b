"""Files for elsewhere: written whole, described, proven, and run without this package."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import engine_files
from engine.backends import BACKENDS
from engine.backends.base import CompiledGenerator
from engine.checkpoint import load_generator, save_generator
from engine.errors import EngineError
from engine.export import export, main, real_image
from engine.files import sha256
from engine.generators import Generator, ResNetConfig, SRVGGConfig, UNetConfig, build
from engine.ops import LIBRARY
from engine.parity import PARITY_DB
from engine.precision import fastest_precision
from tests.engine.small_generators import unfused_generator

pytestmark = pytest.mark.time_limit(900)

HALF = fastest_precision(torch.device("cpu"))


@pytest.fixture(scope="module")
def resnet() -> Generator:
    torch.manual_seed(0)
    return build(ResNetConfig(width=8, blocks=1)).eval().requires_grad_(False)


@pytest.fixture
def checkpoint(resnet: Generator, tmp_path: Path) -> Path:
    save_generator(resnet, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_the_command_writes_a_file_and_what_it_is(
    checkpoint: Path, resnet: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.pt"
    assert main([str(checkpoint), "--format", "torchscript", "--size", "50x30", "-o", str(target)]) == 0
    written = capsys.readouterr()
    assert written.out.strip() == str(target)
    assert "dB of eager float32 on a real frame" in written.err
    told = json.loads((tmp_path / "out.pt.json").read_text())
    assert told["of"]["generator"] == engine_files.generator_hash(resnet)
    assert told["of"]["size"] == "52x32"  # a multiple of 4
    assert told["of"]["precision"] == HALF
    assert told["made_by"]["torch"] == torch.__version__
    assert told["files"] == {"out.pt": sha256(target)}
    assert told["parity_db"] >= PARITY_DB[HALF]
    assert told["input"]["shape"] == [1, 3, 32, 52]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pt", "out.pt.json", "style.safetensors"]


@pytest.mark.parametrize(
    "generator",
    [
        build(ResNetConfig(width=8, blocks=1, upsampling="nearest")),
        build(UNetConfig(width=4, downsamplings=5)),
        build(SRVGGConfig(width=8, convolutions=1, scale=2)),
    ],
    ids=lambda generator: type(generator).__name__,
)
def test_one_file_for_every_size(generator: Generator, tmp_path: Path) -> None:
    done = export(generator.eval(), "torchscript", tmp_path / "e.pt", size=(64, 64), precision="fp32", dynamic=True)
    assert done.parity_db is not None
    assert done.parity_db >= PARITY_DB["fp32"]
    assert engine_files.read_exported(tmp_path / "e.pt").of["size"] == "any"
    module = torch.jit.load(str(tmp_path / "e.pt"))
    image = torch.randn(2, 3, 96, 160)
    torch.testing.assert_close(module(image), generator(image), atol=1e-4, rtol=1e-4)


_ELSEWHERE = """
import sys, torch
if sys.argv[2]:
    torch.ops.load_library(sys.argv[2])
kind, path = sys.argv[1], sys.argv[3]
image, expected = torch.load(sys.argv[4])
run = torch.jit.load(path) if kind == "torchscript" else torch._inductor.aoti_load_package(path)
with torch.no_grad():
    output = run(image)
print(float((output.float() - expected).abs().max()))
assert "engine" not in sys.modules
"""


@pytest.mark.parametrize("operators", [False, True], ids=["plain", "operators"])
@pytest.mark.parametrize("kind", ["torchscript", "aoti"])
def test_files_run_in_a_process_that_has_only_torch(
    kind: str, operators: bool, resnet: Generator, tmp_path: Path
) -> None:
    if kind == "aoti" and (reason := BACKENDS["aoti"].unbuildable(torch.device("cpu"))):
        pytest.skip(reason)
    path = tmp_path / f"e{'.pt' if kind == 'torchscript' else '.pt2'}"
    done = export(resnet, kind, path, size=(48, 32), precision="fp32", operators=operators, dynamic=kind == "aoti")
    assert done.parity_db is not None
    assert done.parity_db >= PARITY_DB["fp32"]
    if kind == "aoti":
        assert done.facts["smallest_side"] <= 32
        assert done.facts["largest_side"] == 8192
    image = real_image(resnet, (64, 40)).contiguous(memory_format=torch.channels_last)
    torch.save((image, resnet(image)), tmp_path / "data.pth")
    library = str(LIBRARY) if operators else ""
    command = [sys.executable, "-c", _ELSEWHERE, kind, library, str(path), str(tmp_path / "data.pth")]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < 1e-3


def test_plain_weights(checkpoint: Path, resnet: Generator, tmp_path: Path) -> None:
    assert main([str(checkpoint), "--format", "safetensors", "-o", str(tmp_path / "again.safetensors")]) == 0
    loaded = load_generator(tmp_path / "again.safetensors")
    assert engine_files.generator_hash(loaded) == engine_files.generator_hash(resnet)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "torchscript", "--size", "48x32", "--precision", "fp8"], "unknown precision 'fp8'"),
        (["--format", "torchscript", "--size", "48x32", "-o", "no/such/folder/e.pt"], "no such folder"),
        (["--format", "torchscript", "--size", "48x32", "--device", "cuda:77"], "is not there"),
        (["--format", "safetensors", "-o", "style.safetensors"], "exists: -y replaces it"),
        (["--format", "openvino", "--size", "48x32", "-o", "e.bin"], "e.bin: OpenVINO reads no file of that name"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    assert message in error_of([str(checkpoint), *arguments], capsys)


@pytest.mark.parametrize("arguments", [["--format", "gif"], ["--format", "onnx"], ["--format", "onnx", "--size", "6"]])
def test_usage(arguments: list[str], checkpoint: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(checkpoint), *arguments])
    assert ended.value.code == 2


def test_a_missing_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no-such.pth" in error_of(["no-such.pth", "--format", "torchscript", "--size", "48x32"], capsys)


@pytest.mark.parametrize("trouble", ["full disk", "wrong result", "does not load", "does not run"])
def test_what_is_not_proven_is_not_kept(
    trouble: str, resnet: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "full disk":

        def fill(generator: Generator, example: torch.Tensor, precision: str, path: Path, **options: object) -> None:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(BACKENDS["torchscript"], "build", fill)
    elif trouble == "wrong result":

        def load(path: Path, example: torch.Tensor, precision: str) -> CompiledGenerator:
            return lambda image: torch.zeros_like(image)

        monkeypatch.setattr(BACKENDS["torchscript"], "load", load)
    elif trouble == "does not run":

        def load_broken(path: Path, example: torch.Tensor, precision: str) -> CompiledGenerator:
            def run(image: torch.Tensor) -> torch.Tensor:
                raise RuntimeError("an operator is missing\nand more")

            return run

        monkeypatch.setattr(BACKENDS["torchscript"], "load", load_broken)
    else:

        def truncate(
            generator: Generator, example: torch.Tensor, precision: str, path: Path, **options: object
        ) -> dict:  # type: ignore[type-arg]
            path.write_bytes(b"no archive")
            return {}

        monkeypatch.setattr(BACKENDS["torchscript"], "build", truncate)
    (tmp_path / "e.pt").write_bytes(b"what was there before")
    with pytest.raises(
        EngineError,
        match=r"No space left|less than the 60 dB|can't be run by|does not run here: an operator is missing$",
    ):
        export(resnet, "torchscript", tmp_path / "e.pt", size=(48, 32), precision="fp32", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["e.pt"]
    assert (tmp_path / "e.pt").read_bytes() == b"what was there before"


def test_operators_go_where_they_run(resnet: Generator, tmp_path: Path) -> None:
    unknown = unfused_generator()
    with pytest.raises(EngineError, match="does not know Conv2d"):
        export(unknown, "torchscript", tmp_path / "e.pt", size=(48, 32), operators=True)
    assert list(tmp_path.iterdir()) == []


def test_the_frame_is_a_real_one(resnet: Generator) -> None:
    image = real_image(resnet, (48, 32))
    assert image.shape == (1, 3, 32, 48)
    assert -1 <= float(image.min()) < 0 < float(image.max()) <= 1
    assert float(image.std()) > 0.1
    assert not math.isnan(float(image.sum()))
    assert np.asarray(image).dtype == np.float32
