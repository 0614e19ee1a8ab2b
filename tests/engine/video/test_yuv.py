"""yuv_to_bgr and bgr_to_yuv against swscale: frames of software and hardware look alike."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from engine import ops
from engine.parity import psnr_db
from engine.video.color import LUMA_WEIGHTS, Color, FromBgr, ToBgr, color_of
from tests.tolerances import SWSCALE_BGR_DB, SWSCALE_BGR_LEVELS, SWSCALE_YUV_LEVELS

SAMPLE = Path(__file__).parents[3] / "engine" / "samples" / "sample.mp4"


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
    """Frames whose chroma is in the middle."""
    color = Color(matrix, 2 if full else 1)
    assert_like_swscale(FromBgr(color, layout, chroma="center")(pictures[name]), color, left_sited=False)


@pytest.mark.parametrize("name", ["first", "last", "noise"])
@pytest.mark.parametrize("matrix", [1, 4, 6, 7, 9])
@pytest.mark.parametrize("full", [False, True])
def test_yuv_is_that_of_swscale(pictures: dict[str, np.ndarray], name: str, matrix: int, full: bool) -> None:
    frame = FromBgr(Color(matrix, 2 if full else 1), "nv12", chroma="bottomleft")(pictures[name])
    actual = ops.bgr_to_yuv(torch.from_numpy(pictures[name]), weights=LUMA_WEIGHTS[matrix], full_range=full)
    for plane, expected in zip(actual, planes_of(frame), strict=True):
        assert int((plane.int() - expected.int()).abs().max()) <= SWSCALE_YUV_LEVELS
