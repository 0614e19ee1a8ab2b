"""Colours: what goes through untouched comes out the same, by an independent definition of every matrix and range."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.video import open_source
from engine.video.tonemap import compress_highlights, nits_to_pq, pq_to_nits, tone_map
from tests.engine.video.through import through
from tests.media import BARS_BGR, bars, bgr_of, frame_of_yuv, make_video, planes_of, read, yuv_of
from tests.tolerances import COLOR_BARS_LEVELS

NEARLY_LOSSLESS = {"qp": "0"}  # of the source; the output's own loss at crf 1 is part of the tolerance


def bars_file(path: Path, matrix: int, *, full: bool, bits: int = 8, transfer: int = 1, width: int = 384) -> Path:
    pixel_format = "yuv420p10le" if bits == 10 else "yuv420p"
    frame = frame_of_yuv(yuv_of(bars(width), matrix, full=full, bits=bits), pixel_format)
    return make_video(
        path,
        pts=[0, 512],
        size=(frame.width, frame.height),
        frames=[frame],
        pixel_format=pixel_format,
        color=(matrix, 2 if full else 1, 1, transfer),
        options=NEARLY_LOSSLESS,
    )


def bar_centres(image: np.ndarray) -> np.ndarray:
    step = image.shape[1] // len(BARS_BGR)
    return image[image.shape[0] // 2, step // 2 :: step]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6, 7, 9])
@pytest.mark.parametrize("bits", [8, 10])
def test_bars(tmp_path: Path, matrix: int, full: bool, bits: int) -> None:
    source = bars_file(tmp_path / "in.mp4", matrix, full=full, bits=bits)
    (first, *_) = open_source(str(source))
    assert np.abs(bar_centres(first.image).astype(int) - BARS_BGR).max() <= COLOR_BARS_LEVELS
    result = through(source, tmp_path / "out.mp4", crf=1)
    contents = result.contents
    y, cb, cr = planes_of(contents.frames[0])
    yuv = np.stack([y, *(plane.repeat(2, 0).repeat(2, 1) for plane in (cb, cr))], -1)
    assert contents.color == (matrix, 2 if full else 1, 1, 1)
    assert contents.frames[0].format.name == ("yuvj420p" if full else "yuv420p")  # FFmpeg's name of full range
    assert np.abs(bgr_of(bar_centres(yuv), matrix, full=full) - BARS_BGR).max() <= COLOR_BARS_LEVELS
    assert result.warnings == []


@pytest.mark.parametrize(("width", "height", "matrix"), [(384, 64, 6), (384, 578, 1), (1284, 64, 1)])
def test_untagged_video_is_read_as_players_do_and_tagged(tmp_path: Path, width: int, height: int, matrix: int) -> None:
    frame = frame_of_yuv(yuv_of(bars(width, height), matrix, full=False))
    source = make_video(tmp_path / "in.mp4", pts=[0], size=(width, height), frames=[frame], options=NEARLY_LOSSLESS)
    assert read(source).color[0] == 2
    (first,) = open_source(str(source))
    assert np.abs(bar_centres(first.image).astype(int) - BARS_BGR).max() <= COLOR_BARS_LEVELS
    assert through(source, tmp_path / "out.mp4").contents.color[:2] == (matrix, 1)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [
        ("ffv1", "gray", ".mkv"),
        ("ffv1", "gray16le", ".mkv"),
        ("ffv1", "bgra", ".mkv"),
        ("ffv1", "yuva420p", ".mkv"),
        ("ffv1", "yuv410p", ".mkv"),
        ("png", "rgb24", ".mov"),
        ("png", "rgba", ".mov"),
        ("png", "gray", ".mov"),
        ("png", "monob", ".mov"),
        ("gif", "rgb8", ".gif"),
        ("libx264", "yuv444p", ".mp4"),
        ("libx264", "yuv422p10le", ".mp4"),
        ("mjpeg", "yuvj422p", ".avi"),
        ("prores_ks", "yuv422p10le", ".mov"),
        ("libvpx-vp9", "gbrp", ".mkv"),
        ("rawvideo", "uyvy422", ".avi"),
    ],
)
def test_pixel_formats(tmp_path: Path, codec: str, pixel_format: str, suffix: str) -> None:
    source = make_video(tmp_path / f"in{suffix}", codec=codec, pixel_format=pixel_format)
    frames = list(open_source(str(source)))
    assert len(frames) == 10
    expected = read(source).frames[0].to_ndarray(format="gray").astype(int)
    assert np.abs(frames[0].image.mean(-1) - expected).mean() < 40
    output = through(source, tmp_path / "out.mp4").contents.frames[0].format.name
    assert output == ("yuvj420p" if pixel_format.startswith("yuvj") else "yuv420p")


def test_interlaced(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", options={"x264-params": "tff=1"}, size=(64, 64))
    assert through(source, tmp_path / "out.mp4").frames == 10


# --- HDR ---


def test_pq_is_its_own_inverse_and_known() -> None:
    nits = np.array([0.0, 1, 100, 203, 1000, 10000])
    np.testing.assert_allclose(pq_to_nits(nits_to_pq(nits)), nits, atol=1e-6)
    assert float(nits_to_pq(203.0)) == pytest.approx(0.581, abs=1e-3)  # ITU-R BT.2408: 58 % PQ


def test_highlights_are_compressed_smoothly_and_dark_kept() -> None:
    nits = np.linspace(0, 1000, 2001)
    mapped = compress_highlights(nits)
    assert np.all(np.diff(mapped) > -1e-9)
    np.testing.assert_allclose(mapped[nits < 90], nits[nits < 90], atol=0.02)
    assert mapped[-1] == pytest.approx(203, abs=0.1)
    assert np.abs(np.diff(mapped, 2)).max() < 0.01


@pytest.mark.parametrize("transfer", [16, 18])
def test_tone_map_keeps_grey_grey_and_fits(transfer: int) -> None:
    axis = np.linspace(0, 1, 17)
    grey = tone_map(np.stack([axis] * 3, -1), transfer)
    assert np.ptp(grey, axis=-1).max() < 1e-3
    assert np.all(np.diff(grey[:, 0]) >= -1e-9)
    cube = tone_map(np.array(list(itertools.product([0, 0.3, 0.58, 0.75, 1], repeat=3))), transfer)
    assert cube.min() >= 0
    assert cube.max() <= 1


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_becomes_sdr(tmp_path: Path, transfer: int) -> None:
    signal = np.repeat(np.linspace(0, 255, 12).round().astype(np.uint8), 32)[None, :, None].repeat(64, 0).repeat(3, 2)
    frame = frame_of_yuv(yuv_of(signal, 9, full=False, bits=10), "yuv420p10le")
    source = make_video(
        tmp_path / "in.mp4",
        pts=[0, 512],
        size=(384, 64),
        frames=[frame],
        pixel_format="yuv420p10le",
        color=(9, 1, 9, transfer),
        options=NEARLY_LOSSLESS,
    )
    assert read(source).color == (9, 1, 9, transfer)
    (first, *_) = open_source(str(source))
    expected = tone_map(bar_centres(signal) / 255, transfer)[:, ::-1] * 255
    assert np.abs(bar_centres(first.image) - expected).max() <= COLOR_BARS_LEVELS + 2  # the table is interpolated
    result = through(source, tmp_path / "out.mp4")
    assert result.contents.color == (1, 1, 1, 1)
    assert any("HDR" in line for line in result.warnings)


def test_aspect_ratio(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", aspect=Fraction(128, 117))
    contents = through(source, tmp_path / "out.mp4").contents
    assert contents.aspect == Fraction(128, 117)
    rotated = make_video(tmp_path / "rotated.mp4", aspect=Fraction(4, 3), rotation=(90, False, False))
    assert through(rotated, tmp_path / "upright.mp4").contents.aspect == Fraction(3, 4)
