"""A loaded engine: on the host, with a stand-in for the library, in the runner that captures CUDA graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.backends.base import Capturable
from engine.backends.tensorrt_engine import LoadedEngine, deserialized, new_logger, read_engine
from engine.backends.tensorrt_rtx import RTXEngine
from engine.errors import BackendError
from engine.generators import Generator, SRVGGConfig, build
from engine.parity import psnr_db
from engine.runners.base import FrameFacts, NonFiniteError
from engine.runners.cuda_graph import SLOTS, CudaGraphRunner, FrameFormat, FrameRunner
from engine.runners.wrapping import runner_of
from engine.translator import Translator
from tests.engine.cuda_stand_in import CUDA, cuda_on_the_host
from tests.engine.small_generators import SIZES, small_generator
from tests.engine.tensorrt_stand_in import (
    CudaGraphStrategy,
    DynamicShapesKernelSpecializationStrategy,
    Engine,
    tensorrt_module,
)
from tests.tolerances import PARITY_PSNR_DB

CPU = torch.device("cpu")
SHAPE = (1, 3, *SIZES[0])
PATH = Path("generator.plan")


def engine_of(generator: Generator, shape: tuple[int, ...] = SHAPE) -> Engine:
    return Engine(generator, shape, scale=generator.scale)


def loaded(engine: Engine, example: Tensor | None = None) -> LoadedEngine:
    trt = tensorrt_module(file=engine)
    return LoadedEngine(
        trt, trt.Runtime(new_logger(trt)), engine, torch.zeros(SHAPE) if example is None else example, PATH
    )


def random_frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZES[0], 3), dtype=np.uint8)


def test_any_layout_comes_in_and_results_are_kept() -> None:
    generator = small_generator("resnet")
    run = loaded(engine_of(generator))
    images = [torch.rand(SHAPE).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    outputs = [run(image) for image in images]
    for image, output in zip(images, outputs, strict=True):
        torch.testing.assert_close(output, generator(image))


def test_memory_is_that_of_the_size_that_runs() -> None:
    engine = engine_of(build(SRVGGConfig(width=8, convolutions=1, scale=2)).eval(), (1, 3, -1, -1))
    run = loaded(engine)
    for size in ((64, 64), (128, 96), (64, 64)):
        assert run(torch.rand(1, 3, *size)).shape == (1, 3, 2 * size[0], 2 * size[1])
    with pytest.raises(BackendError, match=r"generator\.plan takes inputs of .*64 to 2160.*not of \[1, 3, 32, 64\]"):
        run(torch.rand(1, 3, 32, 64))


@pytest.mark.parametrize("size", [(64, 64), (2160, 3840), (100, 100)])
def test_sizes_in_the_profile(size: tuple[int, int]) -> None:
    loaded(engine_of(small_generator("resnet"), (1, 3, -1, -1))).require_shape(torch.empty(1, 3, *size))


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 3, 64, 3844), (1, 3, 2164, 64), (2, 3, 64, 64), (1, 1, 64, 64)])
def test_sizes_outside_the_profile(shape: tuple[int, ...]) -> None:
    run = loaded(engine_of(small_generator("resnet"), (1, 3, -1, -1)))
    with pytest.raises(BackendError, match=r"generator\.plan takes inputs of .*: build it again"):
        run.require_shape(torch.empty(shape))


def test_frames_are_those_of_eager_and_do_not_meet() -> None:
    """Two are under way; each slot has a context with memory of its own."""
    generator = small_generator("resnet")
    engine = engine_of(generator)
    runner = runner_of(loaded(engine), generator, "fp32", CPU, takes_batches=False)
    assert isinstance(runner, CudaGraphRunner)
    eager = Translator(generator, backend="eager", precision="fp32", device="cpu")
    frames = [random_frames(1, seed) for seed in range(4)]
    under_way = [runner.submit(frame) for frame in frames[:SLOTS]]
    results = [result() for result in under_way] + [runner.submit(frame)() for frame in frames[SLOTS:]]
    for result, frame in zip(results, frames, strict=True):  # frames are noise: another one is at 8 dB
        assert psnr_db(result, eager(frame)) >= PARITY_PSNR_DB["fp32"]
    slots = engine.contexts[1:]  # the first one is for calls without a runner
    assert len(slots) == SLOTS
    assert len({context.memory for context in slots}) == SLOTS


def test_engines_and_fused_generators_are_captured_alike() -> None:
    from engine.fused.norms import fuse_norms

    assert isinstance(loaded(engine_of(small_generator("resnet"))), Capturable)
    assert isinstance(fuse_norms(small_generator("resnet")), Capturable)
    assert not isinstance(small_generator("resnet"), Capturable)


@pytest.mark.parametrize("kind", ["engine", "fused"])
def test_captures_are_of_their_thread_alone_and_on_their_own_streams(kind: str) -> None:
    """A capture in another mode ends when a decoder's thread allocates."""
    from engine.fused.norms import fuse_norms

    generator = small_generator("resnet")
    with cuda_on_the_host() as captures:
        engine = engine_of(generator)
        engine.capturing = lambda: captures.running
        run = loaded(engine, torch.zeros(SHAPE, device=CUDA)) if kind == "engine" else fuse_norms(generator)
        frame_format = FrameFormat((1, *SIZES[0]), FrameFacts.of(generator), torch.float32)
        FrameRunner(run, frame_format, CUDA)
    assert captures.modes == ["thread_local"] * SLOTS
    assert len(set(map(id, captures.streams))) == SLOTS
    for context, stream in zip(engine.contexts[1:], captures.streams, strict=False):
        assert set(context.streams) == {stream.cuda_stream}
        assert len(context.streams) > 1  # it has run before it is captured


def test_calls_without_a_runner_are_not_on_the_default_stream() -> None:
    """There the library waits for the whole device."""
    with cuda_on_the_host():
        engine = engine_of(small_generator("resnet"))
        run = loaded(engine, torch.zeros(SHAPE, device=CUDA))
        run(torch.rand(SHAPE))
        assert torch.cuda.current_stream().cuda_stream not in engine.contexts[0].streams


def test_an_engine_that_overflows_is_an_error() -> None:
    generator = small_generator("resnet")
    engine = Engine(lambda image: generator(image) * torch.inf, SHAPE)
    runner = runner_of(loaded(engine), generator, "fp32", CPU, takes_batches=False)
    with pytest.raises(NonFiniteError, match=r"^its output holds NaN or infinity: the values are too large"):
        runner.submit(random_frames(1))()


def test_no_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(small_generator("resnet"))
    monkeypatch.setattr(engine, "create_execution_context", lambda strategy: None)
    with pytest.raises(BackendError, match=r"generator\.plan can't be run: it gives no reason"):
        loaded(engine)


def test_an_engine_with_other_inputs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(small_generator("resnet"))
    monkeypatch.setattr(engine, "num_io_tensors", 1)
    with pytest.raises(BackendError, match="not one input and one output"):
        loaded(engine)


def test_an_engine_of_another_version_says_what_the_library_says() -> None:
    trt = tensorrt_module()
    with pytest.raises(
        BackendError, match=r"^generator\.plan can't be loaded: Serialization .* failed: build it again$"
    ):
        deserialized(trt.Runtime(new_logger(trt)), b"old", PATH)
    with pytest.raises(BackendError, match=r"can't read .*none\.plan: No such file"):
        read_engine(Path("none.plan"))


# --- TensorRT for RTX: kernels that are compiled on the GPU ---


def rtx(engine: Engine, path: Path, version: str = "1.7") -> RTXEngine:
    trt = tensorrt_module(file=engine)
    return RTXEngine(trt, trt.Runtime(new_logger(trt)), engine, torch.zeros(SHAPE), path, version)


def test_kernels_are_compiled_for_graphs_of_ours(tmp_path: Path) -> None:
    """Not lazily, after the capture, and not in a graph of the library's inside of ours."""
    engine = engine_of(small_generator("resnet"))
    run = rtx(engine, tmp_path / "x.engine")
    eager = DynamicShapesKernelSpecializationStrategy.EAGER
    assert run._config.dynamic_shapes_kernel_specialization_strategy is eager
    assert run._config.cuda_graph_strategy is CudaGraphStrategy.DISABLED
    assert run._config.cache is run._kernels
    assert [context.config for context in engine.contexts] == [run._config]
    run.new_slot()
    assert [context.config for context in engine.contexts] == [run._config] * 2


def test_kernels_are_kept_beside_the_engine(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    first = rtx(engine_of(small_generator("resnet")), path)
    assert first._kept == b""
    first(torch.rand(SHAPE))
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("x.engine.")
    assert rtx(engine_of(small_generator("resnet")), path)._kernels.found == b"kernels"
    assert rtx(engine_of(small_generator("resnet")), path, "1.8")._kernels.found == b""
    kept.write_bytes(kept.read_bytes()[:-1])
    assert rtx(engine_of(small_generator("resnet")), path)._kernels.found == b""


def test_kernels_that_can_not_be_kept_are_no_error(tmp_path: Path) -> None:
    rtx(engine_of(small_generator("resnet")), tmp_path / "none" / "x.engine")(torch.rand(SHAPE))


def test_an_engine_that_can_not_be_captured_is_an_error(tmp_path: Path) -> None:
    engine = engine_of(small_generator("resnet"))
    engine.capturable = False
    with pytest.raises(BackendError, match=r"x\.engine can't be captured in a CUDA graph: build it again"):
        rtx(engine, tmp_path / "x.engine")(torch.rand(SHAPE))
