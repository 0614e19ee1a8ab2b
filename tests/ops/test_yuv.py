"""yuv_to_bgr and bgr_to_yuv on the CPU: grey, the layout of what comes out, and torch's checks of operators."""

from __future__ import annotations

import pytest
import torch

from engine import ops


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("weights", [(0.2126, 0.0722), (0.3, 0.11), (0.299, 0.114), (0.212, 0.087), (0.2627, 0.0593)])
def test_grey_stays_grey(weights: tuple[float, float], full: bool) -> None:
    grey = torch.arange(256, dtype=torch.uint8).repeat_interleave(4).reshape(4, 256, 1).repeat(1, 1, 3)
    settings = {"weights": weights, "full_range": full}
    luma, chroma = ops.bgr_to_yuv(grey, **settings)
    assert int(chroma.min()) == int(chroma.max()) == 128
    assert (int(luma.min()), int(luma.max())) == ((0, 255) if full else (16, 235))
    back = ops.yuv_to_bgr(luma, chroma, **settings)
    assert int((back.int() - grey.int()).abs().max()) <= (0 if full else 1)


def test_the_planes_lie_as_encoders_take_them() -> None:
    """Rows of a multiple of 256 bytes, chroma behind luma: hardware gets one pointer."""
    luma, chroma = ops.bgr_to_yuv(torch.zeros((6, 300, 3), dtype=torch.uint8), weights=(0.3, 0.1), full_range=False)
    assert (luma.shape, luma.stride()) == ((6, 300), (512, 1))
    assert (chroma.shape, chroma.stride()) == ((3, 150, 2), (512, 2, 1))
    assert chroma.data_ptr() - luma.data_ptr() == 6 * 512


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (4, 6)])
def test_opcheck(size: tuple[int, int]) -> None:
    height, width = size
    picture = torch.arange(4 * height * width, dtype=torch.uint8).reshape(height, width, 4)
    chroma = torch.full(((height + 1) // 2, (width + 1) // 2, 2), 100, dtype=torch.uint8)
    torch.library.opcheck(
        torch.ops.streamgan.yuv_to_bgr.default, (picture[..., 0].contiguous(), chroma, 0.2126, 0.0722, False, True, 8)
    )
    if height % 2 == 0:
        torch.library.opcheck(torch.ops.streamgan.bgr_to_yuv.default, (picture[..., :3], 0.2126, 0.0722, False))
