"""TensorRT for RTX: engines for four GPU generations, built and read back without a GPU; run where there is one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import BackendError
from engine.generators import AnimeGANConfig, Generator, ResNetConfig, build
from tests.engine.small_generators import CONFIGS, SIZES, parity_db, picture, small_generator
from tests.tolerances import PARITY_PSNR_DB

pytest.importorskip("onnx", reason="onnx is not installed")
trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")

from engine.backends import BACKENDS  # noqa: E402
from engine.backends import tensorrt_rtx as module  # noqa: E402
from engine.backends.onnx_model import count_nodes, onnx_model  # noqa: E402
from engine.backends.tensorrt_layers import check_layers, layers_in_text  # noqa: E402

pytestmark = pytest.mark.time_limit(900)

backend = BACKENDS["tensorrt-rtx"]
TARGETS = ("sm80", "sm86", "sm89", "sm120")
HALF = torch.zeros(1, 3, *SIZES[0], dtype=torch.float16)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")

# What of a network's layers disappears in the engine: constants, and what gives a norm's scale four dimensions.
CONSTANT_LAYERS = ("CONSTANT", "UNSQUEEZE")


def network_of(generator: Generator, example: torch.Tensor) -> tuple[Any, Any]:
    """The network as TensorRT parses it, and what has to live as long."""
    builder = trt.Builder(module._logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, module._logger())
    assert parser.parse(onnx_model(generator, example).SerializeToString())
    return network, (builder, parser)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_is_built_in_half_precision(name: str, target: str, tmp_path: Path) -> None:
    path = tmp_path / "generator.engine"
    nodes = count_nodes(onnx_model(small_generator(name), HALF))
    facts = backend.build(small_generator(name), HALF, "fp16", path, targets=[target])
    types, dtypes = facts["network"]["types"], facts["network"]["dtypes"]
    assert types["CONVOLUTION"] == nodes["Conv"]
    assert types.get("DECONVOLUTION", 0) == nodes.get("ConvTranspose", 0)
    norms = nodes.get("InstanceNormalization", 0) + nodes.get("GroupNormalization", 0)
    assert types.get("NORMALIZATION", 0) == norms
    assert set(dtypes.values()) == {"HALF"}
    assert dtypes.keys() == {"CONVOLUTION", "DECONVOLUTION", "NORMALIZATION"} & types.keys()
    assert sum(facts["engine"]["types"].values()) == facts["engine"]["layers"] > 0
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_is_built_for_any_size_and_several_gpus(name: str, tmp_path: Path) -> None:
    path = tmp_path / "generator.engine"
    facts = backend.build(small_generator(name), HALF, "fp16", path, dynamic=True, targets=TARGETS)
    assert facts["targets"] == list(TARGETS)
    assert set(facts["network"]["dtypes"].values()) == {"HALF"}
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(("precision", "kernels"), [("fp16", 95), ("fp32", 99)])
def test_the_full_generator_has_no_more_layers_than_it_needs(precision: str, kernels: int, tmp_path: Path) -> None:
    example = torch.zeros(1, 3, 256, 256, dtype=torch.float16 if precision == "fp16" else torch.float32)
    generator = build(ResNetConfig()).eval()
    layers_of_generator = sum(count_nodes(onnx_model(generator, example)).values())
    facts = backend.build(generator, example, precision, tmp_path / "generator.engine", targets=["sm89"])
    types = facts["network"]["types"]
    computing = {kind: count for kind, count in types.items() if kind not in CONSTANT_LAYERS}
    assert sum(computing.values()) == layers_of_generator == 91
    assert not {"CAST", "SHAPE", "GATHER", "CONCATENATION"} & types.keys()
    assert facts["network"]["layers"] <= 189
    assert facts["engine"]["layers"] <= kernels
    assert set(facts["network"]["dtypes"].values()) == {"HALF" if precision == "fp16" else "FLOAT"}


def test_a_network_in_another_type_is_refused() -> None:
    network, _owners = network_of(small_generator("resnet"), HALF.float())
    assert module.check_network(network, "FLOAT")["dtypes"]["NORMALIZATION"] == "FLOAT"
    with pytest.raises(BackendError, match=r"'conv2d' \(CONVOLUTION\) would run in FLOAT, not HALF"):
        module.check_network(network, "HALF")


def test_one_layer_in_another_type_is_refused() -> None:
    network, _owners = network_of(small_generator("resnet"), HALF)
    norm = next(
        layer for layer in map(network.get_layer, range(network.num_layers)) if layer.type.name == "NORMALIZATION"
    )
    cast = network.add_cast(norm.get_input(0), trt.DataType.FLOAT)
    norm.set_input(0, cast.get_output(0))
    with pytest.raises(BackendError, match=r"\(NORMALIZATION\) would run in FLOAT"):
        module.check_network(network, "HALF")


def test_an_engine_in_another_type_is_refused(tmp_path: Path) -> None:
    backend.build(small_generator("resnet"), HALF.float(), "fp32", tmp_path / "generator.engine", targets=["sm89"])
    layers = layers_in_text(module._logger().engine_layers)
    assert check_layers(layers, "FLOAT")["layers"] == len(layers)
    with pytest.raises(BackendError, match="of the engine is in Float, not in HALF"):
        check_layers(layers, "HALF")


def test_group_norm_takes_no_more_kernels_than_layers(tmp_path: Path) -> None:
    example = torch.zeros(1, 3, 256, 256, dtype=torch.float16)
    generator = build(AnimeGANConfig()).eval()
    facts = backend.build(generator, example, "fp16", tmp_path / "generator.engine", targets=["sm89"])
    assert facts["engine"]["layers"] <= 101


def test_versions_and_reasons() -> None:
    assert backend.version(torch.device("cpu")) == f"tensorrt_rtx {trt.__version__}"
    assert backend.unavailable(torch.device("cpu")) == "needs a CUDA device"
    assert backend.unavailable(torch.device("cuda")) is None
    assert backend.unbuildable(torch.device("cpu")) is None


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorrt_rtx" else find(name))
    expected = "tensorrt_rtx not installed: pip install 'streamgan[tensorrt-rtx]'"
    assert backend.unavailable(torch.device("cuda")) == expected
    assert backend.unbuildable(torch.device("cpu")) == expected


@without_gpu
def test_no_target_and_no_gpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no GPU here to build for: name targets"):
        backend.build(small_generator("resnet"), HALF, "fp16", tmp_path / "generator.engine")


@pytest.mark.parametrize("target", ["sm90", "89", "none", "current", ""])
def test_an_unknown_target_is_an_error(target: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=f"builds for sm75, sm80, .*, not for {target}"):
        backend.build(small_generator("resnet"), HALF, "fp16", tmp_path / "generator.engine", targets=[target])
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="fp32, fp16 and fast"):
        backend.build(small_generator("resnet"), HALF.bfloat16(), "bf16", tmp_path / "x.engine", targets=["sm89"])


def test_an_operator_that_it_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from engine.backends import onnx_model as onnx_module

    def with_unknown_operator(*arguments: Any, **options: Any) -> Any:
        model = onnx_model(*arguments, **options)
        model.graph.node[0].op_type = "Shimmer"
        return model

    monkeypatch.setattr(onnx_module, "onnx_model", with_unknown_operator)
    with pytest.raises(BackendError, match=r"can't read the generator at Shimmer 'pad': [^\n]+$"):
        backend.build(small_generator("resnet"), HALF, "fp16", tmp_path / "generator.engine", targets=["sm89"])


@pytest.mark.parametrize("data", [b"", b"vtrt", b"PK\x03\x04 a zip file" * 100])
def test_a_foreign_file_is_an_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "generator.engine"
    path.write_bytes(data)
    with pytest.raises(BackendError, match=r"generator\.engine is no engine of this version"):
        backend.load(path, HALF, "fp16")


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"can't read .*none\.engine: No such file"):
        backend.load(tmp_path / "none.engine", HALF, "fp16")


def test_an_engine_does_not_run_on_the_cpu(tmp_path: Path) -> None:
    path = tmp_path / "generator.engine"
    backend.build(small_generator("resnet"), HALF, "fp16", path, targets=["sm89"])
    with pytest.raises(BackendError, match="runs on CUDA devices, not on cpu"):
        backend.load(path, HALF, "fp16")


class EngineOfSizes:
    """The two answers of an engine, which only a GPU can load, that the check of sizes asks for."""

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, 3, -1, -1)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 3, 64, 64), (1, 3, 256, 256), (1, 3, 2160, 3840)]


@pytest.mark.parametrize("size", [(64, 64), (2160, 3840), (100, 100)])
def test_sizes_in_the_profile(size: tuple[int, int]) -> None:
    module._check_shape(EngineOfSizes(), "input", torch.empty(1, 3, *size), Path("generator.engine"))


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 3, 64, 3844), (1, 3, 2164, 64), (2, 3, 64, 64), (1, 1, 64, 64)])
def test_sizes_outside_the_profile(shape: tuple[int, ...]) -> None:
    with pytest.raises(BackendError, match=r"generator\.engine takes inputs of .*: build it again"):
        module._check_shape(EngineOfSizes(), "input", torch.empty(shape), Path("generator.engine"))


# --- on a GPU ---


@pytest.fixture
def gpu_engine(tmp_path: Path) -> Path:
    path = tmp_path / "generator.engine"
    backend.build(small_generator("resnet"), HALF.cuda(), "fp16", path)
    return path


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_engines_run_on_the_gpu(name: str, precision: str, tmp_path: Path) -> None:
    generator, path = small_generator(name).cuda(), tmp_path / "generator.engine"
    dtype = torch.float16 if precision == "fp16" else torch.float32
    backend.build(small_generator(name), HALF.cuda().to(dtype), precision, path, dynamic=True)
    run = backend.load(path, HALF.cuda().to(dtype), precision)
    for size in SIZES:
        image = picture(generator, *size).cuda()
        assert parity_db(generator, image, run(image.to(dtype))) >= PARITY_PSNR_DB[precision]


@pytest.mark.needs_cuda
def test_an_engine_runs_in_a_cuda_graph(gpu_engine: Path) -> None:
    run = backend.load(gpu_engine, HALF.cuda(), "fp16")
    image = torch.rand_like(HALF.cuda())
    expected = run(image).clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run(image)
    output.zero_()
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(output, expected, atol=0, rtol=0)


@pytest.mark.needs_cuda
def test_a_truncated_engine_is_an_error(gpu_engine: Path) -> None:
    data = gpu_engine.read_bytes()
    gpu_engine.write_bytes(data[: len(data) // 2])
    with pytest.raises(BackendError):
        backend.load(gpu_engine, HALF.cuda(), "fp16")


@pytest.mark.needs_cuda
def test_another_size_or_precision_is_an_error(gpu_engine: Path) -> None:
    with pytest.raises(BackendError, match="build it again"):
        backend.load(gpu_engine, torch.zeros(1, 3, 32, 32, dtype=torch.float16, device="cuda"), "fp16")
    with pytest.raises(BackendError, match="not in FLOAT"):
        backend.load(gpu_engine, HALF.float().cuda(), "fp32")
