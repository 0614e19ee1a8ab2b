"""The picture is what the eye should see, measured in pixels, and follows what every frame says of itself."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engine.parity import psnr_db
from engine.video import open_source
from engine.video.color import MATRIX_BT709, Color, FromBgr, ToBgr
from engine.video.matrices import luma_weights, rgb_of
from engine.video.picture import Pictures
from engine.video.tonemap import tone_map
from tests.engine.video.through import through
from tests.media import BARS_BGR, bars, make_video, moving_picture, read
from tests.tolerances import COLOR_BARS_LEVELS, MATRIX_LEVELS


def frame_of(bgr: np.ndarray, **tags: int) -> av.VideoFrame:
    frame = FromBgr(Color(), "yuv420p")(bgr)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    for name, value in tags.items():
        setattr(frame, name, value)
    return frame


def yuv444(ycc: np.ndarray, matrix: int, *, full: bool, primaries: int = 1, transfer: int = 1) -> av.VideoFrame:
    """A 10-bit frame of luma in 0..1 and chroma in -0.5..0.5."""
    frame = av.VideoFrame(ycc.shape[1], ycc.shape[0], "yuv444p10le")
    scale, shift = ((1023, 1023, 1023), (0, 512, 512)) if full else ((876, 896, 896), (64, 512, 512))
    for index, plane in enumerate(frame.planes):
        samples = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        samples[:, : plane.width] = np.clip(np.rint(ycc[..., index] * scale[index] + shift[index]), 0, 1023)
        plane.update(samples)
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    frame.color_primaries, frame.color_trc = primaries, transfer
    return frame


def bar_centres(image: np.ndarray) -> np.ndarray:
    step = image.shape[1] // len(BARS_BGR)
    return image[image.shape[0] // 2, step // 2 :: step].astype(int)


# --- matrices ---


def ycgco(rgb: np.ndarray) -> np.ndarray:
    r, g, b = np.moveaxis(rgb, -1, 0)
    return np.stack([g / 2 + (r + b) / 4, g / 2 - (r + b) / 4, (r - b) / 2], -1)


def by_weights(rgb: np.ndarray, red: float, blue: float) -> np.ndarray:
    y = rgb @ (red, 1 - red - blue, blue)
    return np.stack([y, (rgb[..., 2] - y) / (2 * (1 - blue)), (rgb[..., 0] - y) / (2 * (1 - red))], -1)


def oetf(light: np.ndarray) -> np.ndarray:
    return np.where(light < 0.018054, 4.5 * light, 1.0992968 * np.maximum(light, 1e-9) ** 0.45 - 0.0992968)


def bt2020_constant_luminance(rgb: np.ndarray) -> np.ndarray:
    """ITU-R BT.2020, table 4."""
    light = np.where(rgb < 0.0812429, rgb / 4.5, ((rgb + 0.0992968) / 1.0992968) ** (1 / 0.45))
    y = oetf(light @ (0.2627, 0.6780, 0.0593))
    blue, red = rgb[..., 2] - y, rgb[..., 0] - y
    cb = np.where(blue <= 0, blue / 1.9404, blue / 1.5816)
    cr = np.where(red <= 0, red / 1.7184, red / 0.9936)
    return np.stack([y, cb, cr], -1)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "primaries", "forward"),
    [
        (8, 1, ycgco),
        (10, 9, bt2020_constant_luminance),
        (12, 1, lambda rgb: by_weights(rgb, 0.2126, 0.0722)),
        (12, 9, lambda rgb: by_weights(rgb, 0.2627, 0.0593)),
        (13, 9, bt2020_constant_luminance),
    ],
)
def test_matrices_that_swscale_lacks(matrix: int, primaries: int, forward: object, full: bool) -> None:
    bgr = bars()
    frame = yuv444(forward(bgr[..., ::-1] / 255), matrix, full=full, primaries=primaries)
    pictures = Pictures("x", frame)
    assert np.abs(bar_centres(pictures.image(frame)) - BARS_BGR).max() <= MATRIX_LEVELS
    assert pictures.notes == []


@pytest.mark.parametrize("transfer", [16, 18])
def test_ictcp_is_that_of_bt2100(transfer: int) -> None:
    """Grey has no chroma; what the formulas make of a colour, they find again."""
    grey = np.stack([np.linspace(0, 1, 11), np.zeros(11), np.zeros(11)], -1)
    rgb = rgb_of(grey, Color(14, 1, 9, transfer))
    np.testing.assert_allclose(rgb, np.repeat(grey[:, :1], 3, 1), atol=2e-3)
    frame = yuv444(np.tile(grey[5], (16, 16, 1)), 14, full=False, primaries=9, transfer=transfer)
    pictures = Pictures("x", frame)
    expected = tone_map(np.full((1, 3), 0.5), transfer)[0] * 255
    assert np.abs(pictures.image(frame)[8, 8] - expected).max() <= 2
    assert any("tone-mapped" in line for line in pictures.notes)


def test_weights_of_derived_matrices_are_those_of_the_standards() -> None:
    np.testing.assert_allclose(luma_weights(Color(12, 1, 1)), (0.2126, 0.0722), atol=1e-4)
    np.testing.assert_allclose(luma_weights(Color(12, 1, 9)), (0.2627, 0.0593), atol=1e-4)


@pytest.mark.parametrize(("matrix", "name"), [(11, "ST 2085"), (15, "IPT"), (16, "YCgCo-Re")])
def test_a_matrix_that_is_not_converted_is_named(matrix: int, name: str) -> None:
    frame = frame_of(bars(), colorspace=matrix)
    pictures = Pictures("x", frame)
    pictures.image(frame)
    assert len(pictures.notes) == 1
    assert name in pictures.notes[0] or "Dolby" in pictures.notes[0]


def test_usual_frames_are_converted_as_ever() -> None:
    frame = frame_of(moving_picture(0, 128, 96), colorspace=1, color_range=1)
    pictures = Pictures("x", frame)
    np.testing.assert_array_equal(pictures.image(frame), ToBgr(Color(1, 1), 128, 96)(frame))
    assert pictures.notes == []


# --- what changes on the way ---


def test_range_transfer_and_matrix_are_followed() -> None:
    grey = np.full((48, 64, 3), 128, np.uint8)
    first = frame_of(grey, colorspace=1, color_range=1)
    pictures = Pictures("x", first)
    assert abs(int(pictures.image(first)[20, 20, 0]) - 128) <= 2
    full = frame_of(grey, colorspace=1, color_range=2)
    luma = np.frombuffer(full.planes[0], np.uint8)[20]
    assert abs(int(pictures.image(full)[20, 20, 0]) - int(luma)) <= 1  # full range: luma is the level
    hdr = frame_of(grey, colorspace=9, color_range=1, color_trc=16, color_primaries=9)
    expected = tone_map(np.full((1, 3), (int(luma) - 16) / 219), 16)[0] * 255
    assert np.abs(pictures.image(hdr)[20, 20] - expected).max() <= COLOR_BARS_LEVELS
    assert pictures.notes == ["x: HDR is tone-mapped to standard dynamic range (BT.709) from frame 2 on"]
    assert abs(int(pictures.image(first)[20, 20, 0]) - 128) <= 2


def test_another_size_is_fitted_with_bars() -> None:
    first = frame_of(np.full((180, 320, 3), 200, np.uint8), colorspace=1)
    portrait = frame_of(np.full((320, 180, 3), 200, np.uint8), colorspace=1)
    pictures = Pictures("x", first)
    pictures.image(first)
    image = pictures.image(portrait)
    assert image.shape == (180, 320, 3)
    width = 180 * 180 // 320  # 101
    left = (320 - width) // 2
    assert image[:, : left - 1].max() == 0
    assert image[:, left + width + 1 :].max() == 0
    assert np.abs(image[:, left + 2 : left + width - 2].astype(int) - 200).max() <= 3
    assert pictures.notes == ["x: 1 frames of another size were fitted into 320x180 with bars"]


# --- interlaced video ---


def interlaced_clip(path: Path, *, frames: int = 12, size: tuple[int, int] = (128, 96)) -> Path:
    """A picture that moves two pixels with every field, top field first; MPEG-2 says that it is interlaced."""
    fields = [np.roll(stripes(*size), 2 * index, axis=1) for index in range(2 * frames)]
    pictures = []
    for index in range(frames):
        image = fields[2 * index].copy()
        image[1::2] = fields[2 * index + 1][1::2]
        pictures.append(av.VideoFrame.from_ndarray(image, "bgr24").reformat(format="yuv420p"))
    return make_video(
        path,
        pts=list(range(frames)),
        time_base=Fraction(1, 25),
        size=size,
        frames=pictures,
        codec="mpeg2video",
        options={"flags": "+ilme+ildct", "field_order": "tt", "q": "2", "qmin": "1", "qmax": "2", "bf": "0"},
    )


def stripes(width: int, height: int) -> np.ndarray:
    wave = 128 + 90 * np.sin(2 * np.pi * np.arange(width) / 32)
    return np.repeat(np.repeat(wave[None, :, None], height, 0), 3, 2).astype(np.uint8)


def combing(image: np.ndarray) -> float:
    """How much more neighbouring rows differ than rows of the same field do."""
    rows = image[8:-8, 8:-8].astype(float)
    return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())


@pytest.mark.parametrize("frames", [2, 12])
def test_interlaced_video_is_deinterlaced(tmp_path: Path, frames: int) -> None:
    source = interlaced_clip(tmp_path / "in.mpg", frames=frames)
    kept = list(open_source(str(source), deinterlace=False))
    opened = open_source(str(source))
    whole = list(opened)
    assert [frame.pts for frame in whole] == [frame.pts for frame in kept]
    assert [frame.duration for frame in whole] == [frame.duration for frame in kept]
    assert len(whole) == frames
    for index in range(frames):
        assert combing(kept[index].image) > 5
        assert combing(whole[index].image) < 1
        fields = [np.roll(stripes(128, 96), 4 * index + shift, axis=1)[8:-8, 8:-8] for shift in (0, 2)]
        assert max(psnr_db(whole[index].image[8:-8, 8:-8], field) for field in fields) > 28
    assert any(f"{frames} interlaced frames were deinterlaced" in line for line in opened.warnings)


def test_progressive_video_is_left_alone(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4")
    opened = open_source(str(source))
    for actual, expected in zip(opened, open_source(str(source), deinterlace=False), strict=True):
        np.testing.assert_array_equal(actual.image, expected.image)
    assert opened.warnings == []


# --- transparency ---


def transparent_clip(path: Path, codec: str, pixel_format: str) -> Path:
    """A blue box; red where nothing is to be seen."""
    rgba = np.zeros((96, 128, 4), np.uint8)
    rgba[...] = (255, 0, 0, 0)
    rgba[32:64, 32:96] = (0, 0, 255, 255)
    frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format=pixel_format)
    return make_video(path, pts=[0, 512], size=(128, 96), frames=[frame], codec=codec, pixel_format=pixel_format)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix"),
    [
        ("prores_ks", "yuva444p10le", ".mov"),
        ("png", "rgba", ".mov"),
        ("ffv1", "yuva420p", ".mkv"),
        ("libvpx-vp9", "yuva420p", ".webm"),
    ],
)
@pytest.mark.parametrize("background", [(0, 0, 0), (60, 200, 10)])
def test_transparent_places_show_the_background(
    tmp_path: Path, codec: str, pixel_format: str, suffix: str, background: tuple[int, int, int]
) -> None:
    opened = open_source(str(transparent_clip(tmp_path / f"in{suffix}", codec, pixel_format)), background=background)
    image = next(iter(opened)).image.astype(int)
    assert np.abs(image[8, 8] - background).max() <= COLOR_BARS_LEVELS
    assert np.abs(image[48, 64] - (255, 0, 0)).max() <= COLOR_BARS_LEVELS
    assert len([line for line in opened.warnings if "transparent" in line and "--background" in line]) == 1


def test_transparent_gif(tmp_path: Path) -> None:
    indices = np.zeros((48, 64), np.uint8)
    indices[16:32, 16:48] = 1
    path = tmp_path / "in.gif"
    path.write_bytes(gif_of(indices, [(255, 0, 0), (0, 0, 255)], transparent=0))
    opened = open_source(str(path))
    image = next(iter(opened)).image
    assert image[4, 4].tolist() == [0, 0, 0]
    assert image[24, 32].tolist() == [255, 0, 0]
    assert any("transparent" in line for line in opened.warnings)


def gif_of(indices: np.ndarray, palette: list[tuple[int, int, int]], *, transparent: int) -> bytes:
    """A GIF of one frame, its codes written without compression: a clear code before the table can grow."""
    height, width = indices.shape
    header = b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\x91\0\0"
    colors = b"".join(bytes(color) for color in palette) + bytes(3 * (4 - len(palette)))
    control = b"\x21\xf9\x04\x01\x04\x00" + bytes([transparent]) + b"\0"
    image = b"\x2c\0\0\0\0" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\0"
    codes = []
    for index in indices.ravel().tolist():
        codes += [4, index]  # clear, pixel: three bits each
    bits = "".join(f"{code:03b}"[::-1] for code in [*codes, 5])
    data = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    blocks = b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))
    return header + colors + control + image + b"\x02" + blocks + b"\0\x3b"


def test_opaque_pictures_with_alpha_have_no_note(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mov", codec="png", pixel_format="rgba")
    opened = open_source(str(source))
    list(opened)
    assert opened.warnings == []


# --- chroma ---


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", ".mp4"), ("libx265", ".mp4"), ("mpeg2video", ".mkv"), ("libvpx-vp9", ".webm")]
)
def test_chroma_stays_in_its_place(tmp_path: Path, codec: str, suffix: str) -> None:
    """The place of an edge between blue and red after five passes, in pixels."""
    image = np.zeros((96, 256, 3), np.uint8)
    image[:, :128], image[:, 128:] = (255, 0, 0), (0, 0, 255)
    path = tmp_path / "in.mkv"
    frame = FromBgr(Color(MATRIX_BT709), "yuv444p")(image)
    make_video(path, size=(256, 96), frames=[frame], codec="ffv1", pixel_format="yuv444p")
    for number in range(5):
        path = through(path, tmp_path / f"{number}{suffix}", codec=codec).path
    (first, *_) = open_source(str(path))
    red = first.image[48, :, 2].astype(float)
    right = int(np.argmax(red > 127))
    place = right - 1 + (127.5 - red[right - 1]) / (red[right] - red[right - 1])
    assert abs(place - 127.5) < 0.5
    assert read(path).size == (256, 96)
