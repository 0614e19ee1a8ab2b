"""yuv_to_bgr and bgr_to_yuv of csrc/cuda against their definitions: every size, layout, depth, range and matrix."""

from __future__ import annotations

import pytest
import torch

from engine import reference
from tests.cuda.conftest import Kernels
from tests.cuda.emulated import ORDERS, emulate
from tests.ops.cases import assert_same_bits

# Around runs of eight pixels and pairs of rows, and more of them than a block has threads.
SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 7), (2, 8), (5, 9), (4, 16), (6, 23), (33, 135), (64, 160)]
EVEN_SIZES = [(2, 2), (2, 4), (4, 6), (2, 8), (6, 10), (4, 16), (8, 22), (34, 136), (64, 160), (48, 258)]
# BT.709, FCC, BT.601, SMPTE 240M, BT.2020.
WEIGHTS = [(0.2126, 0.0722), (0.3, 0.11), (0.299, 0.114), (0.212, 0.087), (0.2627, 0.0593)]


def with_pitch(tensor: torch.Tensor, extra: int) -> torch.Tensor:
    """The same values in rows that lie `extra` elements further apart."""
    pitch = tensor[0].numel() + extra
    memory = tensor.new_zeros(tensor.shape[0] * pitch)
    return memory.as_strided(tensor.shape, (pitch, *tensor.stride()[1:])).copy_(tensor)


def planes(height: int, width: int, bits: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Luma and chroma of any values, the same on every call."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    shapes = (height, width), ((height + 1) // 2, (width + 1) // 2, 2)
    dtype = torch.uint8 if bits == 8 else torch.uint16
    unit = 1 if bits == 8 else 1 << (16 - bits)
    luma, chroma = ((torch.randint(0, 1 << bits, shape, generator=generator) * unit).to(dtype) for shape in shapes)
    return luma, chroma


def picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)


class TestYuvToBgr:
    @pytest.mark.parametrize("bits", [8, 10, 12, 16])
    @pytest.mark.parametrize("pitch", [0, 3, 64])
    @pytest.mark.parametrize("left_sited", [False, True])
    def test_sizes_and_pitches(self, kernels: Kernels, bits: int, pitch: int, left_sited: bool) -> None:
        for size in SIZES:
            luma, chroma = planes(*size, bits)
            settings = {"weights": (0.2126, 0.0722), "full_range": False, "left_sited": left_sited, "bits": bits}
            expected = reference.yuv_to_bgr(luma, chroma, **settings)
            actual = kernels.call("yuv_to_bgr", with_pitch(luma, pitch), with_pitch(chroma, pitch), **settings)
            assert_same_bits(actual, expected)
            assert actual.is_contiguous()

    @pytest.mark.parametrize("full_range", [False, True])
    @pytest.mark.parametrize("weights", WEIGHTS)
    @pytest.mark.parametrize("bits", [8, 10])
    def test_colours(self, kernels: Kernels, weights: tuple[float, float], full_range: bool, bits: int) -> None:
        luma, chroma = planes(34, 256, bits)
        settings = {"weights": weights, "full_range": full_range, "left_sited": True, "bits": bits}
        expected = reference.yuv_to_bgr(luma, chroma, **settings)
        assert_same_bits(kernels.call("yuv_to_bgr", luma, chroma, **settings), expected)

    def test_planes_that_are_no_rows(self, kernels: Kernels) -> None:
        """Every other column of a larger picture, which is copied first."""
        luma, chroma = planes(20, 48)
        settings = {"weights": (0.299, 0.114), "full_range": True}
        actual = kernels.call("yuv_to_bgr", luma[:, ::2], chroma[:, ::2], **settings)
        assert_same_bits(actual, reference.yuv_to_bgr(luma[:, ::2], chroma[:, ::2], **settings))

    def test_what_is_refused(self, kernels: Kernels) -> None:
        luma, chroma = planes(6, 8)
        settings = {"weights": (0.299, 0.114), "full_range": True}
        for arguments, changed, message in (
            ((luma.short(), chroma), {}, "uint8 or uint16"),
            ((luma, planes(6, 8, 10)[1]), {}, "of the type"),
            ((luma, chroma[:2]), {}, r"must be \[3, 4, 2\], not \[2, 4, 2\]"),
            ((luma[0], chroma), {}, r"must be \[H, W\]"),
            ((luma, chroma), {"bits": 10}, "bits=10"),
            ((luma, chroma), {"weights": (0.6, 0.4)}, "no weights"),
        ):
            with pytest.raises(RuntimeError, match=message):
                kernels.call("yuv_to_bgr", *arguments, **{**settings, **changed})


class TestBgrToYuv:
    @pytest.mark.parametrize("pitch", [0, 1, 8, 64])
    def test_sizes_and_pitches(self, kernels: Kernels, pitch: int) -> None:
        for size in EVEN_SIZES:
            frame = picture(*size)
            settings = {"weights": (0.2126, 0.0722), "full_range": False}
            luma, chroma = kernels.call("bgr_to_yuv", with_pitch(frame, pitch), **settings)
            expected = reference.bgr_to_yuv(frame, **settings)
            assert_same_bits(luma, expected[0])
            assert_same_bits(chroma, expected[1])

    @pytest.mark.parametrize("full_range", [False, True])
    @pytest.mark.parametrize("weights", WEIGHTS)
    def test_colours(self, kernels: Kernels, weights: tuple[float, float], full_range: bool) -> None:
        settings = {"weights": weights, "full_range": full_range}
        actual = kernels.call("bgr_to_yuv", picture(34, 256), **settings)
        for plane, expected in zip(actual, reference.bgr_to_yuv(picture(34, 256), **settings), strict=True):
            assert_same_bits(plane, expected)

    def test_what_is_refused(self, kernels: Kernels) -> None:
        for frame, message in (
            (picture(3, 4), "even sides"),
            (picture(4, 4).float(), "uint8"),
            (picture(4, 4)[..., :2], r"\[H, W, 3\]"),
        ):
            with pytest.raises(RuntimeError, match=message):
                kernels.call("bgr_to_yuv", frame, weights=(0.299, 0.114), full_range=False)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_threads(kernels: Kernels, order: str) -> None:
    if not kernels.is_emulated:
        pytest.skip("a device has its own")
    emulate(order=order)
    luma, chroma = planes(40, 300)
    settings = {"weights": (0.299, 0.114), "full_range": True}
    expected = reference.yuv_to_bgr(luma, chroma, left_sited=True, **settings)
    assert_same_bits(kernels.call("yuv_to_bgr", luma, chroma, left_sited=True, **settings), expected)
    actual = kernels.call("bgr_to_yuv", picture(40, 300), **settings)
    for plane, expected in zip(actual, reference.bgr_to_yuv(picture(40, 300), **settings), strict=True):
        assert_same_bits(plane, expected)
