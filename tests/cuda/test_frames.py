"""frames_to_tensor and tensor_to_frames of csrc/cuda against their definitions: every size, dtype, layout and value."""

from __future__ import annotations

import math

import pytest
import torch

from engine import reference
from tests.cuda.conftest import Kernels
from tests.ops.cases import DTYPES, RANGES, assert_same_bits, random_frames
from tests.tolerances import TANH_LEVELS

# Around runs of four pixels, and more pixels than a block has threads.
SIZES = [(1, 1), (1, 2), (2, 3), (3, 4), (2, 5), (5, 8), (4, 33), (37, 101)]
LAYOUTS = [torch.channels_last, torch.contiguous_format]


def random_tensor(images: int, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """[images, 3, height, width] with values from -1.3 to 1.3: some are clamped. The same on every call."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return (torch.rand(images, 3, height, width, generator=generator) * 2.6 - 1.3).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
class TestFramesToTensor:
    @pytest.mark.parametrize("margin", [(0, 0), (1, 5), (16, 16), (80, 300)])
    def test_sizes_and_paddings(self, kernels: Kernels, dtype: torch.dtype, margin: tuple[int, int]) -> None:
        for height, width in SIZES:
            frames = random_frames(2, height, width)
            arguments = {"value_range": (-1.0, 1.0), "size": (height + margin[0], width + margin[1]), "dtype": dtype}
            actual = kernels.call("frames_to_tensor", frames, **arguments)
            assert_same_bits(actual, reference.frames_to_tensor(frames, **arguments))
            assert actual.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("value_range", RANGES)
    def test_every_byte(self, kernels: Kernels, dtype: torch.dtype, value_range: tuple[float, float]) -> None:
        frames = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
        arguments = {"value_range": value_range, "size": (16, 16), "dtype": dtype}
        assert_same_bits(
            kernels.call("frames_to_tensor", frames, **arguments), reference.frames_to_tensor(frames, **arguments)
        )

    def test_a_crop_of_larger_frames(self, kernels: Kernels, dtype: torch.dtype) -> None:
        frames = random_frames(2, 20, 30)[:, 3:-2, 5:-4]
        arguments = {"value_range": (0.0, 1.0), "size": (16, 24), "dtype": dtype}
        assert_same_bits(
            kernels.call("frames_to_tensor", frames, **arguments), reference.frames_to_tensor(frames, **arguments)
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels_last", "contiguous"])
class TestTensorToFrames:
    @pytest.mark.parametrize("margin", [(0, 0), (1, 5), (16, 16)])
    def test_sizes_and_crops(
        self, kernels: Kernels, dtype: torch.dtype, layout: torch.memory_format, margin: tuple[int, int]
    ) -> None:
        for size in SIZES:
            tensor = random_tensor(2, size[0] + margin[0], size[1] + margin[1], dtype).to(memory_format=layout)
            arguments = {"value_range": (-1.0, 1.0), "size": size}
            actual = kernels.call("tensor_to_frames", tensor, **arguments)
            assert_same_bits(actual, reference.tensor_to_frames(tensor, **arguments))
            assert actual.is_contiguous()

    def test_awkward_values(self, kernels: Kernels, dtype: torch.dtype, layout: torch.memory_format) -> None:
        """Halves go to the even neighbour, what is out of range to 0 or 255, NaN to 0."""
        halves = torch.arange(-2, 128, 0.5)
        largest = torch.finfo(dtype).max
        special = torch.tensor([math.nan, math.inf, -math.inf, largest, -largest, 254.6, 255.5, -0.0, 1e-7])
        tensor = torch.cat([halves, special]).to(dtype).reshape(1, 1, 1, -1).repeat(1, 3, 1, 1)
        arguments = {"value_range": (0.0, 255.0), "size": (1, tensor.shape[3])}
        actual = kernels.call("tensor_to_frames", tensor.contiguous(memory_format=layout), **arguments)
        assert_same_bits(actual, reference.tensor_to_frames(tensor, **arguments))
        assert actual[0, 0, : len(halves), 0].tolist() == [max(0, round(value)) for value in halves.tolist()]

    def test_tanh_first(self, kernels: Kernels, dtype: torch.dtype, layout: torch.memory_format) -> None:
        tensor = (random_tensor(2, 37, 53, dtype) * 3).contiguous(memory_format=layout)
        arguments = {"value_range": (-1.0, 1.0), "size": (33, 50), "tanh": True}
        actual = kernels.call("tensor_to_frames", tensor, **arguments)
        expected = reference.tensor_to_frames(tensor, **arguments)
        assert int((actual.int() - expected.int()).abs().max()) <= TANH_LEVELS
        assert int(actual.int().min()) < 10
        assert int(actual.int().max()) > 245
