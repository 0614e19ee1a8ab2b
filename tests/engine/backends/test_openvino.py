"""OpenVINO: parity on real pictures in float32 and bfloat16, and one clear line for every file it can't run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.device import has_bf16_arithmetic, has_fp16_arithmetic
from engine.errors import BackendError
from tests.engine.small_generators import CONFIGS, SIZES, parity_db, picture, small_generator
from tests.tolerances import PARITY_PSNR_DB

pytest.importorskip("onnx", reason="onnx is not installed")
openvino = pytest.importorskip("openvino", reason="openvino is not installed")

from engine.backends import BACKENDS  # noqa: E402

CPU = torch.device("cpu")
backend = BACKENDS["openvino"]
EXAMPLE = torch.zeros(1, 3, *SIZES[0])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino")
    backend.build(small_generator("resnet"), EXAMPLE, "fp32", folder / f"generator{backend.suffix}")
    return folder


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    """A file for inputs like EXAMPLE."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path / "generator.xml"


@pytest.mark.parametrize("name", CONFIGS)
def test_one_file_serves_every_size(name: str, tmp_path: Path) -> None:
    generator, path = small_generator(name), tmp_path / "generator.xml"
    facts = backend.build(small_generator(name), EXAMPLE, "fp32", path, dynamic=True)
    assert facts["nodes"]["Conv"] > 0
    run = backend.load(path, EXAMPLE, "fp32")
    for size in SIZES:
        image = picture(generator, *size)
        assert parity_db(generator, image, run(image)) >= PARITY_PSNR_DB["fp32"]


def test_bfloat16_where_the_processor_has_it(path: Path) -> None:
    generator = small_generator("resnet")
    image = picture(generator, *SIZES[0])
    if not has_bf16_arithmetic():
        with pytest.raises(BackendError, match=r"instead of bf16 on this CPU"):
            backend.load(path, image.bfloat16(), "bf16")
        return
    run = backend.load(path, image.bfloat16(), "bf16")
    assert run.input_dtype == torch.float32
    output = run(image)
    assert parity_db(generator, image, output) >= PARITY_PSNR_DB["bf16"]
    assert not torch.equal(output, backend.load(path, image, "fp32")(image))


def test_float16_where_the_processor_lacks_it(path: Path) -> None:
    if has_fp16_arithmetic():
        pytest.skip("this processor has float16")
    with pytest.raises(BackendError, match=r"instead of f16 on this CPU"):
        backend.load(path, EXAMPLE.half(), "fp16")


def test_any_layout_comes_in_and_results_are_kept(path: Path) -> None:
    generator = small_generator("resnet")
    image = picture(generator, *SIZES[0])
    run = backend.load(path, EXAMPLE, "fp32")
    first = run(image)
    kept = first.clone()
    assert torch.equal(run(image.contiguous()), kept)
    run(-image)
    assert torch.equal(first, kept)


HANDLES_A_SIGNAL = """
import signal, sys, threading
from pathlib import Path
import torch
from engine.backends import BACKENDS
held = [BACKENDS["openvino"].load(Path(sys.argv[1]), torch.zeros(1, 3, 64, 96), "fp32")]
held[0](torch.zeros(1, 3, 64, 96))
dropping = threading.Thread(target=held.clear)
dropping.start()
dropping.join()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_signals_are_handled_after_another_thread_has_dropped_it(path: Path) -> None:
    command = [sys.executable, "-c", HANDLES_A_SIGNAL, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_the_file_says_what_writes_and_reads_it() -> None:
    assert backend.version(CPU) == f"openvino {importlib.metadata.version('openvino')}"
    assert backend.unavailable(CPU) is None
    assert backend.unbuildable(CPU) is None
    assert backend.unavailable(torch.device("cuda")) == "runs on the CPU only"


@pytest.mark.parametrize("module", ["openvino", "onnx"])
def test_a_missing_package_names_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
    expected = f"{module} not installed: pip install 'streamgan[openvino]'"
    assert backend.unbuildable(CPU) == expected
    assert backend.unavailable(CPU) == (expected if module == "openvino" else None)


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_an_error(kept: float, suffix: str, path: Path) -> None:
    part = path.with_suffix(suffix)
    data = part.read_bytes()
    part.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(BackendError, match=rf"^OpenVINO can't load {path.name}: [^\n]+$"):
        backend.load(path, EXAMPLE, "fp32")


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_missing_file_is_an_error(suffix: str, path: Path) -> None:
    path.with_suffix(suffix).unlink()
    with pytest.raises(BackendError, match=rf"^OpenVINO can't load {path.name}: [^\n]+$"):
        backend.load(path, EXAMPLE, "fp32")


def test_it_writes_two_files(path: Path) -> None:
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["generator.bin", "generator.xml"]


@pytest.mark.parametrize("text", ["PK\x03\x04 a zip file", "<html></html>"])
def test_a_foreign_file_is_an_error(text: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(BackendError, match=rf"^OpenVINO can't load {path.name}: [^\n]+$"):
        backend.load(path, EXAMPLE, "fp32")


def test_an_empty_network_is_an_error(path: Path) -> None:
    path.write_text('<net version="11"></net>')
    with pytest.raises(BackendError, match="no generator"):
        backend.load(path, EXAMPLE, "fp32")


def test_a_file_of_another_version_is_an_error(path: Path) -> None:
    text = path.read_text()
    assert 'version="11"' in text
    path.write_text(text.replace('version="11"', 'version="99"', 1))
    with pytest.raises(BackendError, match=rf"^OpenVINO can't load {path.name}: [^\n]+$"):
        backend.load(path, EXAMPLE, "fp32")


def test_an_operator_that_it_lacks_is_an_error(path: Path) -> None:
    text = path.read_text()
    assert 'type="ReLU"' in text
    path.write_text(text.replace('type="ReLU"', 'type="Shimmer"', 1))
    with pytest.raises(BackendError, match=r"can't load .*Shimmer"):
        backend.load(path, EXAMPLE, "fp32")


@pytest.mark.parametrize("shape", [(1, 3, 96, 64), (2, 3, 64, 96), (1, 4, 64, 96)])
def test_a_file_for_another_shape_is_an_error(shape: tuple[int, ...], path: Path) -> None:
    with pytest.raises(BackendError, match=r"takes inputs of \[1, 3, 64, 96\].*: build it again"):
        backend.load(path, torch.zeros(shape), "fp32")
