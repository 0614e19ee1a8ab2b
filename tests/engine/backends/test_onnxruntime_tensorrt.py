"""ONNX Runtime's TensorRT provider: what it is asked for, and what is made of its answers; run where there is a GPU.

The runtime is a stand-in: no TensorRT can be run without a GPU.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.backends import BACKENDS
from engine.backends import onnxruntime as module
from engine.errors import BackendError
from tests.engine.small_generators import SIZES, parity_db, picture, small_generator
from tests.tolerances import PARITY_PSNR_DB

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")

backend = BACKENDS["onnxruntime-tensorrt"]
CUDA = torch.device("cuda")
HALF = torch.zeros(1, 3, *SIZES[0], dtype=torch.float16)


class Session:
    """Takes the place of onnxruntime.InferenceSession."""

    asked: list[tuple[str, dict[str, str]]]
    engines = 1
    provider = "TensorrtExecutionProvider"

    def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
        type(self).asked = providers
        self.options = options
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        for number in range(self.engines):
            (Path(providers[0][1]["trt_engine_cache_path"]) / f"kernel_{number}.engine").write_bytes(b"engine")

    def get_providers(self) -> list[str]:
        return [self.provider, "CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input", type="tensor(float16)", shape=list(HALF.shape))]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="output", shape=list(HALF.shape))]

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map={"scale": "1"})


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    class Own(Session):
        pass

    monkeypatch.setattr(onnxruntime, "InferenceSession", Own)
    return Own


def test_an_engine_is_built_beside_the_file(session: type[Session], tmp_path: Path) -> None:
    path = tmp_path / "engine.onnx"
    facts = backend.build(small_generator("resnet"), HALF, "fp16", path)
    assert facts["nodes"]["Conv"] > 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["engine.onnx", "kernel_0.engine"]
    ((name, settings),) = session.asked  # TensorRT alone: nothing else may run a layer
    assert name == "TensorrtExecutionProvider"
    assert settings["trt_fp16_enable"] == "1"
    assert settings["trt_engine_cache_path"] == str(tmp_path)


def test_all_of_the_file_is_in_half_precision(session: type[Session], tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "engine.onnx"
    backend.build(small_generator("resnet"), HALF, "fp16", path)
    weights = {weight.data_type for weight in onnx.load(path).graph.initializer if len(weight.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("count", [0, 2])
def test_a_generator_that_is_not_one_engine_is_an_error(count: int, session: type[Session], tmp_path: Path) -> None:
    session.engines = count
    with pytest.raises(BackendError, match=f"made {count} engines of the generator, not one"):
        backend.build(small_generator("resnet"), HALF, "fp16", tmp_path / "engine.onnx")


def test_another_provider_in_its_place_is_an_error(session: type[Session], tmp_path: Path) -> None:
    """As ONNX Runtime does where TensorRT's libraries can't be loaded."""
    path = tmp_path / "engine.onnx"
    backend.build(small_generator("resnet"), HALF, "fp16", path)
    session.provider = "CUDAExecutionProvider"
    with pytest.raises(BackendError, match="runs on CUDAExecutionProvider instead of TensorrtExecutionProvider"):
        backend.load(path, HALF, "fp16")


def test_the_real_runtime_without_the_provider_is_an_error(tmp_path: Path) -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has a TensorRT provider")
    from engine.backends.onnx_model import export_onnx

    path = tmp_path / "engine.onnx"
    export_onnx(small_generator("resnet"), HALF, path)
    with pytest.raises(BackendError, match=r"^ONNX Runtime [^\n]+$"):
        backend.load(path, HALF, "fp16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_float32_is_refused(precision: str, tmp_path: Path) -> None:
    example = HALF.float() if precision == "fp32" else HALF.bfloat16()
    with pytest.raises(BackendError, match=f"fp16 and fast \\(fp16\\), not for {precision}"):
        backend.build(small_generator("resnet"), example, precision, tmp_path / "engine.onnx")
    with pytest.raises(BackendError, match=f"fp16 and fast \\(fp16\\), not for {precision}"):
        backend.load(tmp_path / "engine.onnx", example, precision)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend.unavailable(torch.device("cpu")) == "needs a CUDA device"
    if not module.has_provider("tensorrt"):
        assert "no TensorRT provider: pip install onnxruntime-gpu and tensorrt" in (backend.unavailable(CUDA) or "")
    monkeypatch.setattr(module, "has_provider", lambda name: name == "tensorrt")
    assert backend.unavailable(CUDA) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend.unavailable(CUDA) == "onnxruntime not installed: pip install 'streamgan[onnx]'"


@pytest.mark.needs_cuda
def test_it_runs_on_the_gpu(tmp_path: Path) -> None:
    if reason := backend.unavailable(CUDA):
        pytest.skip(reason)
    generator, path = small_generator("resnet").to(CUDA), tmp_path / "engine.onnx"
    image = picture(generator, *SIZES[0]).to(CUDA, torch.float16)
    backend.build(small_generator("resnet").to(CUDA), image, "fp16", path)
    output = backend.load(path, image, "fp16")(image)
    assert parity_db(generator, image, output) >= PARITY_PSNR_DB["fp16"]
