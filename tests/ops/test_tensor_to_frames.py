"""tensor_to_frames against its definition: every instruction set, dtype, layout, range and awkward value."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

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

LAYOUTS = [torch.channels_last, torch.contiguous_format]


def random_tensor(images: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[images, 3, height, width] with values from -1.3 to 1.3: some are clamped. The same on every call."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return (torch.rand(images, 3, height, width, generator=generator) * 2.6 - 1.3).to(dtype)


def image_of(values: torch.Tensor) -> torch.Tensor:
    """[1, 3, 1, W]: the values, and shifted copies of them in the other channels."""
    return torch.stack([values, values.roll(1), values.roll(2)]).reshape(1, 3, 1, -1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels_last", "contiguous"])
class TestEveryKernel:
    @pytest.mark.parametrize("margin", [(0, 0), (1, 5), (16, 16)])
    def test_sizes_and_crops(
        self, isa: str, dtype: torch.dtype, layout: torch.memory_format, margin: tuple[int, int]
    ) -> None:
        for size in SIZES:
            tensor = random_tensor(2, size[0] + margin[0], size[1] + margin[1], dtype).to(memory_format=layout)
            with forced_isa(isa):
                actual = ops.tensor_to_frames(tensor, value_range=(-1.0, 1.0), size=size)
            assert_same_bits(actual, reference.tensor_to_frames(tensor, value_range=(-1.0, 1.0), size=size))
            assert actual.is_contiguous()

    def test_halves_go_to_the_even_neighbour(self, isa: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
        """Up to 127.5 halves are exact in all three dtypes."""
        values = torch.arange(-2, 128, 0.5)
        tensor = image_of(values).to(dtype).to(memory_format=layout)
        assert torch.equal(tensor[0, 0, 0].float(), values)
        with forced_isa(isa):
            actual = ops.tensor_to_frames(tensor, value_range=(0.0, 255.0), size=(1, len(values)))
        expected = [max(0, round(value)) for value in values.tolist()]  # Python rounds halves to even
        assert actual[0, 0, :, 2].tolist() == expected

    def test_values_out_of_range(self, isa: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
        largest = torch.finfo(dtype).max
        cases = {
            math.nan: 0,
            -math.nan: 0,
            math.inf: 255,
            -math.inf: 0,
            largest: 255,
            -largest: 0,
            1e4: 255,
            -1e4: 0,
            1.01: 255,
            -1.01: 0,
            -0.0: 128,
            1e-7: 128,
        }
        values = torch.tensor([*cases, *cases], dtype=dtype)  # a whole block and a rest
        tensor = image_of(values).to(memory_format=layout)
        with forced_isa(isa):
            actual = ops.tensor_to_frames(tensor, value_range=(-1.0, 1.0), size=(1, len(values)))
        assert actual[0, 0, :, 2].tolist() == [*cases.values(), *cases.values()]
        assert_same_bits(actual, reference.tensor_to_frames(tensor, value_range=(-1.0, 1.0), size=(1, len(values))))

    def test_every_byte_survives_the_round_trip(
        self, isa: str, dtype: torch.dtype, layout: torch.memory_format
    ) -> None:
        frames = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 256, 1).repeat(1, 1, 1, 3)
        # bfloat16 has 8 bits: enough for integers up to 255, too few for 256 steps elsewhere.
        for value_range in [(0.0, 255.0)] if dtype == torch.bfloat16 else RANGES:
            with forced_isa(isa):
                tensor = ops.frames_to_tensor(frames, value_range=value_range, size=(1, 256), dtype=dtype)
                tensor = tensor.contiguous(memory_format=layout)
                actual = ops.tensor_to_frames(tensor, value_range=value_range, size=(1, 256))
            assert torch.equal(actual, frames)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_16_bit_values(isa: str, dtype: torch.dtype) -> None:
    """Every bit pattern of the half-width types: subnormals, infinities and all NaN included."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    tensor = image_of(values).contiguous(memory_format=torch.channels_last)
    for value_range in RANGES:
        with forced_isa(isa):
            actual = ops.tensor_to_frames(tensor, value_range=value_range, size=(1, 2**16))
        assert_same_bits(actual, reference.tensor_to_frames(tensor, value_range=value_range, size=(1, 2**16)))


@pytest.mark.parametrize("isa", ISAS)
def test_float32_around_every_rounding_step(isa: str) -> None:
    """The values next to where a byte changes, where another order of operations would show."""
    middles = (torch.arange(-3, 260, dtype=torch.float64) + 0.5) / 127.5 - 1
    middles = middles.float()
    neighbours = [middles]
    for direction in (-math.inf, math.inf):
        value = middles
        for _ in range(4):
            value = torch.nextafter(value, torch.tensor(direction))
            neighbours.append(value)
    tensor = image_of(torch.cat(neighbours))
    size = (1, tensor.shape[3])
    for layout in LAYOUTS:
        with forced_isa(isa):
            actual = ops.tensor_to_frames(tensor.to(memory_format=layout), value_range=(-1.0, 1.0), size=size)
        assert_same_bits(actual, reference.tensor_to_frames(tensor, value_range=(-1.0, 1.0), size=size))


@pytest.mark.parametrize("isa", ISAS)
def test_layouts(isa: str) -> None:
    tensor = random_tensor(4, 40, 60)
    last = tensor.contiguous(memory_format=torch.channels_last)
    views = {
        "crop": tensor[:, :, 3:30, 5:40],
        "crop, channels_last": last[:, :, 3:30, 5:40],
        "every other row": last[:, :, ::2],
        "every other image": last[::2],
        "every other pixel": tensor[:, :, :, ::2],
        "every other pixel, channels_last": last[:, :, :, ::2],
        "three of four channels": torch.cat([last, last], dim=1).to(memory_format=torch.channels_last)[:, :3],
        "transposed": tensor.transpose(2, 3),
        "gray": tensor[:, :1].expand(-1, 3, -1, -1),
        "one column": tensor[:, :, :, 7:8],
        "one column, channels_last": last[:, :, :, 7:8],
        "no image": last[:0],
    }
    for name, view in views.items():
        size = (min(20, view.shape[2]), min(30, view.shape[3]))
        with forced_isa(isa):
            actual = ops.tensor_to_frames(view, value_range=(-1.0, 1.0), size=size)
        assert torch.equal(actual, reference.tensor_to_frames(view, value_range=(-1.0, 1.0), size=size)), name


def test_reference_is_what_users_write() -> None:
    """The definition against the expression that it replaces, byte for byte."""
    tensor = random_tensor(1, 48, 64)
    expected = ((tensor.float() + 1) * 127.5).round().clamp(0, 255).byte()[0].permute(1, 2, 0).flip(-1)
    actual = ops.tensor_to_frames(tensor, value_range=(-1.0, 1.0), size=(48, 64))[0]
    assert_same_bits(actual, expected)


def test_thread_count_does_not_change_bytes() -> None:
    tensor = random_tensor(3, 304, 224).contiguous(memory_format=torch.channels_last)
    results = []
    for count in (1, 2, 5):
        with threads(count):
            results.append(ops.tensor_to_frames(tensor, value_range=(-1.0, 1.0), size=(301, 211)))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


TENSOR = torch.zeros(1, 3, 4, 6)
WRONG_CALLS = {
    "rank": (TENSOR[0], -1.0, 1.0, 4, 6, r"tensor must be \[N, 3, H, W\], not \[3, 4, 6\]"),
    "channels": (TENSOR[:, :1], -1.0, 1.0, 4, 6, r"tensor must be \[N, 3, H, W\], not \[1, 1, 4, 6\]"),
    "too high": (
        TENSOR,
        -1.0,
        1.0,
        5,
        6,
        r"height=5, width=6 must be at least 1 and within .*\[1, 3, 4, 6\]",
    ),
    "too wide": (TENSOR, -1.0, 1.0, 4, 7, "height=4, width=7 must be at least 1 and within the tensor"),
    "no height": (TENSOR, -1.0, 1.0, 0, 6, "height=0, width=6 must be at least 1"),
    "range": (TENSOR, 1.0, 0.0, 4, 6, "low=1, high=0 are no range of values"),
    "dtype": (TENSOR.double(), -1.0, 1.0, 4, 6, "dtype Double is not one of Float, BFloat16, Half"),
    "bytes": (TENSOR.byte(), -1.0, 1.0, 4, 6, "dtype Byte is not one of Float, BFloat16, Half"),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_arguments(name: str) -> None:
    tensor, low, high, height, width, message = WRONG_CALLS[name]
    with pytest.raises(RuntimeError, match=message):
        ops.tensor_to_frames(tensor, value_range=(low, high), size=(height, width))


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    for tensor in (random_tensor(2, 5, 17, dtype), random_tensor(1, 1, 1, dtype)):
        for layout in LAYOUTS:
            arguments = (tensor.to(memory_format=layout), -1.0, 1.0, max(tensor.shape[2] - 2, 1), tensor.shape[3])
            torch.library.opcheck(torch.ops.streamgan.tensor_to_frames.default, arguments)


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    """The operator between others; the size is known only at run time."""
    size = (tensor.shape[2] - 4, tensor.shape[3] - 4)
    return ops.tensor_to_frames(tensor * 2, value_range=(-1.0, 1.0), size=size)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(doubled, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((20, 33), (24, 41)):
        tensor = random_tensor(1, *size)
        assert_same_bits(compiled(tensor), doubled(tensor))


def test_compile_of_both_operators_with_inductor() -> None:
    def there_and_back(frames: torch.Tensor) -> torch.Tensor:
        tensor = ops.frames_to_tensor(frames, value_range=(-1.0, 1.0), size=(24, 40), dtype=torch.float32)
        return ops.tensor_to_frames(-tensor, value_range=(-1.0, 1.0), size=(20, 33))

    torch._dynamo.reset()
    frames = random_frames(1, 20, 33)
    assert torch.equal(torch.compile(there_and_back, fullgraph=True)(frames), 255 - frames)


def test_trace_saved_and_loaded_in_a_fresh_process(tmp_path: Path) -> None:
    tensor = random_tensor(1, 20, 33)
    torch.jit.trace(doubled, (tensor,)).save(str(tmp_path / "module.pt"))
    torch.save(tensor, tmp_path / "inputs.pt")
    run_script_module(tmp_path / "module.pt", tmp_path / "inputs.pt", tmp_path / "outputs.pt")
    assert_same_bits(torch.load(tmp_path / "outputs.pt"), doubled(tensor))
