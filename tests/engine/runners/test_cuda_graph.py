"""Whole frames on a device: results, order, overflow. What needs graphs and streams runs where there is a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.backends import BACKENDS
from engine.choosing.candidates import Candidate
from engine.choosing.trial import Trial
from engine.errors import EngineError
from engine.fused.norms import NormFused, fuse_norms
from engine.generators import Generator, ResNetConfig, SRVGGConfig, build
from engine.parity import psnr_db
from engine.runners import cuda_graph
from engine.runners.base import FrameFacts, NonFiniteError
from engine.runners.cuda_graph import FrameFormat, FrameRunner
from engine.translator import Translator
from tests.engine.small_generators import small_generator
from tests.tolerances import PARITY_PSNR_DB

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]
HALF = {"cpu": torch.bfloat16, "cuda": torch.float16}


def random_frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture
def resnet() -> Generator:
    return small_generator("resnet")


def runner_for(
    generator: Generator,
    shape: tuple[int, int, int],
    device: str,
    dtype: torch.dtype = torch.float32,
    *,
    on_device: bool = False,
) -> FrameRunner:
    """A runner whose tensors are as large as the generator needs them."""
    frame_format = FrameFormat(shape, FrameFacts.of(generator), dtype, on_device)
    norm_fused = fuse_norms(generator).to(device, dtype)
    return FrameRunner(norm_fused, frame_format, torch.device(device))


def eager(generator: Generator, frames: np.ndarray) -> np.ndarray:
    return Translator(generator, backend="eager", precision="fp32", device="cpu")(frames)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 32, 48), (1, 33, 47), (3, 30, 41)])
@pytest.mark.parametrize("scale", [1, 2])
def test_frames_are_those_of_eager(device: str, shape: tuple[int, int, int], scale: int, resnet: Generator) -> None:
    generator = resnet if scale == 1 else build(SRVGGConfig(width=8, convolutions=2, scale=2)).eval()
    runner = runner_for(generator, shape, device)
    for seed in range(3):
        frames = random_frames(*shape, seed)
        translated = runner.submit(frames)()
        assert translated.shape == (shape[0], shape[1] * scale, shape[2] * scale, 3)
        assert psnr_db(translated, eager(generator, frames)) >= PARITY_PSNR_DB["fp32"]


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision(device: str, resnet: Generator) -> None:
    frames = random_frames(1, 64, 64)
    translated = runner_for(resnet, frames.shape[:3], device, HALF[device]).submit(frames)()
    assert psnr_db(translated, eager(resnet, frames)) >= PARITY_PSNR_DB["fp16"]


@pytest.mark.parametrize("device", DEVICES)
def test_frames_under_way_do_not_meet(device: str, resnet: Generator) -> None:
    """As the pipeline does it: the next one is submitted before the last one's result is taken. Inputs are reused."""
    runner = runner_for(resnet, (1, 32, 48), device)
    frames = [random_frames(1, 32, 48, seed) for seed in range(7)]
    expected = [runner.submit(frame)() for frame in frames]
    memory = np.empty_like(frames[0])
    results: list[np.ndarray] = []
    under_way: list[Callable[[], np.ndarray]] = []
    for frame in frames:
        memory[:] = frame
        under_way.append(runner.submit(memory))
        memory[:] = 0
        if len(under_way) == cuda_graph.SLOTS:
            results.append(under_way.pop(0)())
    results += [result() for result in under_way]
    # Frames are noise: another one is at 8 dB. On a GPU an algorithm may add in another order each time.
    assert all(psnr_db(result, one) >= PARITY_PSNR_DB["fp32"] for result, one in zip(results, expected, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_frames_on_the_device_stay_there(device: str, resnet: Generator) -> None:
    """The results of arrays, as tensors; inputs and results of several frames under way are apart."""
    shape = (1, 33, 47)
    by_way_of_arrays, runner = runner_for(resnet, shape, device), runner_for(resnet, shape, device, on_device=True)
    frames = [random_frames(*shape, seed) for seed in range(5)]
    expected = [by_way_of_arrays.submit(frame)() for frame in frames]
    memory = torch.empty((1, 33, 47, 3), dtype=torch.uint8, device=device)
    results: list[torch.Tensor] = []
    under_way: list[Callable[[], torch.Tensor]] = []
    for frame in frames:
        memory.copy_(torch.from_numpy(frame))
        under_way.append(runner.submit(memory))
        memory.zero_()
        if len(under_way) == cuda_graph.SLOTS:
            results.append(under_way.pop(0)())
    results += [result() for result in under_way]
    assert {(result.device.type, result.dtype) for result in results} == {(device, torch.uint8)}
    pairs = zip(results, expected, strict=True)
    assert all(psnr_db(result.cpu().numpy(), one) >= PARITY_PSNR_DB["fp32"] for result, one in pairs)


@pytest.mark.parametrize("device", DEVICES)
def test_values_that_are_not_finite_on_the_device_come_with_their_frame(device: str, resnet: Generator) -> None:
    runner = runner_for(resnet, (1, 32, 32), device, on_device=True)
    frame = random_frames(1, 32, 32)
    plant(runner._generator, torch.inf)
    with pytest.raises(NonFiniteError, match=r"first in .* \(Conv2d\)") as caught:
        runner.submit(torch.from_numpy(frame).to(device))()
    assert np.array_equal(caught.value.frames, frame)


def plant(norm_fused: NormFused, value: float) -> str:
    """Puts a value into the weights of a convolution in the middle; returns its name."""
    name, layer = [(n, m) for n, m in norm_fused.body.named_modules() if isinstance(m, nn.Conv2d)][3]
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = value
    return name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_name_their_layer(device: str, value: float, resnet: Generator) -> None:
    runner = runner_for(resnet, (1, 32, 32), device)
    frames = random_frames(1, 32, 32)
    runner.submit(frames)()
    name = plant(runner._generator, value)
    with pytest.raises(NonFiniteError, match=rf"NaN or infinity, first in {name} \(Conv2d\): .* float32"):
        runner.submit(frames)()


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[NormFused]:
    """Lets the CPU run what a GPU does, step by step; what was compiled is in the list."""
    compiled: list[NormFused] = []

    def compile_generator(generator: Generator, example: Tensor, precision: str, parity_db: object) -> NormFused:
        compiled.append(fuse_norms(generator).to(example.dtype))
        return compiled[-1]

    monkeypatch.setattr(BACKENDS["fused"], "compile", compile_generator)
    return compiled


def test_the_translator_takes_whole_frames(as_on_a_gpu: list[NormFused], resnet: Generator) -> None:
    translator = Translator(resnet, backend="fused", precision="fp32", device="cpu")
    frames = random_frames(5, 33, 50)
    expected = eager(resnet, frames)
    results = [translator.submit(frame) for frame in frames[:2]]
    assert [psnr_db(result(), one) >= 60 for result, one in zip(results, expected, strict=False)] == [True, True]
    assert psnr_db(translator(frames), expected) >= PARITY_PSNR_DB["fp32"]
    other = random_frames(1, 20, 24)[0]
    assert psnr_db(translator(other), eager(resnet, other)) >= PARITY_PSNR_DB["fp32"]
    assert translator.engine is not None
    assert (translator.engine.backend, len(as_on_a_gpu)) == ("fused", 2)


def test_a_frame_that_overflows_is_translated_by_the_next_best_engine(
    as_on_a_gpu: list[NormFused], resnet: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    translator = Translator(resnet, backend="fused", precision="fp32", device="cpu")
    frames = random_frames(4, 32, 32)
    expected = eager(resnet, frames)
    assert psnr_db(translator(frames[0]), expected[0]) >= PARITY_PSNR_DB["fp32"]
    assert translator.engine is not None
    assert translator.engine.backend == "fused"
    name = plant(as_on_a_gpu[0], torch.inf)
    results = [translator.submit(frame) for frame in frames[1:3]]  # both under way when the first one tells
    assert np.array_equal(results[0](), expected[1])
    assert np.array_equal(results[1](), expected[2])
    assert np.array_equal(translator(frames[3]), expected[3])
    assert translator.engine.backend == "eager"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"fused fp32 is not used any more: its output holds NaN or infinity, first in {name} (Conv2d): "
        "the values are too large for float32"
    ]


def test_the_translator_keeps_frames_where_they_are(as_on_a_gpu: list[NormFused], resnet: Generator) -> None:
    """Arrays and tensors in turn, one and many, under way together; each comes out as it went in."""
    translator = Translator(resnet, backend="fused", precision="fp32", device="cpu")
    frames = random_frames(4, 33, 50)
    expected = eager(resnet, frames)
    tensors = torch.from_numpy(frames)
    first, second = translator.submit(tensors[0]), translator.submit(frames[1])
    for result, one, kind in ((first(), 0, torch.Tensor), (second(), 1, np.ndarray)):
        assert isinstance(result, kind)
        assert psnr_db(np.asarray(result), expected[one]) >= PARITY_PSNR_DB["fp32"]
    # What an engine runs in is kept for one kind of frames of a size: the last one.
    assert [on_device for _, on_device in translator.engine.runner._graphs] == [False]
    translator(tensors[2])
    assert [on_device for _, on_device in translator.engine.runner._graphs] == [True]
    translated = translator(tensors)
    assert isinstance(translated, torch.Tensor)
    assert psnr_db(translated.numpy(), expected) >= PARITY_PSNR_DB["fp32"]
    with pytest.raises(EngineError, match=r"torch.float32 .* uint8 \[H, W, 3\]"):
        translator(tensors.float())


def test_what_no_runner_takes_goes_by_way_of_an_array(resnet: Generator) -> None:
    translator = Translator(resnet, backend="eager", precision="bf16", device="cpu")
    frames = random_frames(2, 32, 32)
    translated = translator(torch.from_numpy(frames))
    assert isinstance(translated, torch.Tensor)
    assert np.array_equal(translated.numpy(), translator(frames))
    assert translator.choose_batch(torch.from_numpy(frames[0])) in (1, 4)


def test_nearly_uniform_frames_on_the_device(as_on_a_gpu: list[NormFused], resnet: Generator) -> None:
    translator = Translator(resnet, backend="fused", precision="bf16", device="cpu")
    frame, grey = random_frames(1, 32, 32)[0], np.full((32, 32, 3), 90, np.uint8)
    translator(torch.from_numpy(frame))
    assert (str(translator.engine), translator.uniform_frames) == ("fused bf16", 0)
    translated = translator(torch.from_numpy(grey))
    assert translator.uniform_frames == 1
    assert np.array_equal(translated.numpy(), eager(resnet, grey))


def test_a_frame_on_the_device_that_overflows(as_on_a_gpu: list[NormFused], resnet: Generator) -> None:
    translator = Translator(resnet, backend="fused", precision="fp32", device="cpu")
    frames = random_frames(3, 32, 32)
    expected = eager(resnet, frames)
    translator(torch.from_numpy(frames[0]))
    plant(as_on_a_gpu[0], torch.inf)
    results = [translator.submit(torch.from_numpy(frame)) for frame in frames[1:]]
    for result, one in zip(results, expected[1:], strict=True):
        translated = result()
        assert isinstance(translated, torch.Tensor)
        assert np.array_equal(translated.numpy(), one)
    assert str(translator.engine) == "eager fp32"


@pytest.fixture
def overflows_when_white() -> Generator:
    """The first layer's sums end beyond 65504 where a frame is white, and far below it where it is grey."""
    torch.manual_seed(0)
    generator = build(ResNetConfig(width=8, blocks=1)).eval()
    first = next(layer for layer in generator.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        first.weight.abs_()
        first.weight.mul_(1e5 / first.weight.sum(dim=(1, 2, 3), keepdim=True))
    return generator


@pytest.mark.parametrize("count", [1, 2])
def test_float16_that_overflows_is_noticed_without_a_runner_too(
    overflows_when_white: Generator, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """Here PyTorch itself, in real float16."""
    grey = np.random.default_rng(0).integers(108, 148, (1, 32, 48, 3), dtype=np.uint8)
    grey[:, :, ::8] = 70
    white = np.repeat(grey, count, axis=0)
    white[:, 4:28, 10:38] = 255
    translator = Translator(overflows_when_white, backend="eager", precision="fp16", device="cpu")
    translator(grey)
    assert str(translator.engine) == "eager fp16"
    caplog.clear()
    translated = translator(white)
    assert str(translator.engine) == "eager fp32"
    np.testing.assert_array_equal(translated, eager(overflows_when_white, white))
    assert caplog.messages == [
        "eager fp16 is not used any more: its output holds NaN or infinity: the values are too large for float16"
    ]
    translator(grey)
    assert str(translator.engine) == "eager fp32"


def test_float16_that_overflows_ends_a_trial(overflows_when_white: Generator) -> None:
    grey = np.random.default_rng(0).integers(108, 148, (32, 48, 3), dtype=np.uint8)
    grey[:, ::8] = 70
    white = grey.copy()
    white[4:28, 10:38] = 255
    translator = Translator(overflows_when_white, backend="fused", precision="fp32", device="cpu")
    translator(grey)
    current = translator.engine
    rival = translator._chooser()._attempts.engine(Candidate("eager", "fp16"), grey[None], translator(grey)[None])
    assert current is not None
    assert rival is not None
    translator._trials[32, 48] = Trial(current, rival)
    for _ in range(4):  # the second is the rival's
        assert psnr_db(translator(white), eager(overflows_when_white, white[None])[0]) >= PARITY_PSNR_DB["fp32"]
    assert not translator._trials
    assert translator.engine is current


def test_errors_of_a_result_are_one_line(as_on_a_gpu: list[NormFused], resnet: Generator) -> None:
    translator = Translator(resnet, backend="fused", precision="fp32", device="cpu")
    frame = random_frames(1, 32, 32)[0]
    translator(frame)
    with pytest.raises(EngineError, match=r"uint8 \[H, W, 3\]"):
        translator.submit(frame[..., :2])


def test_generators_without_norms_run_too() -> None:
    generator = build(SRVGGConfig(width=8, convolutions=1, scale=2)).eval()
    frames = random_frames(1, 10, 12)
    translated = runner_for(generator, (1, 10, 12), "cpu").submit(frames)()
    assert psnr_db(translated, eager(generator, frames)) >= PARITY_PSNR_DB["fp32"]
