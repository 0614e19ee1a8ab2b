"""Torch-TensorRT: what can be checked without it and without a GPU; the whole of it where both are there."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.backends import BACKENDS, Backend
from engine.backends import tensorrt as module
from engine.backends.tensorrt_layers import check_layers, engine_dtype, layers_in_json, layers_in_text, profile_shapes
from engine.cache import EngineCache
from engine.errors import BackendError
from engine.generators import UNetConfig, build
from tests.engine.cuda_stand_in import CUDA, cuda_on_the_host
from tests.engine.small_generators import CONFIGS, SIZES, parity_db, picture, small_generator
from tests.engine.tensorrt_stand_in import Engine, tensorrt_module
from tests.tolerances import PARITY_PSNR_DB

backend = BACKENDS["tensorrt"]
HALF = torch.zeros(1, 3, *SIZES[0], dtype=torch.float16)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    for name, ask in (("tensorrt", backend.unavailable), ("torch_tensorrt", backend.unbuildable)):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda asked, name=name: None if asked == name else object() or find(asked)
        )
        assert ask(torch.device("cuda")) == f"{name} not installed: pip install 'streamgan[tensorrt]'"


def test_it_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert backend.unavailable(torch.device("cpu")) == "needs a CUDA device"
    assert backend.unavailable(torch.device("cuda")) is None


@pytest.mark.parametrize("distribution", ["tensorrt", "tensorrt-cu13", "tensorrt-cu12"])
def test_engines_are_of_the_version_of_tensorrt(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch-TensorRT 2.14 brings a distribution of another name than 2.13."""
    installed = {"torch-tensorrt": "2.14.0", distribution: "11.1.0", "torch": "2.14.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    with cuda_on_the_host():
        found = backend.version(CUDA)
    assert found == f"torch-tensorrt 2.14.0, {distribution} 11.1.0, torch 2.14.0, Stand-in sm89"


@pytest.mark.parametrize(
    "error", [ImportError("libnvinfer.so.11: no such file"), OSError("x"), Exception("import error")]
)
@pytest.mark.parametrize("name", ["torch_tensorrt", "tensorrt", "tensorrt_rtx"])
def test_a_library_that_does_not_load_is_one_line(
    name: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Torch-TensorRT raises a plain Exception, after it has printed advice."""
    (tmp_path / f"{name}.py").write_text(f"print('make sure that ...')\nraise {error!r}\n")
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "generator.plan"
    path.write_bytes(b"engine")
    kind = BACKENDS["tensorrt-rtx"] if name == "tensorrt_rtx" else backend
    module_of(kind)._logger.cache_clear()
    steps = {
        "torch_tensorrt": lambda: kind.build(small_generator("resnet"), HALF, "fp16", path),
        "tensorrt": lambda: kind.load(path, HALF, "fp16"),
        "tensorrt_rtx": lambda: kind.load(path, HALF, "fp16"),
    }
    with pytest.raises(BackendError, match=rf"^{name} is installed, but can't be loaded: {error}$"):
        steps[name]()
    module_of(kind)._logger.cache_clear()
    assert capsys.readouterr().out == ""


def module_of(kind: Backend) -> Any:
    return sys.modules[type(kind).__module__]


class LoudDebugger:
    """Does to the root logger what Torch-TensorRT's debugger does."""

    def __init__(self, *, log_level: str, engine_builder_monitor: bool, logging_dir: str) -> None:
        assert (log_level, engine_builder_monitor) == ("error", False)
        assert not list(Path(logging_dir).iterdir())

    def __enter__(self) -> None:
        logging.getLogger().handlers[:] = [logging.StreamHandler()]
        logging.getLogger().setLevel("ERROR")

    def __exit__(self, *_: object) -> None:
        pass


def test_compiling_leaves_the_log_as_it_was() -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    with module._detailed(SimpleNamespace(dynamo=SimpleNamespace(Debugger=LoudDebugger))):
        assert root.level == logging.ERROR
    assert (root.handlers, root.level) == before


# As the engine inspector prints them.
CONVOLUTION = {
    "Name": "conv1",
    "LayerType": "correlation",
    "Inputs": [{"Name": "x", "Dimensions": [1, 64, 56, 56], "Datatype": "Half", "Format": "(NHWC) Channel major"}],
    "Constants": [
        {"Name": "a", "Dimensions": [64, 64, 3, 3], "Datatype": "Half", "Format": "(Linear)"},
        {"Name": "b", "Dimensions": [1, 64, 1, 1], "Datatype": "Float", "Format": "(Linear)"},
        {"Name": "c", "Dimensions": [1], "Datatype": "Float", "Format": "(Linear)"},
    ],
    "Outputs": [{"Name": "y", "Dimensions": [1, 64, 56, 56], "Datatype": "Float", "Format": "(NHWC)"}],
}
NORM = {
    "Name": "norm",
    "LayerType": "kgen",
    "Inputs": [{"Name": "y", "Dimensions": [1, 64, 56, 56], "Datatype": "Float"}],
    "Outputs": [{"Name": "sums", "Dimensions": [1, 64, 1, 1], "Datatype": "Float"}],
}


def test_layers_are_read_back() -> None:
    """What a convolution writes may be float32, for a norm that follows."""
    layers = layers_in_json(json.dumps({"Layers": [CONVOLUTION, NORM]}))
    assert check_layers(layers, "HALF") == {"layers": 2, "types": {"correlation": 1, "kgen": 1}}
    with pytest.raises(BackendError, match=r"a correlation of the engine is in Half, not in FLOAT"):
        check_layers(layers, "FLOAT")


@pytest.mark.parametrize("place", ["Inputs", "Constants"])
def test_what_a_convolution_reads_is_in_the_type_that_was_asked_for(place: str) -> None:
    tensors = [{**CONVOLUTION[place][0], "Datatype": "Float"}, *CONVOLUTION[place][1:]]
    layers = layers_in_json(json.dumps({"Layers": [{**CONVOLUTION, place: tensors}]}))
    with pytest.raises(BackendError, match=r"a correlation of the engine is in Float, not in HALF"):
        check_layers(layers, "HALF")


def test_a_convolution_that_tells_nothing_is_refused() -> None:
    layers = layers_in_json(json.dumps({"Layers": [{"Name": "conv1", "LayerType": "correlation"}]}))
    with pytest.raises(BackendError, match="in an unknown type, not in HALF"):
        check_layers(layers, "HALF")


def test_layers_in_text_are_those_in_json() -> None:
    tensor = "{{ Name: {Name}, Dimensions: [{sides}], Strides: [1], Datatype: {Datatype}, Format: (Linear) }}"

    def listed(place: str) -> str:
        tensors = CONVOLUTION.get(place, ())
        return ", ".join(tensor.format(sides=",".join(map(str, one["Dimensions"])), **one) for one in tensors)

    parts = ", ".join(f"{place}: [ {listed(place)}]" for place in ("Inputs", "Constants", "Outputs"))
    layers = layers_in_text(f"Layers:\nName: conv1, LayerType: correlation, {parts}, TacticName: x\n")
    assert check_layers(layers, "HALF")["types"] == {"correlation": 1}
    assert [len(layer["Read"]) for layer in layers] == [4]


@pytest.mark.parametrize("text", ['{"Layers": ["conv1", "conv2"]}', '{"Layers": [{"Name": "x"}]}', "{}", "[]", "", "1"])
def test_an_engine_without_details_is_refused(text: str) -> None:
    with pytest.raises(BackendError, match="does not tell its layers' types"):
        layers_in_json(text)


def test_an_engine_without_convolutions_is_refused() -> None:
    with pytest.raises(BackendError, match="no convolutions"):
        check_layers(layers_in_json(json.dumps({"Layers": [NORM]})), "HALF")


def test_precisions() -> None:
    assert engine_dtype("fp16") == engine_dtype("fast") == torch.float16
    assert engine_dtype("fp32") == torch.float32
    with pytest.raises(BackendError, match=r"fp32, fp16 and fast .*, not in bf16"):
        engine_dtype("bf16")


def test_a_profile_holds_its_example_and_multiples() -> None:
    resnet, unet = small_generator("resnet"), build(UNetConfig(width=4, downsamplings=8))
    assert profile_shapes(resnet, torch.zeros(1, 3, 720, 1280)) == (
        (1, 3, 64, 64),
        (1, 3, 720, 1280),
        (1, 3, 2160, 3840),
    )
    assert profile_shapes(resnet, torch.zeros(2, 3, 32, 4000)) == ((2, 3, 32, 32), (2, 3, 32, 4000), (2, 3, 2160, 4000))
    assert profile_shapes(unet, torch.zeros(1, 3, 512, 512)) == (
        (1, 3, 256, 256),
        (1, 3, 512, 512),
        (1, 3, 2304, 3840),
    )


class TorchTensorRT:
    """Takes the place of torch_tensorrt: keeps what it was asked for, and gives an engine's bytes."""

    __spec__ = ModuleSpec("torch_tensorrt", None)

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.program: Any = None
        self.timings = b""
        self.ENABLED_FEATURES = SimpleNamespace(qdp_plugin=True)
        self.dynamo = SimpleNamespace(
            Debugger=LoudDebugger, convert_exported_program_to_serialized_trt_engine=self.convert
        )

    def Input(self, **facts: Any) -> dict[str, Any]:  # noqa: N802
        return facts

    def convert(self, program: Any, **asked: Any) -> bytes:
        self.program, self.asked = program, asked
        timing_cache = Path(asked["timing_cache_path"])
        self.timings = timing_cache.read_bytes() if timing_cache.is_file() else b""
        timing_cache.write_bytes(self.timings + b"timing")
        return b"engine"


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[TorchTensorRT, Engine]]:
    """Stand-ins for the libraries, on the host; the engine that is built computes in half precision."""
    compiler = TorchTensorRT()
    engine = Engine(small_generator("resnet").half(), tuple(HALF.shape), dtype=torch.float16, convolution="Half")
    monkeypatch.setenv("STREAMGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "torch_tensorrt", compiler)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_module(engine=engine))
    monkeypatch.setattr(module.tensorrt_plugin, "unavailable", lambda: "not here")
    monkeypatch.setattr(module, "gpu_name", lambda device: "Stand-in sm89")
    module._logger.cache_clear()
    yield compiler, engine
    module._logger.cache_clear()


def test_an_engine_is_built_and_run(libraries: tuple[TorchTensorRT, Engine], tmp_path: Path) -> None:
    compiler, _ = libraries
    path = tmp_path / "generator.plan"
    assert backend.build(small_generator("resnet"), HALF, "fp16", path) == {"layers": 1, "types": {"correlation": 1}}
    assert path.read_bytes() == b"engine"  # TensorRT's own: nothing in it is unpickled
    asked = compiler.asked
    assert asked["inputs"] == [{"shape": tuple(HALF.shape), "dtype": torch.float16}]
    assert {name: asked[name] for name in ("disable_tf32", "require_full_compilation", "min_block_size")} == {
        "disable_tf32": True,
        "require_full_compilation": True,
        "min_block_size": 1,
    }
    assert "enabled_precisions" not in asked  # from 2.13 on it does nothing and says nothing
    assert {tensor.dtype for tensor in compiler.program.state_dict.values()} == {torch.float16}
    image = torch.rand(HALF.shape).half()
    output = backend.load(path, HALF, "fp16")(image)
    torch.testing.assert_close(output, small_generator("resnet").half()(image))


def test_an_engine_in_another_type_is_refused(libraries: tuple[TorchTensorRT, Engine], tmp_path: Path) -> None:
    _, engine = libraries
    engine.convolution = "Float"
    with pytest.raises(BackendError, match="a correlation of the engine is in Float, not in HALF"):
        backend.build(small_generator("resnet"), HALF, "fp16", tmp_path / "generator.plan")


def test_timings_are_kept_in_our_cache(libraries: tuple[TorchTensorRT, Engine], tmp_path: Path) -> None:
    """Torch-TensorRT's are in one file for all users of the machine."""
    compiler, _ = libraries
    (tmp_path / "cache").mkdir()
    for earlier in (b"", b"timing", b"timingtiming"):
        backend.build(small_generator("resnet"), HALF, "fp16", tmp_path / "generator.plan")
        assert compiler.timings == earlier
    assert EngineCache().clear() == (0, 0)
    assert not list((tmp_path / "cache").iterdir())


def test_timings_of_a_build_that_fails_are_not_kept(
    libraries: tuple[TorchTensorRT, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged file would let every build fail."""
    compiler, _ = libraries
    (tmp_path / "cache").mkdir()

    def build() -> None:
        backend.build(small_generator("resnet"), HALF, "fp16", tmp_path / "generator.plan")

    def convert(program: Any, *, timing_cache_path: str, **_: Any) -> bytes:
        if Path(timing_cache_path).is_file():
            raise RuntimeError("the timing cache is damaged")
        return b"engine"

    build()
    monkeypatch.setattr(compiler.dynamo, "convert_exported_program_to_serialized_trt_engine", convert)
    with pytest.raises(BackendError, match="the timing cache is damaged"):
        build()
    build()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_generator_is_exported_for_every_size(
    name: str, libraries: tuple[TorchTensorRT, Engine], tmp_path: Path
) -> None:
    """In multiples of its own: U-Net and a super-resolution of scale 1 take no others."""
    compiler, _ = libraries
    generator, example = small_generator(name), HALF
    backend.build(small_generator(name), example, "fp16", tmp_path / "generator.plan", dynamic=True)
    (asked,) = compiler.asked["inputs"]
    sizes = [asked[bound][2:] for bound in ("min_shape", "opt_shape", "max_shape")]
    assert sizes[1] == tuple(HALF.shape[2:])
    assert all(side % generator.multiple == 0 for size in sizes for side in size)
    assert all(low <= usual <= high for low, usual, high in zip(*sizes, strict=True))
    (image,) = (
        node for node in compiler.program.graph.nodes if node.name in compiler.program.graph_signature.user_inputs
    )
    sides = [str(side) for side in image.meta["val"].shape[2:]]
    assert not any(side.isdigit() for side in sides)
    ranges = {
        str(symbol): (int(found.lower), int(found.upper))
        for symbol, found in compiler.program.range_constraints.items()
    }
    assert [ranges[side] for side in sides] == [(low, high) for low, high in zip(sizes[0], sizes[2], strict=True)]


def test_an_engine_begins_at_the_least_size_that_is_exported(libraries: Any, tmp_path: Path) -> None:
    """Twice the multiple, where a profile would begin at once."""
    unet, example = build(UNetConfig(width=4, downsamplings=6)).eval(), torch.zeros(1, 3, 192, 128, dtype=torch.float16)
    backend.build(unet, example, "fp16", tmp_path / "generator.plan", dynamic=True)
    (asked,) = libraries[0].asked["inputs"]
    assert (asked["min_shape"], asked["opt_shape"]) == ((1, 3, 128, 128), (1, 3, 192, 128))


def test_a_size_that_can_not_be_exported_for_every_size(libraries: Any, tmp_path: Path) -> None:
    unet, example = build(UNetConfig(width=4, downsamplings=6)).eval(), torch.zeros(1, 3, 64, 128, dtype=torch.float16)
    with pytest.raises(BackendError, match="takes sides from 128 pixels on here: give a larger size"):
        backend.build(unet, example, "fp16", tmp_path / "generator.plan", dynamic=True)


def test_what_the_compiler_raises_is_one_line(
    libraries: tuple[TorchTensorRT, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(program: Any, **asked: Any) -> bytes:
        raise RuntimeError("While interpreting\nthe module")

    monkeypatch.setattr(libraries[0].dynamo, "convert_exported_program_to_serialized_trt_engine", fail)
    with pytest.raises(BackendError, match=r"^Torch-TensorRT can't compile the generator: the module$"):
        backend.build(small_generator("resnet"), HALF, "fp16", tmp_path / "generator.plan")


@pytest.mark.parametrize("data", [b"", b"engi", b"<html></html>", b"PK\x03\x04 a zip file with a pickle"])
def test_a_damaged_or_foreign_file_is_an_error(data: bytes, libraries: Any, tmp_path: Path) -> None:
    path = tmp_path / "generator.plan"
    path.write_bytes(data)
    with pytest.raises(BackendError, match=r"^generator\.plan can't be loaded: [^\n]+: build it again$"):
        backend.load(path, HALF, "fp16")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"^can't read .*generator\.plan: No such file"):
        backend.load(tmp_path / "generator.plan", HALF, "fp16")


def test_plugins_that_torch_tensorrt_does_not_use_are_not_built_in(
    libraries: tuple[TorchTensorRT, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows the versions of TensorRT that break them."""
    monkeypatch.setattr(module.tensorrt_plugin, "unavailable", lambda: None)
    libraries[0].ENABLED_FEATURES.qdp_plugin = False
    with pytest.raises(BackendError, match="does not use plugins with this version of TensorRT"):
        backend.build(small_generator("resnet"), HALF, "fp16", tmp_path / "generator.plan", operators=True)


def test_no_backend_lets_a_library_capture() -> None:
    """Captures of other modes than ours end when another thread allocates."""
    for path in Path(module.__file__).parent.glob("*.py"):
        calls = {
            node.func.attr: node.args
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert not {"set_cudagraphs_mode", "enable_cudagraphs", "graph"} & calls.keys(), path.name


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_engines_run_on_the_gpu(name: str, precision: str, tmp_path: Path) -> None:
    device = torch.device("cuda")
    reason = backend.unavailable(device)
    if reason:
        pytest.skip(reason)
    generator, path = small_generator(name).to(device), tmp_path / "generator.plan"
    image = picture(generator, *SIZES[0]).to(device)
    half = image.to(torch.float16 if precision == "fp16" else torch.float32)
    facts = backend.build(small_generator(name).to(device), half, precision, path)
    assert facts["layers"] > 0
    run = backend.load(path, half, precision)
    assert parity_db(generator, image, run(half)) >= PARITY_PSNR_DB[precision]
    with pytest.raises(BackendError, match="build it again"):
        backend.load(path, torch.zeros(1, 3, *SIZES[1], dtype=half.dtype, device=device), precision)
