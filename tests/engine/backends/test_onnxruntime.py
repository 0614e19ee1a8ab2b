"""ONNX Runtime: parity on real pictures, and one clear line for every file it can't run."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import BackendError
from tests.engine.cuda_stand_in import cuda_on_the_host
from tests.engine.small_generators import CONFIGS, SIZES, parity_db, picture, small_generator
from tests.tolerances import PARITY_PSNR_DB

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from engine.backends import BACKENDS  # noqa: E402
from engine.backends import onnxruntime as module  # noqa: E402

CPU = torch.device("cpu")
backend = BACKENDS["onnxruntime"]
EXAMPLE = torch.zeros(1, 3, *SIZES[0])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnxruntime") / f"generator{backend.suffix}"
    backend.build(small_generator("resnet"), EXAMPLE, "fp32", path)
    return path


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    """A file for inputs like EXAMPLE."""
    return Path(shutil.copy(built, tmp_path))


@pytest.mark.parametrize("name", CONFIGS)
def test_one_file_serves_every_size(name: str, tmp_path: Path) -> None:
    generator, path = small_generator(name), tmp_path / "generator.onnx"
    facts = backend.build(small_generator(name), EXAMPLE, "fp32", path, dynamic=True)
    assert facts["nodes"]["Conv"] > 0
    run = backend.load(path, EXAMPLE, "fp32")
    for size in SIZES:
        image = picture(generator, *size)
        assert parity_db(generator, image, run(image)) >= PARITY_PSNR_DB["fp32"]


def test_a_batch_runs(tmp_path: Path) -> None:
    generator, path = small_generator("srvgg"), tmp_path / "generator.onnx"
    images = torch.cat([picture(generator, *SIZES[0]), picture(generator, *SIZES[0]).flip(2)])
    backend.build(small_generator("srvgg"), images, "fp32", path)
    assert parity_db(generator, images, backend.load(path, images, "fp32")(images)) >= PARITY_PSNR_DB["fp32"]


def test_any_layout_comes_in_and_results_are_kept(path: Path) -> None:
    generator = small_generator("resnet")
    image = picture(generator, *SIZES[0])
    run = backend.load(path, EXAMPLE, "fp32")
    first = run(image)
    kept = first.clone()
    assert torch.equal(run(image.contiguous()), kept)
    run(-image)
    assert torch.equal(first, kept)


def test_the_file_says_what_writes_and_reads_it() -> None:
    assert backend.version(CPU) == f"onnxruntime {onnxruntime.__version__}"
    assert backend.unavailable(CPU) is None
    assert backend.unbuildable(CPU) is None


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    expected = "onnxruntime not installed: pip install 'streamgan[onnx]'"
    assert backend.unavailable(CPU) == expected
    assert backend.unbuildable(CPU) == expected


def test_a_package_without_cuda_says_which_has_it() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has a CUDA provider")
    assert "onnxruntime-gpu" in (backend.unavailable(torch.device("cuda")) or "")


def test_another_provider_in_the_place_of_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """As ONNX Runtime does where CUDA's libraries can't be loaded."""

    class Session:
        def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
            assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
            assert providers == [("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})]

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with cuda_on_the_host(), pytest.raises(BackendError, match="runs on CPUExecutionProvider instead of CUDA"):
        backend.load(path, torch.zeros(EXAMPLE.shape, device="cuda"), "fp32")


@pytest.mark.parametrize("is_loaded", [False, True])
def test_nodes_that_cuda_does_not_run_are_an_error(
    is_loaded: bool, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    """Its provider's own libraries may be missing, of which ONNX Runtime tells its log alone."""

    def session(*_: object, **__: object) -> None:
        raise RuntimeError("This session contains graph nodes that are assigned to the default CPU EP, but ...")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(module, "_cuda_libraries", lambda: [] if is_loaded else [Path("libnone.so")])
    reason = "it lacks an operator" if is_loaded else r"libnone\.so: cannot open shared object file: [\w ]+"
    match = rf"^ONNX Runtime can't run all of {path.name} on CUDAExecutionProvider: {reason}$"
    with cuda_on_the_host(), pytest.raises(BackendError, match=match):
        backend.load(path, torch.zeros(EXAMPLE.shape, device="cuda"), "fp32")


def test_a_package_that_does_not_load_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libonnxruntime.so: no such file')")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match=r"^onnxruntime is installed, but can't be loaded: libonnxruntime\.so"):
        backend.load(path, EXAMPLE, "fp32")


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fast"])
def test_half_precision_on_the_cpu_is_refused(precision: str, path: Path) -> None:
    half = EXAMPLE.to(torch.float16 if precision == "fp16" else torch.bfloat16)
    with pytest.raises(BackendError, match=f"fp32 on cpu, not for {precision}"):
        backend.build(small_generator("resnet"), half, precision, path)
    with pytest.raises(BackendError, match=f"fp32 on cpu, not for {precision}"):
        backend.load(path, half, precision)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_a_truncated_file_is_an_error(kept: float, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    with pytest.raises(BackendError, match=rf"^ONNX Runtime can't load {path.name}: [^\n]+$"):
        backend.load(path, EXAMPLE, "fp32")


def test_a_foreign_file_is_an_error(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 a zip file, for example")
    with pytest.raises(BackendError, match=rf"^ONNX Runtime can't load {path.name}: [^\n]+$"):
        backend.load(path, EXAMPLE, "fp32")


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"can't load none\.onnx: .*doesn't exist"):
        backend.load(tmp_path / "none.onnx", EXAMPLE, "fp32")


def test_an_onnx_file_of_somebody_else_is_an_error(path: Path) -> None:
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(BackendError, match="no generator that this backend has written"):
        backend.load(path, EXAMPLE, "fp32")


def test_a_file_for_a_newer_runtime_is_an_error(path: Path) -> None:
    model = onnx.load(path)
    model.opset_import[0].version = 999
    onnx.save(model, path)
    with pytest.raises(BackendError, match=r"can't load .*999"):
        backend.load(path, EXAMPLE, "fp32")


def test_an_operator_that_it_lacks_is_an_error(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node[0].op_type = "Shimmer"
    onnx.save(model, path)
    with pytest.raises(BackendError, match=r"can't load .*Shimmer"):
        backend.load(path, EXAMPLE, "fp32")


@pytest.mark.parametrize("shape", [(1, 3, 96, 64), (2, 3, 64, 96), (1, 4, 64, 96)])
def test_a_file_for_another_shape_is_an_error(shape: tuple[int, ...], path: Path) -> None:
    with pytest.raises(BackendError, match=r"takes tensor\(float\) \[1, 3, 64, 96\].*: build it again"):
        backend.load(path, torch.zeros(shape), "fp32")


def test_a_file_in_another_type_is_an_error(path: Path) -> None:
    from engine.backends.onnx_model import export_onnx

    export_onnx(small_generator("resnet"), EXAMPLE.half(), path)
    with pytest.raises(BackendError, match=r"takes tensor\(float16\)"):
        backend.load(path, EXAMPLE, "fp32")


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_it_runs_on_the_gpu(precision: str, tmp_path: Path) -> None:
    device = torch.device("cuda")
    reason = backend.unavailable(device)
    if reason:
        pytest.skip(reason)
    generator, path = small_generator("resnet").to(device), tmp_path / "generator.onnx"
    image = picture(generator, *SIZES[0]).to(device, torch.float16 if precision == "fp16" else torch.float32)
    backend.build(small_generator("resnet").to(device), image, precision, path)
    output = backend.load(path, image, precision)(image)
    assert output.device == image.device
    assert parity_db(generator, image, output) >= PARITY_PSNR_DB[precision]
