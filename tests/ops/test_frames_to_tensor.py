"""frames_to_tensor against its definition: every instruction set, dtype, range and awkward size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from engine import ops, reference
from tests.ops.cases import (
    DTYPES,
    ISAS,
    RANGES,
    SIZES,
    assert_same_bits,
    forced_isa,
    random_frames,
    run_script_module,
    threads,
)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
class TestEveryKernel:
    def test_all_bytes(self, isa: str, dtype: torch.dtype) -> None:
        """All 256 values in all three channels, on a width that fills whole blocks."""
        ramp = torch.arange(256, dtype=torch.uint8)
        frames = torch.stack([ramp, ramp.roll(85), ramp.roll(170)], dim=-1).reshape(1, 1, 256, 3)
        for value_range in RANGES:
            arguments = {"value_range": value_range, "size": (1, 256), "dtype": dtype}
            with forced_isa(isa):
                actual = ops.frames_to_tensor(frames, **arguments)
            assert_same_bits(actual, reference.frames_to_tensor(frames, **arguments))

    @pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 3), (9, 0), (40, 70)])
    def test_sizes_and_padding(self, isa: str, dtype: torch.dtype, padding: tuple[int, int]) -> None:
        for height, width in SIZES:
            frames = random_frames(2, height, width)
            size = (height + padding[0], width + padding[1])
            arguments = {"value_range": (-1.0, 1.0), "size": size, "dtype": dtype}
            with forced_isa(isa):
                actual = ops.frames_to_tensor(frames, **arguments)
            assert_same_bits(actual, reference.frames_to_tensor(frames, **arguments))
            assert actual.is_contiguous(memory_format=torch.channels_last)

    def test_layouts(self, isa: str, dtype: torch.dtype) -> None:
        frames = random_frames(4, 40, 60)
        views = {
            "crop": frames[:, 3:30, 5:40],
            "every other row": frames[:, ::2],
            "every other image": frames[::2],
            "every other pixel": frames[:, :, ::2],
            "flipped channels": frames[..., [2, 1, 0]],
            "transposed": frames.transpose(1, 2),
            "planar": frames.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
            "expanded": frames[:1].expand(3, -1, -1, -1),
            "one column": frames[:, :, 7:8],
            "no image": frames[:0],
        }
        for name, view in views.items():
            arguments = {"value_range": (0.0, 1.0), "size": (64, 64), "dtype": dtype}
            with forced_isa(isa):
                actual = ops.frames_to_tensor(view, **arguments)
            assert torch.equal(actual, reference.frames_to_tensor(view, **arguments)), name

    def test_writes_nothing_beyond_the_result(self, isa: str, dtype: torch.dtype) -> None:
        """Rows are converted in blocks; one too far would change the row before or after, whose values differ."""
        frames = torch.zeros(1, 3, 19, 3, dtype=torch.uint8)
        frames[:, 1] = 255
        with forced_isa(isa):
            actual = ops.frames_to_tensor(frames, value_range=(0.0, 1.0), size=(3, 19), dtype=dtype)
        assert actual[:, :, 1].eq(1).all()
        assert actual[:, :, [0, 2]].eq(0).all()


def test_reference_is_what_users_write() -> None:
    """The definition against the expression that it replaces, bit for bit."""
    frame = random_frames(1, 48, 64)[0].numpy()
    image = torch.from_numpy(frame[:, :, ::-1].copy()).permute(2, 0, 1)[None].float().div(127.5).sub(1)
    padded = F.pad(image, (0, 16, 0, 8), mode="reflect")
    actual = ops.frames_to_tensor(
        torch.from_numpy(frame)[None], value_range=(-1.0, 1.0), size=(56, 80), dtype=torch.float32
    )
    assert_same_bits(actual, padded)


def test_padding_of_one_pixel_repeats_it() -> None:
    frames = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 1, 1, 3)
    actual = ops.frames_to_tensor(frames, value_range=(0.0, 255.0), size=(5, 40), dtype=torch.float32)
    assert torch.equal(actual, torch.tensor([30.0, 20.0, 10.0]).reshape(1, 3, 1, 1).expand(1, 3, 5, 40))


def test_padding_bounces_between_the_edges() -> None:
    frames = torch.tensor([0, 1, 2], dtype=torch.uint8).reshape(1, 1, 3, 1).expand(1, 1, 3, 3)
    actual = ops.frames_to_tensor(frames, value_range=(0.0, 255.0), size=(1, 10), dtype=torch.float32)
    assert actual[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1]


def test_thread_count_does_not_change_bits() -> None:
    frames = random_frames(3, 301, 211)
    arguments = {"value_range": (-1.0, 1.0), "size": (304, 224), "dtype": torch.bfloat16}
    results = []
    for count in (1, 2, 5):
        with threads(count):
            results.append(ops.frames_to_tensor(frames, **arguments))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


FRAMES = torch.zeros(1, 4, 6, 3, dtype=torch.uint8)
WRONG_CALLS = {
    "dtype of frames": (FRAMES.float(), -1.0, 1.0, 4, 6, torch.float32, "frames must be uint8, not Float"),
    "rank": (FRAMES[0], -1.0, 1.0, 4, 6, torch.float32, r"frames must be \[N, H, W, 3\], not \[4, 6, 3\]"),
    "channels": (FRAMES[..., :1], -1.0, 1.0, 4, 6, torch.float32, r"must be \[N, H, W, 3\], not \[1, 4, 6, 1\]"),
    "no pixels": (FRAMES[:, :0], -1.0, 1.0, 4, 6, torch.float32, r"\[1, 0, 6, 3\] have no pixels"),
    "too low": (FRAMES, -1.0, 1.0, 3, 6, torch.float32, "height=3, width=6 are smaller than the frames"),
    "too narrow": (FRAMES, -1.0, 1.0, 4, 5, torch.float32, "height=4, width=5 are smaller than the frames"),
    "empty range": (FRAMES, 1.0, 1.0, 4, 6, torch.float32, "low=1, high=1 are no range of values"),
    "reversed range": (FRAMES, 1.0, -1.0, 4, 6, torch.float32, "low=1, high=-1 are no range of values"),
    "infinite range": (FRAMES, 0.0, float("inf"), 4, 6, torch.float32, "high=inf are no range of values"),
    "NaN range": (FRAMES, float("nan"), 1.0, 4, 6, torch.float32, "low=nan, high=1 are no range of values"),
    "dtype of result": (FRAMES, -1.0, 1.0, 4, 6, torch.float64, "dtype Double is not one of Float, BFloat16, Half"),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_arguments(name: str) -> None:
    frames, low, high, height, width, dtype, message = WRONG_CALLS[name]
    with pytest.raises(RuntimeError, match=message):
        ops.frames_to_tensor(frames, value_range=(low, high), size=(height, width), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    for frames in (random_frames(2, 5, 17), random_frames(1, 1, 1), random_frames(2, 9, 40)[:, :, 3:30]):
        arguments = (frames, -1.0, 1.0, frames.shape[1] + 3, frames.shape[2] + 2, dtype)
        torch.library.opcheck(torch.ops.streamgan.frames_to_tensor.default, arguments)


def normalised(frames: torch.Tensor) -> torch.Tensor:
    """The operator between others; the size is known only at run time."""
    size = (frames.shape[1] + 4, frames.shape[2] + 4)
    return ops.frames_to_tensor(frames, value_range=(-1.0, 1.0), size=size, dtype=torch.bfloat16) * 2


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(normalised, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((20, 33), (24, 41)):
        frames = random_frames(1, *size)
        assert_same_bits(compiled(frames), normalised(frames))


def test_trace_saved_and_loaded_in_a_fresh_process(tmp_path: Path) -> None:
    frames = random_frames(1, 20, 33)
    torch.jit.trace(normalised, (frames,)).save(str(tmp_path / "module.pt"))
    torch.save(frames, tmp_path / "inputs.pt")
    run_script_module(tmp_path / "module.pt", tmp_path / "inputs.pt", tmp_path / "outputs.pt")
    assert_same_bits(torch.load(tmp_path / "outputs.pt"), normalised(frames))
