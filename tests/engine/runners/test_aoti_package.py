"""AOTInductor packages without torch's Python part: the same bytes as with it, and one line for what can't be run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from engine import Translator, _native, ops, save_generator
from engine.backends import get_backend
from engine.cache import EngineCache
from engine.choosing import remembered
from engine.choosing.request import Request
from engine.errors import BackendError, FrameSizeError
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.generators.srvgg import SRVGGConfig
from engine.precision import dtype_of
from engine.runners.aoti_package import PackageRunner
from engine.runners.base import FrameFacts
from engine.samples import SAMPLE
from tests.ops.cases import DTYPES, RANGES, random_frames

SIZE = (70, 100)  # padded to 72 x 100
CPU = torch.device("cpu")
AOTI = get_backend("aoti")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or AOTI.unbuildable(CPU) is not None,
    reason="packages are built here on Linux with a compiler",
)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    """As numpy keeps it: float32, or uint16 for what numpy does not know."""
    array: np.ndarray = (tensor if tensor.dtype == torch.float32 else tensor.view(torch.uint16)).numpy()
    return array


class TestConversions:
    """They are what the operators do."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("value_range", RANGES)
    @pytest.mark.parametrize("margin", [(0, 0), (1, 5), (80, 300)])
    def test_image_of_frame(
        self, dtype: torch.dtype, value_range: tuple[float, float], margin: tuple[int, int]
    ) -> None:
        for height, width in [(1, 1), (2, 3), (37, 53)]:
            frame = random_frames(1, height, width)
            size = (height + margin[0], width + margin[1])
            expected = ops.frames_to_tensor(frame, value_range=value_range, size=size, dtype=dtype)
            actual = _native.image_of_frame(frame[0].numpy(), size, value_range, name_of(dtype))
            np.testing.assert_array_equal(actual, bits_of(expected[0].permute(1, 2, 0).contiguous()))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
    def test_frame_of_image(self, dtype: torch.dtype, layout: torch.memory_format) -> None:
        values = torch.randn(1, 3, 40, 55, generator=torch.Generator().manual_seed(0)).to(dtype)
        values[0, :, 0, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        tensor = values.contiguous(memory_format=layout)
        for size in [(40, 55), (33, 50), (1, 1)]:
            expected = ops.tensor_to_frames(tensor, value_range=(-1.0, 1.0), size=size)
            actual = _native.frame_of_image(bits_of(tensor)[0], size, (-1.0, 1.0), name_of(dtype))
            np.testing.assert_array_equal(actual, expected[0].numpy())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (((8, 8, 4), (8, 8), (-1, 1), "float32"), "must be"),
            (((8, 8, 3), (7, 8), (-1, 1), "float32"), "not to be padded"),
            (((0, 8, 3), (8, 8), (-1, 1), "float32"), "not to be padded"),
            (((8, 8, 3), (8, 8), (1, 1), "float32"), "no range"),
            (((8, 8, 3), (8, 8), (-1, 1), "int8"), "dtype int8"),
        ],
    )
    def test_a_frame_that_cant_be_taken(self, arguments: tuple, message: str) -> None:
        shape, *rest = arguments
        with pytest.raises(RuntimeError, match=message):
            _native.image_of_frame(np.zeros(shape, np.uint8), *rest)

    @pytest.mark.parametrize(
        ("image", "size", "dtype", "message"),
        [
            (np.zeros((3, 8, 8), np.float32), (9, 8), "float32", "not to be cropped"),
            (np.zeros((3, 8, 8), np.float32), (8, 0), "float32", "not to be cropped"),
            (np.zeros((8, 8, 3), np.float32), (8, 8), "float32", "must be"),
            (np.zeros((3, 8, 8), np.float32), (8, 8), "bfloat16", "not what bfloat16"),
            (np.zeros((3, 8, 16), np.float32)[:, :, ::2], (8, 8), "float32", "beside each other"),
        ],
    )
    def test_an_image_that_cant_be_taken(
        self, image: np.ndarray, size: tuple[int, int], dtype: str, message: str
    ) -> None:
        with pytest.raises(RuntimeError, match=message):
            _native.frame_of_image(image, size, (-1.0, 1.0), dtype)


def sample_frame(size: tuple[int, int] = SIZE) -> np.ndarray:
    read, image = cv2.VideoCapture(str(SAMPLE)).read()
    assert read
    return cv2.resize(image, (size[1], size[0]))


@dataclasses.dataclass(frozen=True)
class Built:
    """A package of a small generator."""

    path: Path
    dtype: str = "float32"

    FACTS = FrameFacts((-1.0, 1.0), (-1.0, 1.0), multiple=4, minimum_size=8, scale=1)

    def runner(self, threads: int = 1) -> PackageRunner:
        return PackageRunner(
            self.path, self.FACTS, dtype=self.dtype, size=(72, 100), frame_bytes=1 << 20, threads=threads
        )


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    torch.manual_seed(0)
    generator = build(ResNetConfig(width=8, blocks=1)).eval()
    dtype = dtype_of(request.param, CPU)
    path = tmp_path_factory.mktemp("package") / "engine.pt2"
    example = torch.zeros(1, 3, 72, 100, dtype=dtype).to(memory_format=torch.channels_last)
    AOTI.build(generator, example, request.param, path)
    return Built(path, name_of(dtype))


def test_gives_the_bytes_of_the_loader(built: Built) -> None:
    frame, facts = sample_frame(), built.FACTS
    image = ops.frames_to_tensor(
        torch.from_numpy(frame)[None],
        value_range=facts.input_range,
        size=(72, 100),
        dtype=getattr(torch, built.dtype),
    )
    with torch.no_grad():
        output = AOTI.load(built.path, image, "fp32" if built.dtype == "float32" else "bf16")(image)
    expected = ops.tensor_to_frames(output, value_range=facts.output_range, size=SIZE)[0].numpy()
    runner = built.runner(torch.get_num_threads())
    for _ in range(3):
        np.testing.assert_array_equal(runner.translate(frame), expected)
    other = sample_frame()[::-1].copy()
    assert not np.array_equal(runner.translate(other), expected)
    np.testing.assert_array_equal(runner.submit(np.stack([frame, other, frame]))()[2], expected)


def test_it_leaves_torch_as_it_was(built: Built) -> None:
    built.runner().translate(sample_frame())
    assert torch.is_grad_enabled()


def test_a_frame_of_another_size_is_refused(built: Built) -> None:
    with pytest.raises(BackendError, match="not to be padded"):
        built.runner().translate(sample_frame((80, 100)))


class TestFilesThatCantBeRun:
    def fails(self, path: Path) -> str:
        with pytest.raises(BackendError) as raised:
            Built(path).runner()
        assert "\n" not in str(raised.value)
        return str(raised.value)

    def zipped(self, folder: Path, **files: bytes) -> Path:
        path = folder / "engine.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name.replace("_", "."), content)
        return path

    def test_no_file(self, tmp_path: Path) -> None:
        assert "can't be unpacked" in self.fails(tmp_path / "none.pt2")

    def test_no_package(self, tmp_path: Path) -> None:
        (tmp_path / "engine.pt2").write_bytes(b"nothing of the kind")
        assert "can't be unpacked" in self.fails(tmp_path / "engine.pt2")

    def test_no_library_in_it(self, tmp_path: Path) -> None:
        assert "has 0 libraries" in self.fails(self.zipped(tmp_path, readme_txt=b""))

    def test_two_libraries_in_it(self, tmp_path: Path) -> None:
        assert "has 2 libraries" in self.fails(self.zipped(tmp_path, a_so=b"", b_so=b""))

    def test_a_library_that_is_none(self, tmp_path: Path) -> None:
        assert "can't be loaded" in self.fails(self.zipped(tmp_path, model_so=b"\x7fELF nonsense"))

    def test_a_library_of_something_else(self, tmp_path: Path) -> None:
        (library,) = (Path(_native.__file__).parent / "lib").glob("libstreamgan_cpu*")
        assert "can't be loaded" in self.fails(self.zipped(tmp_path, model_so=library.read_bytes()))

    def test_a_damaged_archive(self, built: Built, tmp_path: Path) -> None:
        content = bytearray(built.path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        (tmp_path / "engine.pt2").write_bytes(content)
        assert "can't be unpacked" in self.fails(tmp_path / "engine.pt2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A style, and a cache that a first run has filled."""
    folder = tmp_path_factory.mktemp("quick")
    torch.manual_seed(0)
    save_generator(build(ResNetConfig(width=8, blocks=1)), folder / "style.safetensors", metadata={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMGAN_CACHE", str(folder / "cache"))
        first = translator(folder)
        first.engine_for(sample_frame())
        np.save(folder / "expected.npy", first(sample_frame()))
        assert needed_torch(first)
    return folder


def translator(folder: Path) -> Translator:
    return Translator(folder / "style.safetensors", backend="aoti", precision="fp32", device="cpu")


def needed_torch(translator: Translator) -> bool:
    return translator._loaded is not None


class TestQuickStart:
    @pytest.fixture(autouse=True)
    def cache(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STREAMGAN_CACHE", str(folder / "cache"))

    def test_the_second_run_needs_no_torch(self, folder: Path) -> None:
        second = translator(folder)
        engine = second.engine_for(sample_frame())
        np.testing.assert_array_equal(second(sample_frame()), np.load(folder / "expected.npy"))
        assert not needed_torch(second)
        assert str(engine) == "aoti fp32"
        exact = Translator(folder / "style.safetensors", backend="eager", precision="fp32")
        assert engine.parity_db >= 60.5
        assert not engine.proven_before
        black = np.zeros((*SIZE, 3), np.uint8)
        np.testing.assert_array_equal(second(black), exact(black))
        assert needed_torch(second)
        np.testing.assert_array_equal(second(sample_frame()), np.load(folder / "expected.npy"))

    def test_torch_is_not_imported(self, folder: Path, tmp_path: Path) -> None:
        program = """
import sys
import numpy as np
from engine import Translator
folder, out = sys.argv[1:]
translator = Translator(folder + "/style.safetensors", backend="aoti", precision="fp32")
np.save(out + "/second.npy", translator(np.load(out + "/frame.npy")))
assert "torch" not in sys.modules
"""
        np.save(tmp_path / "frame.npy", sample_frame())
        done = subprocess.run([sys.executable, "-c", program, folder, tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(np.load(tmp_path / "second.npy"), np.load(folder / "expected.npy"))

    @pytest.mark.parametrize("change", ["torch", "processor", "size"])
    def test_what_it_was_not_compiled_for_is_not_started(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
    ) -> None:
        if change == "torch":
            monkeypatch.setattr(remembered, "installed_versions", lambda name: f"{name} 1.0")
        elif change == "processor":
            monkeypatch.setattr(remembered, "processor_fingerprint", lambda: "another")
        request = Request(folder / "style.safetensors", "aoti", "fp32")
        assert remembered.start(EngineCache(), request, (64, 64) if change == "size" else SIZE) is None

    def test_a_video_that_it_is_not_close_enough_on(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(remembered, "_PACKAGE_MARGIN_DB", 1000.0)
        second = translator(folder)
        assert not needed_torch(second)
        second.engine_for(sample_frame())
        assert needed_torch(second)
        assert "the engine is chosen again: this video's first frame in aoti fp32 is at " in caplog.text

    def test_a_package_that_fails_proves_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It translates neither that frame nor the next one."""

        def fail(self: PackageRunner, frame: np.ndarray) -> np.ndarray:
            raise BackendError("the package failed: not today")

        second = translator(folder)
        with monkeypatch.context() as patch:
            patch.setattr(PackageRunner, "translate", fail)
            second.engine_for(sample_frame())
        assert needed_torch(second)
        assert "the engine is chosen again: aoti fp32 failed: the package failed: not today" in caplog.text
        assert not isinstance(second.engine_for(sample_frame()).runner, PackageRunner)

    def test_no_memory_is_told(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = remembered.start(EngineCache(), Request(folder / "style.safetensors", "aoti", "fp32"), SIZE)
        assert found is not None
        package = found.engine.runner
        assert isinstance(package, PackageRunner)

        def reason(pointer: Any) -> None:
            pointer._obj.value = b"DefaultCPUAllocator: can't allocate memory"

        library = SimpleNamespace(AOTInductorModelContainerRun=lambda *_: 1, AOTInductorGetLastError=reason)
        monkeypatch.setattr(package, "_library", library)
        with pytest.raises(FrameSizeError, match="use smaller frames"):
            package.translate(sample_frame())

    def test_a_damaged_package_is_made_anew(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        (entry,) = (entry for entry in EngineCache().entries() if entry.of["backend"] == "aoti")
        path = entry.folder / entry.main
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        request = Request(folder / "style.safetensors", "aoti", "fp32")
        assert remembered.start(EngineCache(), request, SIZE) is None
        assert "the cached aoti engine is built again" in caplog.text
        assert not path.exists()


def test_a_generator_that_has_no_float32_of_ours_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared with eager float32 in every run."""

    def unknown(*_: object, **__: object) -> None:
        raise BackendError("no such layer")

    monkeypatch.setattr("engine.fused.lowering.fuse", unknown)
    monkeypatch.setenv("STREAMGAN_CACHE", str(tmp_path / "cache"))
    save_generator(build(SRVGGConfig(width=8, convolutions=1)), tmp_path / "style.safetensors", metadata={})
    assert str(translator(tmp_path).engine_for(sample_frame())) == "aoti fp32"
    request = Request(tmp_path / "style.safetensors", "aoti", "fp32")
    assert remembered.start(EngineCache(), request, SIZE) is None
