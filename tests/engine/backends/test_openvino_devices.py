"""OpenVINO on Intel's GPUs and NPUs, with its CPU plugin in their place: no machine that runs these tests has one."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.backends import BACKENDS, Backend
from engine.backends import openvino as module
from engine.cache import EngineCache
from engine.choosing import background
from engine.device import has_bf16_arithmetic, has_fp16_arithmetic
from engine.engine_files import build_into, generator_hash
from engine.errors import BackendError
from engine.generators import Generator, ResNetConfig, build
from engine.parity import psnr_db
from engine.precision import fastest_precision
from engine.translator import Translator
from tests.engine.small_generators import SIZES, parity_db, picture, small_generator
from tests.tolerances import PARITY_PSNR_DB

pytest.importorskip("onnx", reason="onnx is not installed")
openvino = pytest.importorskip("openvino", reason="openvino is not installed")

CPU = torch.device("cpu")
HALF = fastest_precision(CPU)
EXAMPLE = torch.zeros(1, 3, *SIZES[0])
FRAME = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)

GPU, NPU = BACKENDS["openvino-gpu"], BACKENDS["openvino-npu"]
ON_THE_CPU = module.OpenVINODevice("CPU", "fp16", "fp32")
OPENVINO = f"openvino {importlib.metadata.version('openvino')}"


@pytest.fixture(scope="module")
def resnet() -> Generator:
    torch.manual_seed(0)
    return build(ResNetConfig(width=8, blocks=1)).eval()


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """`openvino-gpu` on the CPU's plugin, which has no float16 on most processors but writes and reads real files."""
    monkeypatch.setattr(GPU, "plugin", "CPU")
    return GPU


@pytest.fixture
def built_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be built by another process is built by this one; the list tells each build."""
    builds: list[str] = []

    def build_it(cache: EngineCache, generator: Generator, backend: str, precision: str, example: Tensor) -> None:
        builds.append(f"{backend} {precision}")
        build_into(cache, generator, generator_hash(generator), BACKENDS[backend], precision, example)

    monkeypatch.setattr(background, "build", build_it)
    return builds


def exact(generator: Generator, frame: np.ndarray) -> np.ndarray:
    return Translator(generator, backend="eager", precision="fp32")(frame)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    module._absent.cache_clear()
    module._properties.cache_clear()
    yield
    module._absent.cache_clear()
    module._properties.cache_clear()


@pytest.mark.usefixtures("asked_anew")
class TestFindingOne:
    @pytest.mark.parametrize(("backend", "plugin"), [(GPU, "GPU"), (NPU, "NPU")])
    def test_there_is_none_here(self, backend: Backend, plugin: str) -> None:
        if plugin in {name.partition(".")[0] for name in openvino.Core().available_devices}:
            assert backend.unavailable(CPU) is None
        else:
            assert backend.unavailable(CPU) == f"OpenVINO finds no {plugin} here, or no driver of one"
            assert backend.unbuildable(CPU) == backend.unavailable(CPU)
        assert backend.unavailable(torch.device("cuda")) == "runs on the CPU only"

    def test_openvino_is_asked_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        finds = SimpleNamespace(available_devices=["CPU"])
        monkeypatch.setattr(module, "core", lambda: finds)
        assert GPU.unavailable(CPU) is not None
        finds.available_devices = ["CPU", "GPU.0", "GPU.1"]
        assert GPU.unavailable(CPU) is not None
        module._absent.cache_clear()
        assert GPU.unavailable(CPU) is None

    def test_a_broken_driver_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> None:
            raise RuntimeError("Exception from src/core.cpp:110:\nthe driver is broken\n")

        monkeypatch.setattr(module, "core", broken)
        assert NPU.unavailable(CPU) == "OpenVINO can't look for devices: the driver is broken"

    def test_a_missing_package_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert GPU.unavailable(CPU) == "openvino not installed: pip install 'streamgan[openvino]'"

    def test_files_depend_on_what_the_plugin_tells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As much of it as it does: not every value has a form in Python."""
        told = {"FULL_DEVICE_NAME": "Xe", "COMPILED_MODEL_RUNTIME_PROPERTIES": "driver 1"}

        def get_property(plugin: str, name: str) -> str:
            if name == "DEVICE_ARCHITECTURE":
                raise TypeError("Failed to convert parameter to Python representation!")
            return told[name]

        monkeypatch.setattr(module, "core", lambda: SimpleNamespace(get_property=get_property))
        assert GPU.version(CPU) == f"{OPENVINO}, Xe, driver 1"
        told["COMPILED_MODEL_RUNTIME_PROPERTIES"] = "driver 2"
        module._properties.cache_clear()
        assert GPU.version(CPU).endswith("driver 2")

    def test_a_device_that_is_lost_is_one_line(self, tmp_path: Path) -> None:
        fpga = module.OpenVINODevice("FPGA", "fp32")
        with pytest.raises(BackendError, match=r"^OpenVINO can't compile the generator for the FPGA: [^\n]+$"):
            fpga.build(small_generator("resnet"), EXAMPLE, "fp32", tmp_path / "x")
        assert fpga.version(CPU) == OPENVINO


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for inputs like EXAMPLE."""
    path = tmp_path_factory.mktemp("openvino") / "generator.blob"
    facts = ON_THE_CPU.build(small_generator("resnet"), EXAMPLE, "fp32", path)
    assert facts["nodes"]["Conv"] > 0
    return path


class TestFiles:
    def test_parity(self, path: Path) -> None:
        generator = small_generator("resnet")
        image = picture(generator, *SIZES[0])
        run = ON_THE_CPU.load(path, EXAMPLE, "fp32")
        assert run.input_dtype == torch.float32  # type: ignore[attr-defined]
        first = run(image)
        kept = first.clone()
        assert parity_db(generator, image, first) >= PARITY_PSNR_DB["fp32"]
        run(-image)
        assert torch.equal(first, kept)

    def test_half_precision(self, path: Path, tmp_path: Path) -> None:
        if not has_bf16_arithmetic():
            pytest.skip("this processor has no bfloat16")
        generator = small_generator("resnet")
        image = picture(generator, *SIZES[0])
        half = tmp_path / "half.blob"
        ON_THE_CPU.build(small_generator("resnet"), EXAMPLE.bfloat16(), "bf16", half)
        output = ON_THE_CPU.load(half, EXAMPLE.bfloat16(), "bf16")(image)
        assert parity_db(generator, image, output) >= PARITY_PSNR_DB["bf16"]
        assert not torch.equal(output, ON_THE_CPU.load(path, EXAMPLE, "fp32")(image))

    @pytest.mark.parametrize(("plugin", "options"), [("GPU", {"INFERENCE_PRECISION_HINT": "f32"}), ("NPU", {})])
    def test_what_a_plugin_has_to_be_told(
        self, path: Path, plugin: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A GPU's computes in float16 unless it is told; an NPU's does not know the word."""
        real, told = openvino.Core(), []

        def import_model(data: bytes, name: str, given: dict[str, str]) -> object:
            told.append((name, given))
            return real.import_model(data, "CPU", {})

        monkeypatch.setattr(module, "core", lambda: SimpleNamespace(import_model=import_model))
        module.OpenVINODevice(plugin, "fp32").load(path, EXAMPLE, "fp32")
        assert told == [(plugin, options)]

    def test_a_precision_that_it_lacks_is_not_built(self, tmp_path: Path) -> None:
        if has_fp16_arithmetic():
            pytest.skip("this processor has float16")
        with pytest.raises(BackendError, match=r"OpenVINO runs in b?f\d+ instead of f16 on this CPU"):
            ON_THE_CPU.build(small_generator("resnet"), EXAMPLE.half(), "fp16", tmp_path / "x")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("shape", [(1, 3, 96, 64), (2, 3, 64, 96)])
    def test_another_shape(self, path: Path, shape: tuple[int, ...]) -> None:
        with pytest.raises(BackendError, match=r"takes inputs of \[1, 3, 64, 96\], not of .*: build it again"):
            ON_THE_CPU.load(path, torch.zeros(shape), "fp32")

    @pytest.mark.parametrize("content", [b"", b"no blob at all", b"\x00" * 4096])
    def test_a_foreign_file(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "generator.blob").write_bytes(content)
        with pytest.raises(BackendError, match=r"^OpenVINO can't load generator\.blob on the CPU: [^\n]+$"):
            ON_THE_CPU.load(tmp_path / "generator.blob", EXAMPLE, "fp32")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match=r"can't load generator\.blob"):
            ON_THE_CPU.load(tmp_path / "generator.blob", EXAMPLE, "fp32")


class TestAskedFor:
    def test_it_runs_in_precisions_of_its_own(
        self, gpu: Backend, resnet: Generator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """First in fp16, and in float32 where that can't be; on no account in fp16 on the CPU."""
        translator = Translator(resnet, backend="openvino-gpu")
        translated = translator(FRAME)
        assert translator.engine is not None
        assert translator.engine.backend == "openvino-gpu"
        assert psnr_db(translated, exact(resnet, FRAME)) >= PARITY_PSNR_DB[translator.engine.precision]
        assert not [message for message in caplog.messages if "may be slower" in message]
        if not has_fp16_arithmetic():
            assert translator.engine.precision == "fp32"
            assert [message for message in caplog.messages if "openvino-gpu fp16 is not used" in message]
        monkeypatch.setattr(gpu, "build", lambda *arguments: pytest.fail("built again"))
        again = Translator(resnet, backend="openvino-gpu", precision=translator.engine.precision)
        np.testing.assert_array_equal(again(FRAME), translated)

    def test_another_precision_is_refused(self, gpu: Backend, resnet: Generator) -> None:
        with pytest.raises(BackendError, match=r"^backend 'openvino-gpu' runs in fp16 and fp32, not in bf16$"):
            Translator(resnet, backend="openvino-gpu", precision="bf16")

    @pytest.mark.usefixtures("auto_is_one_precision")
    @pytest.mark.parametrize(("asked", "instead"), [("auto", HALF), ("fp16", "fp32"), ("fp32", "fp32")])
    def test_what_stands_in_is_of_this_processor(
        self, gpu: Backend, resnet: Generator, monkeypatch: pytest.MonkeyPatch, asked: str, instead: str
    ) -> None:
        def lost(*arguments: object) -> None:
            raise BackendError("the GPU is lost")

        monkeypatch.setattr(gpu, "load", lost)
        translator = Translator(resnet, backend="openvino-gpu", precision=asked)
        translator(FRAME)
        assert str(translator.engine) == f"fused {instead}"

    def test_a_live_stream_does_not_wait(self, gpu: Backend, resnet: Generator, built_here: list[str]) -> None:
        translator = Translator(resnet, backend="openvino-gpu", precision="fp32", live=True)
        translator(FRAME)
        assert str(translator.engine) == "fused fp32"
        deadline = time.monotonic() + 60
        while str(translator.engine) == "fused fp32":
            assert time.monotonic() < deadline
            translated = translator(FRAME)
        assert str(translator.engine) == "openvino-gpu fp32"
        assert psnr_db(translated, exact(resnet, FRAME)) >= PARITY_PSNR_DB["fp32"]
        assert built_here == ["openvino-gpu fp32"]

    def test_a_device_that_does_not_go_on_is_left(
        self, gpu: Backend, resnet: Generator, caplog: pytest.LogCaptureFixture
    ) -> None:
        translator = Translator(resnet, backend="openvino-gpu", precision="fp32")
        translator(FRAME)
        assert translator.engine is not None
        assert str(translator.engine) == "openvino-gpu fp32"
        network = translator.engine.runner.run

        class Lost:
            def set_input_tensor(self, tensor: object) -> None:
                raise RuntimeError("Exception from src/inference.cpp:1:\nCL_OUT_OF_RESOURCES")

        network._request = Lost()  # type: ignore[attr-defined]
        caplog.clear()
        assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_PSNR_DB["fp32"]
        assert str(translator.engine) == "fused fp32"
        assert caplog.messages == [
            "openvino-gpu fp32 is not used any more: the CPU does not go on: CL_OUT_OF_RESOURCES"
        ]

    def test_auto_does_not_ask_for_it(self, resnet: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        """OpenVINO looks at every device of the machine when it is asked for one."""
        monkeypatch.setattr(module, "_absent", lambda plugin: pytest.fail("asked"))
        translator = Translator(resnet, expected_frames=10**9)
        translator(FRAME)
        assert translator.choice
