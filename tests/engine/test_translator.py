"""The way of a frame: sizes, values, batches, parity, fallbacks."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine import save_generator
from engine.backends import BACKENDS
from engine.checkpoint import load_generator
from engine.device import has_bf16_arithmetic
from engine.errors import BackendError, EngineError, FrameSizeError
from engine.generators import build
from engine.generators.base import Generator, GeneratorConfig
from engine.generators.resnet import ResNetConfig
from engine.generators.srresnet import SRResNetConfig
from engine.generators.unet import UNetConfig
from engine.parity import PARITY_DB, is_nearly_uniform, psnr_db
from engine.precision import dtype_of
from engine.runners import tensors
from engine.samples import SAMPLE
from engine.translator import Translator
from tests.engine.small_generators import unfused_generator
from tests.tolerances import PARITY_PSNR_DB


@pytest.fixture(scope="module")
def resnet() -> Generator:
    torch.manual_seed(0)
    return build(ResNetConfig(width=8, blocks=2)).eval()


def random_frame(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def sample_frame() -> np.ndarray:
    read, frame = cv2.VideoCapture(str(SAMPLE)).read()
    assert read
    return frame


def expected_frame(generator: Generator, frame: np.ndarray) -> np.ndarray:
    """The definition, written as users write it."""
    image = torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        output = generator(image)[0]
    return ((output + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()[..., ::-1]


def test_equals_the_plain_expression_in_float32(resnet: Generator) -> None:
    frame = random_frame(64, 96)
    translated = Translator(resnet, precision="fp32", backend="eager")(frame)
    assert psnr_db(translated, expected_frame(resnet, frame)) >= PARITY_PSNR_DB["fp32"]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3), (7, 7), (31, 33), (64, 64), (65, 130)])
@pytest.mark.parametrize("family", ["resnet", "unet"])
def test_any_frame_size_keeps_its_size(family: str, size: tuple[int, int]) -> None:
    config = ResNetConfig(width=4, blocks=1) if family == "resnet" else UNetConfig(width=4, downsamplings=5)
    translated = Translator(build(config))(random_frame(*size))
    assert translated.shape == (*size, 3)
    assert translated.dtype == np.uint8


def test_padding_is_a_reflection_cropped_away(resnet: Generator) -> None:
    frame = random_frame(61, 66)
    padded = np.pad(frame, ((0, 3), (0, 2), (0, 0)), mode="reflect")
    translated = Translator(resnet, precision="fp32")(frame)
    assert psnr_db(translated, expected_frame(resnet, padded)[:61, :66]) >= PARITY_PSNR_DB["fp32"]


def test_super_resolution_scales_the_frame() -> None:
    generator = build(SRResNetConfig(width=8, blocks=1, scale=4))
    assert Translator(generator)(random_frame(9, 13)).shape == (36, 52, 3)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_batch_equals_its_frames(resnet: Generator, precision: str) -> None:
    batch = random_frame(3, 32, 40)
    translator = Translator(resnet, precision=precision)
    together = translator(batch)
    one_by_one = np.stack([translator(frame) for frame in batch])
    assert together.shape == (3, 32, 40, 3)
    assert psnr_db(together, one_by_one) >= PARITY_PSNR_DB["fp32"]


def test_picture_statistics_do_not_mix_the_frames_of_a_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "unet.safetensors"
    save_generator(build(UNetConfig(width=4, downsamplings=5, norm="batch", bias=False)), path)
    translator = Translator(path, precision="fp32", norm_mode="batch")
    batch = np.stack([random_frame(32, 32), random_frame(32, 32) // 4])
    assert psnr_db(translator(batch)[1], translator(batch[1])) >= PARITY_PSNR_DB["fp32"]
    assert psnr_db(translator(batch)[1], Translator(path, precision="fp32")(batch[1])) < PARITY_PSNR_DB["fp32"]


def test_auto_takes_a_precision_the_processor_has(resnet: Generator) -> None:
    translator = Translator(resnet, device="cpu")
    engine = translator.engine_for(random_frame(64, 64))
    assert engine.precision in (("bf16", "fp32") if has_bf16_arithmetic() else ("fp32",))
    assert engine.parity_db >= PARITY_DB[engine.precision]


@pytest.mark.usefixtures("auto_is_one_precision")
def test_nearly_uniform_frames_run_in_float32_and_prove_nothing(resnet: Generator) -> None:
    if not has_bf16_arithmetic():
        pytest.skip("this processor runs float32 anyway")
    black, picture = np.zeros((64, 64, 3), np.uint8), random_frame(64, 64)
    black[10:12] = 1
    translator = Translator(resnet, device="cpu")
    exact = Translator(resnet, backend="eager", precision="fp32", device="cpu")
    assert np.array_equal(translator(black), exact(black))
    assert translator.engine_for(black).is_stand_in
    assert translator.engine_for(picture).precision == "bf16"
    assert np.array_equal(translator(black), exact(black))
    mixed = np.stack([picture, black])
    assert np.array_equal(translator(mixed), exact(mixed))
    assert translator.uniform_frames == 3
    assert exact.uniform_frames == 0


def test_half_precision_is_no_use_on_a_nearly_uniform_frame() -> None:
    """What the rule is for: the same generator and clip, faded to black."""
    if not has_bf16_arithmetic():
        pytest.skip("this processor runs float32 anyway")
    generator = load_generator("vermilion")
    frame = cv2.resize(sample_frame(), (320, 180))
    translator, exact = (
        Translator(generator, backend="eager", precision=name, device="cpu") for name in ("bf16", "fp32")
    )
    engine = translator.engine_for(frame)
    faded = (frame // 64)[None]
    assert psnr_db(engine.runner.submit(faded)(), exact(faded)) < PARITY_DB["bf16"]
    assert np.array_equal(translator(faded), exact(faded))
    assert psnr_db(translator(frame), exact(frame)) >= PARITY_DB["bf16"]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (64, 64), (200, 300), (1080, 1920)])
def test_uniformity_is_per_channel_and_at_any_size(size: tuple[int, int]) -> None:
    blue = np.zeros((*size, 3), np.uint8)
    blue[..., 0] = 255
    assert is_nearly_uniform(blue)
    if min(size) > 1:
        assert not is_nearly_uniform(random_frame(*size))


@dataclasses.dataclass(frozen=True)
class SteepConfig(GeneratorConfig):
    family = "steep"


class Steep(Generator):
    """A generator that half precision can't run: small differences decide between black and white."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SteepConfig()
        self.gain = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sin(image * self.gain * 300.0)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fast"])
def test_a_precision_that_breaks_parity_is_dropped_with_its_figure(
    precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    if dtype_of(precision if precision != "auto" else "fast", torch.device("cpu")) == torch.float32:
        pytest.skip("this processor runs half precision in float32, which always has parity")
    frame = random_frame(16, 16)
    translator = Translator(Steep(), precision=precision, device="cpu")
    with caplog.at_level(logging.WARNING, "streamgan"):
        translated = translator(frame)
    assert translator.engine_for(frame).precision == "fp32"
    assert "dB" in caplog.text
    assert "is not used" in caplog.text
    assert np.array_equal(translated, Translator(Steep(), precision="fp32")(frame))


def test_a_backend_that_fails_is_dropped_and_the_next_runs(
    resnet: Generator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BackendError("the compiler crashed")

    monkeypatch.setattr(BACKENDS["inductor"], "compile", fail)
    translator = Translator(resnet, backend="inductor")
    with caplog.at_level(logging.WARNING, "streamgan"):
        translator(random_frame(32, 32))
    assert translator.engine_for(random_frame(32, 32)).backend == "fused"
    assert "inductor bf16 is not used: the compiler crashed" in caplog.text.replace("fp32", "bf16")


def test_inductor_runs_with_parity(resnet: Generator) -> None:
    reason = BACKENDS["inductor"].unavailable(torch.device("cpu"))
    if reason:
        pytest.skip(reason)
    frame = random_frame(30, 32)
    translator = Translator(resnet, backend="inductor", precision="fp32", device="cpu")
    translated = translator(np.stack([frame, frame]))
    engine = translator.engine_for(frame)
    assert engine.backend == "inductor"
    assert engine.parity_db >= PARITY_PSNR_DB["fp32"]
    assert psnr_db(translated[1], Translator(resnet, precision="fp32")(frame)) >= PARITY_PSNR_DB["fp32"]


def test_auto_takes_the_fused_generator_where_there_is_one(
    resnet: Generator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = random_frame(32, 48)
    translator = Translator(resnet, device="cpu", precision="fp32")
    with caplog.at_level(logging.WARNING, "streamgan"):
        translator(frame)
        assert translator.engine_for(frame).backend == "fused"
        unknown = unfused_generator()
        assert Translator(unknown, device="cpu").engine_for(frame).backend == "eager"
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "streamgan"):
        Translator(unknown, device="cpu", backend="fused", precision="fp32")(frame)
    assert "does not know Conv2d" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "inducter"}, "did you mean 'inductor'"),
        ({"precision": "fp8"}, "accepted are auto, fp32"),
        ({"device": "gpu"}, "accepted are auto, cpu"),
        ({"device": "cuda:99"}, "is not there"),
    ],
)
def test_unknown_names_say_what_is_accepted(resnet: Generator, options: dict[str, str], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        Translator(resnet, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 10**6}, r"1000000 threads can't be used on \d+ cores: accepted are 1 to"),
        ({"threads": 0}, "0 threads can't be used"),
        ({"frames_at_once": 0}, "at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        Translator("vermilion", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("generator", [None, torch.nn.Linear(3, 3)])
def test_what_is_no_generator_is_refused(generator: object) -> None:
    with pytest.raises(BackendError, match="a style's name, a checkpoint file"):
        Translator(generator)  # type: ignore[arg-type]


def test_a_picture_that_could_not_be_read_is_refused(resnet: Generator) -> None:
    with pytest.raises(EngineError, match="frames are NoneType"):
        Translator(resnet)(cv2.imread("missing.png"))


def test_a_precision_that_is_asked_for_is_not_replaced_silently(
    resnet: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    translator = Translator(resnet, precision="fp16", device="cpu")
    with caplog.at_level(logging.WARNING, "streamgan"):
        translator(random_frame(32, 32))
    assert str(translator.engine) == "fused fp32"
    assert "fused fp16 is not used: the fused backend runs in fp32, bf16 and fast, not in fp16" in caplog.messages


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_frame_is_refused(resnet: Generator, frame: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"uint8 \[H, W, 3\]"):
        Translator(resnet)(frame)


def test_generators_of_other_channel_counts_are_refused() -> None:
    with pytest.raises(BackendError, match="3 channels"):
        Translator(build(ResNetConfig(width=4, blocks=1, in_channels=1)))


def test_a_frame_beyond_the_memory_is_refused_before_it_is_tried(resnet: Generator) -> None:
    enormous = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (131072, 131072, 3))
    with pytest.raises(FrameSizeError, match=r"131072x131072 needs about .* GiB"):
        Translator(resnet)(enormous)


def test_running_out_of_memory_is_one_line(resnet: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    translator = Translator(resnet, backend="eager", precision="fp32")
    frame = random_frame(16, 16)
    translator(frame)

    def exhaust(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(tensors.ops, "frames_to_tensor", exhaust)
    with pytest.raises(FrameSizeError, match="use smaller frames"):
        translator(frame)


@pytest.mark.parametrize(("before", "is_frozen"), [("", True), ("import torch", False)])
def test_garbage_collection_leaves_out_what_the_first_import_of_torch_made(before: str, is_frozen: bool) -> None:
    """It would look at all of that several times in a first run."""
    code = (
        f"import gc; {before}\nimport engine\nengine.Translator('vermilion').device\nprint(gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [str(is_frozen)], done.stderr


@pytest.mark.needs_cuda
def test_cuda_runs_half_precision_with_parity(resnet: Generator) -> None:
    frame = random_frame(65, 130)
    translator = Translator(resnet, device="cuda")
    translated = translator(frame)
    assert translator.engine_for(frame).precision == "fp16"
    assert psnr_db(translated, Translator(resnet, precision="fp32", device="cuda")(frame)) >= PARITY_PSNR_DB["fp16"]
