"""Packed generators, which need no torch, against the fused operator and the translator."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from engine import Translator, ops
from engine.errors import BackendError
from engine.fused.lowering import fuse, has_matrix_unit
from engine.fused.packing import PackedWeights
from engine.fused.program import FusedGenerator
from engine.generators import Generator
from engine.runners.base import FrameFacts
from engine.runners.packed import PackedRunner, read_weights, write_weights
from engine.samples import SAMPLE
from tests.engine.small_generators import CONFIGS, small_generator
from tests.ops.cases import CACHES, ISAS, forced_caches, forced_isa, threads
from tests.tolerances import FUSED_THREADS_RTOL


def packed(generator: Generator, fused: FusedGenerator, folder: Path, *, count: int = 2) -> PackedRunner:
    """By way of the disk, as later runs use it."""
    write_weights(fused.weights.numpy(), folder / "weights.bin")
    facts = FrameFacts.from_dict(json.loads(json.dumps(dataclasses.asdict(FrameFacts.of(generator)))))
    return PackedRunner(read_weights(folder / "weights.bin"), fused.program.tolist(), facts, threads=count)


def frame_of(width: int, height: int) -> np.ndarray:
    read, frame = cv2.VideoCapture(str(SAMPLE)).read()
    assert read
    return cv2.resize(frame, (width, height))


def image_for(generator: Generator, height: int = 64, width: int = 96) -> Tensor:
    low, high = generator.input_range
    return torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0)) * (high - low) + low


def as_array(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fast"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gives_the_bits_of_the_operator(name: str, precision: str, isa: str, tmp_path: Path) -> None:
    """With as many threads, since sums are split by them."""
    generator = small_generator(name)
    fused, image = fuse(generator, precision), image_for(generator)
    with forced_isa(isa), threads(2):
        expected = as_array(fused(image))
        actual = packed(generator, fused, tmp_path)(as_array(image))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("caches", CACHES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["resnet", "unet", "transformer_net", "rrdbnet"])
def test_gives_the_bits_of_the_operator_with_other_caches(
    name: str, precision: str, caches: str, tmp_path: Path
) -> None:
    generator = small_generator(name)
    fused, image = fuse(generator, precision), image_for(generator, 160, 192)
    with forced_caches(CACHES[caches]), threads(2):
        expected = as_array(fused(image))
        actual = packed(generator, fused, tmp_path)(as_array(image))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("size", [(96, 64), (61, 47), (33, 90), (1, 1), (200, 9)])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name", ["resnet", "unet", "transformer_net", "animegan", "srvgg", "srresnet-x3", "rrdbnet-x1"]
)
def test_translates_as_the_operators(
    name: str, precision: str, isa: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """The first layer's reading of bytes and the last one's writing, padding and cropping: byte for byte."""
    generator, frame = small_generator(name), frame_of(*size)
    fused = fuse(generator, precision)
    run = packed(generator, fused, tmp_path)
    with forced_isa(isa), threads(2):
        image = ops.frames_to_tensor(
            torch.from_numpy(frame)[None],
            value_range=generator.input_range,
            size=run.facts.padded_size(*frame.shape[:2]),
            dtype=torch.float32,
        )
        height, width = (side * generator.scale for side in frame.shape[:2])
        expected = ops.tensor_to_frames(fused(image), value_range=generator.output_range, size=(height, width))
        actual = run.translate(frame)
    np.testing.assert_array_equal(actual, expected[0].numpy())


@pytest.mark.parametrize("name", ["unet", "rrdbnet", "srresnet"])
def test_translates_as_the_translator(name: str, tmp_path: Path) -> None:
    generator, frame = small_generator(name), frame_of(61, 47)
    translator = Translator(generator, backend="fused", precision="fp32", device="cpu")
    with threads(2):
        expected = translator(frame)
    assert str(translator.engine) == "fused fp32"
    fused = fuse(generator, "fp32", matrix=has_matrix_unit())
    np.testing.assert_array_equal(packed(generator, fused, tmp_path).translate(frame), expected)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_threads(count: int, tmp_path: Path) -> None:
    """More than there is work for among them; the result depends on it by rounding only."""
    generator = small_generator("resnet")
    fused, image = fuse(generator, "fp32"), image_for(generator, 20, 12)
    expected = as_array(fused(image))
    run = packed(generator, fused, tmp_path, count=count)
    for _ in range(20):
        actual = run(as_array(image))
        assert np.abs(actual - expected).max() <= FUSED_THREADS_RTOL * np.abs(expected).max()


def test_from_several_threads_at_once(tmp_path: Path) -> None:
    """Calls take turns, whatever sizes they have."""
    generator = small_generator("resnet")
    fused = fuse(generator, "fp32")
    run = packed(generator, fused, tmp_path)
    images = [as_array(image_for(generator, *size)) for size in ((64, 96), (32, 32), (48, 20))]
    expected = [run(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for number, actual in enumerate(pool.map(run, images * 20)):
            np.testing.assert_array_equal(actual, expected[number % len(images)])


def test_many_may_live_at_once_and_end(tmp_path: Path) -> None:
    generator = small_generator("resnet")
    fused, image = fuse(generator, "fp32"), as_array(image_for(generator, 16, 16))
    alive = [packed(generator, fused, tmp_path, count=4) for _ in range(20)]
    results = [run(image) for run in alive]
    del alive
    assert all(np.array_equal(result, results[0]) for result in results)


def test_needs_no_torch(tmp_path: Path) -> None:
    generator = small_generator("resnet")
    fused, frame = fuse(generator, "fp32"), frame_of(64, 48)
    expected = packed(generator, fused, tmp_path).translate(frame)
    facts = {"program": fused.program.tolist(), "facts": dataclasses.asdict(FrameFacts.of(generator))}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    np.save(tmp_path / "frame.npy", frame)
    program = "\n".join(
        [
            "import json, sys, numpy as np",
            "from pathlib import Path",
            "from engine.runners.base import FrameFacts",
            "from engine.runners.packed import PackedRunner, read_weights",
            "folder = Path(sys.argv[1])",
            "kept = json.loads((folder / 'facts.json').read_text())",
            "weights, facts = read_weights(folder / 'weights.bin'), FrameFacts.from_dict(kept['facts'])",
            "run = PackedRunner(weights, kept['program'], facts, threads=2)",
            "np.save(folder / 'translated.npy', run.translate(np.load(folder / 'frame.npy')))",
            "assert 'torch' not in sys.modules",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "translated.npy"), expected)


def test_activations_share_memory() -> None:
    """What is not needed at the same time lies in one place: two layers' outputs of all."""
    from engine import _native

    generator = small_generator("resnet")
    fused = fuse(generator, "fp32")
    native = _native.Generator(fused.weights.numpy(), fused.program.numpy(), 1)
    with forced_caches(CACHES["small caches"]):
        small, large = (native.workspace_bytes((side, side)) for side in (512, 1024))
    wide = 16 * 4  # bytes of a pixel: 8 channels are stored as 16
    per_pixel = (large - small) / (1024**2 - 512**2)
    assert wide * 1.25 <= per_pixel <= wide * 1.26  # the second layer has twice the channels, a quarter of the pixels


def test_several_frames_at_once_come_out_in_their_order(tmp_path: Path) -> None:
    generator = small_generator("resnet")
    one = packed(generator, fuse(generator, "fp32"), tmp_path, count=1)
    several = packed(generator, fuse(generator, "fp32"), tmp_path, count=3).with_frames_at_once(3)
    assert (one.frames_under_way, several.frames_under_way) == (1, 4)
    frames = [np.random.default_rng(seed).integers(0, 256, (30, 41, 3), dtype=np.uint8) for seed in range(8)]
    waiting = [several.submit(frame[None]) for frame in frames]
    several.release()  # while they are under way
    waiting.append(several.submit(np.stack(frames[:2])))
    translated = np.concatenate([result() for result in waiting])
    np.testing.assert_array_equal(translated, np.concatenate([one.submit(f[None])() for f in [*frames, *frames[:2]]]))
    assert several.needed_bytes(1, 30, 41) == 3 * one.needed_bytes(1, 30, 41)


class TestPackedWeights:
    def test_kernels_of_whole_huge_pages_begin_at_one(self) -> None:
        huge = 2 << 20
        weights = PackedWeights()
        sizes = [100, 2 * huge, 64, huge - 64, 1, huge, 130]
        parts = [torch.full([size], 1 + i, dtype=torch.uint8) for i, size in enumerate(sizes)]
        offsets = [weights.append(part) for part in parts]
        # The third lies in the gap after the first, where the fourth has no room; the fifth and the last too.
        assert offsets == [0, huge, 128, 3 * huge, 192, 4 * huge, 256]
        packed = weights.tensor()
        assert len(packed) == 5 * huge
        for part, offset in zip(parts, offsets, strict=True):
            assert torch.equal(packed[offset : offset + len(part)], part)
        assert int((packed != 0).sum()) == sum(sizes)

    def test_small_ones_follow_each_other(self) -> None:
        weights = PackedWeights()
        assert [weights.append(torch.zeros(size)) for size in (3, 16, 17, 1)] == [0, 64, 128, 256]


def runner_on(weights: np.ndarray, fused: FusedGenerator, generator: Generator) -> PackedRunner:
    return PackedRunner(weights, fused.program.tolist(), FrameFacts.of(generator), threads=1)


class TestBadInput:
    def test_no_such_weights(self, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match=r"weights\.bin holds no packed weights"):
            read_weights(tmp_path / "weights.bin")

    def test_no_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "weights.bin").touch()
        with pytest.raises(BackendError, match="holds no packed weights"):
            read_weights(tmp_path / "weights.bin")

    def test_cut_off_weights(self, tmp_path: Path) -> None:
        generator = small_generator("resnet")
        fused = fuse(generator, "fp32")
        write_weights(fused.weights.numpy(), tmp_path / "weights.bin")
        os.truncate(tmp_path / "weights.bin", 1000)
        run = runner_on(read_weights(tmp_path / "weights.bin"), fused, generator)
        with pytest.raises(BackendError, match="outside of the 1000 bytes"):
            run.translate(frame_of(64, 48))

    def test_weights_of_another_generator(self, tmp_path: Path) -> None:
        generator = small_generator("resnet")
        write_weights(fuse(small_generator("animegan"), "fp32").weights.numpy(), tmp_path / "weights.bin")
        run = runner_on(read_weights(tmp_path / "weights.bin")[:1024], fuse(generator, "fp32"), generator)
        with pytest.raises(BackendError, match="outside of the 1024 bytes"):
            run.translate(frame_of(64, 48))

    def test_weights_that_begin_elsewhere(self) -> None:
        generator = small_generator("resnet")
        fused = fuse(generator, "fp32")
        room = np.zeros(len(fused.weights) + 128, dtype=np.uint8)
        begin = -room.ctypes.data % 64 + 4
        with pytest.raises(BackendError, match="multiple of 64"):
            runner_on(room[begin:][: len(fused.weights)], fused, generator)

    @pytest.mark.parametrize(
        "change", [{"scale": "x"}, {"multiple": 0}, {"input_range": [1]}, {"minimum_size": None}, {"scale": 0}]
    )
    def test_damaged_facts(self, change: dict[str, object]) -> None:
        values = dataclasses.asdict(FrameFacts.of(small_generator("resnet")))
        with pytest.raises(BackendError, match="description is damaged"):
            FrameFacts.from_dict({**values, **change})

    def test_an_image_that_the_generator_cant_take(self, tmp_path: Path) -> None:
        generator = small_generator("resnet")
        run = packed(generator, fuse(generator, "fp32"), tmp_path)
        with pytest.raises(BackendError, match="too small for this generator"):
            run(np.zeros((2, 2, 3), dtype=np.float32))
        with pytest.raises(BackendError, match=r"must be \[H, W, 3\]"):
            run(np.zeros((64, 64, 1), dtype=np.float32))
