"""TensorRT for RTX: engines for six GPU generations, built and read back without a GPU; run where there is one."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import BackendError
from engine.generators import AnimeGANConfig, Generator, ResNetConfig, build
from engine.parity import psnr_db
from engine.runners.wrapping import runner_of
from engine.translator import Translator
from tests.engine.cuda_stand_in import CUDA, cuda_on_the_host
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
TARGETS = module.TARGETS
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


# One target for each generator, in turn; the others are slow.
PAIRS = [
    pytest.param(name, target, marks=[] if (number - place) % len(TARGETS) == 0 else pytest.mark.slow)
    for number, name in enumerate(CONFIGS)
    for place, target in enumerate(TARGETS)
]


@pytest.mark.parametrize(("name", "target"), PAIRS)
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
    known = {name.lower() for name in trt.ComputeCapability.__members__ if name[2:].isdigit()}
    assert set(TARGETS) == known
    assert backend.unavailable(torch.device("cpu")) == "needs a CUDA device"
    assert backend.unavailable(torch.device("cuda")) is None
    assert backend.unbuildable(torch.device("cpu")) is None


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorrt_rtx" else find(name))
    expected = "tensorrt_rtx not installed: pip install 'streamgan[tensorrt-rtx]'"
    assert backend.unavailable(torch.device("cuda")) == expected
    assert backend.unbuildable(torch.device("cpu")) == expected


@pytest.mark.parametrize("architecture", [(9, 0), (10, 0), (8, 7)])
def test_gpus_that_it_does_not_know_are_told_before_a_build(architecture: tuple[int, int]) -> None:
    with cuda_on_the_host(architecture):
        reason = backend.unavailable(CUDA)
    found = "sm{}{}".format(*architecture)
    assert reason == f"runs on GPUs of sm75, sm80, sm86, sm89, sm120, sm121, and this one is {found}"


@pytest.mark.parametrize("architecture", [(7, 5), (8, 9), (12, 1)])
def test_gpus_that_it_knows(architecture: tuple[int, int]) -> None:
    with cuda_on_the_host(architecture):
        assert backend.unavailable(CUDA) is None


def test_its_version_is_told_without_loading_it() -> None:
    """Nor is it loaded to say whether it could run: it is 234 MB."""
    code = (
        "import sys, torch; from engine.backends import BACKENDS; backend = BACKENDS['tensorrt-rtx'];"
        "backend.version(torch.device('cpu')); backend.unavailable(torch.device('cuda'));"
        "sys.exit('tensorrt_rtx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Config:
    """An IBuilderConfig that keeps for which GPUs it builds."""

    num_compute_capabilities = 0

    def __init__(self) -> None:
        self.capabilities: dict[int, Any] = {}

    def set_compute_capability(self, capability: Any, index: int) -> None:
        self.capabilities[index] = capability


def test_without_targets_an_engine_is_for_the_gpu_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself the library builds for some GPUs, of which this one may be none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = Config()
    module._set_targets(trt, config, ())
    assert (config.num_compute_capabilities, config.capabilities) == (1, {0: trt.ComputeCapability.CURRENT})


def test_engines_are_built_to_be_captured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise they may allocate memory while they run, which a capture does not survive."""
    seen: list[bool] = []
    set_targets = module._set_targets

    def look(trt: Any, config: Any, targets: Any) -> None:
        seen.append(config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION))
        set_targets(trt, config, targets)

    monkeypatch.setattr(module, "_set_targets", look)
    backend.build(small_generator("srvgg"), HALF, "fp16", tmp_path / "generator.engine", targets=["sm89"])
    assert seen == [True]


def test_a_header_is_read_on_the_device_that_will_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another GPU may be of another kind."""
    path, current = tmp_path / "generator.engine", []

    @contextlib.contextmanager
    def device(asked: torch.device) -> Iterator[None]:
        current.append(asked)
        yield
        current.pop()

    def check(*_: object) -> None:
        assert current == [torch.device("cuda", 1)]
        raise BackendError("looked at")

    path.write_bytes(b"engine")
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(module, "_check_header", check)
    with pytest.raises(BackendError, match="looked at"):
        backend.load(path, SimpleNamespace(device=torch.device("cuda", 1)), "fp16")


def test_what_the_library_has_is_what_is_used() -> None:
    """Names that only a GPU would reach."""
    trt.DynamicShapesKernelSpecializationStrategy.EAGER  # noqa: B018
    trt.CudaGraphStrategy.DISABLED  # noqa: B018
    trt.ExecutionContextAllocationStrategy.USER_MANAGED  # noqa: B018
    for owner, names in {
        trt.ICudaEngine: ("create_runtime_config", "create_execution_context", "get_tensor_profile_shape"),
        trt.IRuntimeConfig: (
            *("create_runtime_cache", "set_runtime_cache", "set_execution_context_allocation_strategy"),
            *("dynamic_shapes_kernel_specialization_strategy", "cuda_graph_strategy"),
        ),
        trt.IExecutionContext: (
            *("set_input_shape", "update_device_memory_size_for_shapes", "set_device_memory", "get_tensor_shape"),
            *("set_tensor_address", "execute_async_v3", "is_stream_capturable"),
        ),
    }.items():
        assert set(names) <= set(dir(owner))
    assert issubclass(trt.Runtime, object)
    assert trt.Runtime(module._logger()).logger is module._logger()


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
def test_frames_under_way_in_graphs_do_not_meet(gpu_engine: Path) -> None:
    generator, device = small_generator("resnet").cuda(), torch.device("cuda")
    runner = runner_of(backend.load(gpu_engine, HALF.cuda(), "fp16"), generator, "fp16", device, takes_batches=False)
    eager = Translator(small_generator("resnet"), backend="eager", precision="fp32", device="cpu")
    frames = [np.random.default_rng(seed).integers(0, 256, (1, *SIZES[0], 3), dtype=np.uint8) for seed in range(6)]
    for first, second in zip(frames[::2], frames[1::2], strict=True):
        results = [runner.submit(first), runner.submit(second)]
        for result, frame in zip(results, (first, second), strict=True):
            assert psnr_db(result(), eager(frame)) >= PARITY_PSNR_DB["fp16"]


@pytest.mark.needs_cuda
def test_what_was_compiled_on_the_gpu_is_kept(gpu_engine: Path) -> None:
    image = torch.rand_like(HALF.cuda())
    backend.load(gpu_engine, image, "fp16")(image)
    again = backend.load(gpu_engine, image, "fp16")
    assert again._kept
    again(image)
    assert len(list(gpu_engine.parent.iterdir())) == 2


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
