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
from engine.video.color import LUMA_WEIGHTS, Color, FromBgr, ToBgr, color_of
from tests.tolerances import SWSCALE_BGR_DB, SWSCALE_BGR_LEVELS, SWSCALE_YUV_LEVELS

SAMPLE = Path(__file__).parents[2] / "engine" / "samples" / "sample.mp4"


@pytest.fixture(scope="module")
def decoded() -> list[av.VideoFrame]:
    with av.open(str(SAMPLE)) as video:
        return list(video.decode(video=0))


@pytest.fixture(scope="module")
def pictures(decoded: list[av.VideoFrame]) -> dict[str, np.ndarray]:
    """BGR: frames of the sample, and noise."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 256, 3), dtype=np.uint8)
    return {
        "first": decoded[0].to_ndarray(format="bgr24"),
        "last": decoded[-1].to_ndarray(format="bgr24"),
        "noise": noise,
    }


def planes_of(frame: av.VideoFrame) -> tuple[Tensor, Tensor]:
    luma, chroma = (torch.from_dlpack(plane.__dlpack__()) for plane in frame.planes)
    return luma, chroma


def assert_like_swscale(frame: av.VideoFrame, color: Color, *, left_sited: bool) -> None:
    bits = 8 if frame.format.name == "nv12" else 10
    settings = {"weights": LUMA_WEIGHTS[color.matrix], "full_range": color.range == 2, "left_sited": left_sited}
    actual = ops.yuv_to_bgr(*planes_of(frame), **settings, bits=bits).numpy()
    expected = ToBgr(color, frame.width, frame.height)(frame)
    assert psnr_db(actual, expected) >= SWSCALE_BGR_DB
    assert np.abs(actual[:-2].astype(int) - expected[:-2]).max() <= SWSCALE_BGR_LEVELS


@pytest.mark.parametrize("layout", ["nv12", "p010le"])
@pytest.mark.parametrize("number", [0, 20, -1])
def test_decoded_frames_are_those_of_swscale(decoded: list[av.VideoFrame], number: int, layout: str) -> None:
    """H.264 says that chroma is at the left."""
    assert_like_swscale(decoded[number].reformat(format=layout), color_of(decoded[number]), left_sited=True)


@pytest.mark.parametrize("name", ["first", "last", "noise"])
@pytest.mark.parametrize("matrix", [1, 4, 6, 7, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("layout", ["nv12", "p010le"])
def test_bgr_is_that_of_swscale(
    pictures: dict[str, np.ndarray], name: str, matrix: int, full: bool, layout: str
) -> None:
    """Frames that say nothing of where chroma is."""
    color = Color(matrix, 2 if full else 1)
    assert_like_swscale(FromBgr(color, layout)(pictures[name]), color, left_sited=False)


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
        torch.ops.streamgan.yuv_to_bgr.default, (picture[..., 0].contiguous(), chroma, 0.2126, 0.0722, False, True, 8)
    )
    if height % 2 == 0:
        torch.library.opcheck(torch.ops.streamgan.bgr_to_yuv.default, (picture[..., :3], 0.2126, 0.0722, False))
