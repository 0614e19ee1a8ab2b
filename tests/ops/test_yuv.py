"""yuv_to_bgr and bgr_to_yuv on the CPU: against swscale, by whose way software and hardware frames look alike."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from engine import ops
from engine.precision import psnr_db
from engine.video.color import LUMA_WEIGHTS, Color, FromBgr, ToBgr
from tests.tolerances import SWSCALE_BGR_DB, SWSCALE_BGR_LEVELS, SWSCALE_YUV_LEVELS

SAMPLE = Path(__file__).parents[2] / "engine" / "samples" / "sample.mp4"
LAYOUTS = {8: "nv12", 10: "p010le"}


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    """BGR: frames of the sample, and noise."""
    with av.open(str(SAMPLE)) as video:
        frames = [frame.to_ndarray(format="bgr24") for frame in video.decode(video=0)]
    noise = np.random.default_rng(0).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    return {"first": frames[0], "last": frames[-1], "noise": noise}


def planes_of(frame: av.VideoFrame) -> tuple[Tensor, Tensor]:
    luma, chroma = (torch.from_dlpack(plane.__dlpack__()) for plane in frame.planes)
    return luma, chroma


@pytest.mark.parametrize("name", ["first", "last", "noise"])
@pytest.mark.parametrize("matrix", [1, 4, 6, 7, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
def test_bgr_is_that_of_swscale(pictures: dict[str, np.ndarray], name: str, matrix: int, full: bool, bits: int) -> None:
    color = Color(matrix, 2 if full else 1)
    height, width = pictures[name].shape[:2]
    frame = FromBgr(color, LAYOUTS[bits])(pictures[name])
    expected = ToBgr(color, width, height)(frame)
    actual = ops.yuv_to_bgr(*planes_of(frame), weights=LUMA_WEIGHTS[matrix], full_range=full, bits=bits).numpy()
    assert psnr_db(actual, expected) >= SWSCALE_BGR_DB
    assert np.abs(actual[:-2].astype(int) - expected[:-2]).max() <= SWSCALE_BGR_LEVELS


@pytest.mark.parametrize("name", ["first", "last", "noise"])
@pytest.mark.parametrize("matrix", [1, 4, 6, 7, 9])
@pytest.mark.parametrize("full", [False, True])
def test_yuv_is_that_of_swscale(pictures: dict[str, np.ndarray], name: str, matrix: int, full: bool) -> None:
    frame = FromBgr(Color(matrix, 2 if full else 1), "nv12")(pictures[name])
    actual = ops.bgr_to_yuv(torch.from_numpy(pictures[name]), weights=LUMA_WEIGHTS[matrix], full_range=full)
    for plane, expected in zip(actual, planes_of(frame), strict=True):
        assert int((plane.int() - expected.int()).abs().max()) <= SWSCALE_YUV_LEVELS


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
def test_grey_stays_grey(matrix: int, full: bool) -> None:
    grey = torch.arange(256, dtype=torch.uint8).repeat_interleave(4).reshape(4, 256, 1).repeat(1, 1, 3)
    settings = {"weights": LUMA_WEIGHTS[matrix], "full_range": full}
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
        torch.ops.streamgan.yuv_to_bgr.default, (picture[..., 0].contiguous(), chroma, 0.2126, 0.0722, False, 8)
    )
    if height % 2 == 0:
        torch.library.opcheck(torch.ops.streamgan.bgr_to_yuv.default, (picture[..., :3], 0.2126, 0.0722, False))
