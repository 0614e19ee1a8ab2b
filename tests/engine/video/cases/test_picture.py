"""The picture is what the eye should see: fields, colours, sizes and transparency as they change in the film."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from engine.errors import EngineError
from engine.run import main
from tests.engine.video.cases.measures import combing, images, lumas, measure, psnr
from tests.engine.video.cases.media import H264, ffmpeg, join, needs_ffmpeg, sdr_or_hdr
from tests.engine.video.through import through
from tests.media import LUMA_WEIGHTS, bars, frame_of_yuv, make_video, planes_of, read, yuv_of

Made = Callable[[str], Path]

# H.264 at our default quality, of small and busy pictures.
SAME_PSNR_DB = 30

# Of JPEG's matrix, so that no encoder needs another one.
YUV = ("-pix_fmt", "yuv420p", "-colorspace", "smpte170m")

# 8-bit levels: 4:2:0 and the encoder, in the middle of a bar.
COLOR_LEVELS = 8

pytestmark = needs_ffmpeg


def run(identity_style: Path, source: Path, output: Path, *arguments: str) -> int:
    options = ["--style", str(identity_style), "--backend", "eager", "--precision", "fp32", "--quiet"]
    return main([str(source), "-o", str(output), *options, *arguments])


# --- interlaced ---


def test_fields_become_whole_pictures(made: Made, tmp_path: Path) -> None:
    source = made("interlaced.ts")
    result = through(source, tmp_path / "out.mp4")
    whole = tmp_path / "whole.mp4"
    ffmpeg("-i", source, "-vf", "bwdif=mode=send_frame", "-c:v", "libx264", "-crf", "10", whole)
    combed, expected = (np.mean([combing(image) for image in lumas(path)[5:20]]) for path in (source, whole))
    ours = np.mean([combing(image) for image in lumas(result.path)[5:20]])
    assert combed > 1.15 * expected, "the input isn't combed"
    assert ours < expected + 0.25 * (combed - expected)
    times, input_times = measure(result.path).times, measure(source).times
    assert [time - times[0] for time in times] == [time - input_times[0] for time in input_times]
    assert any("interlace" in line for line in result.warnings)


def test_fields_stay_if_the_user_wants_them(made: Made, identity_style: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    assert run(identity_style, made("interlaced.ts"), output, "--deinterlace", "no") == 0
    for image, before in zip(lumas(output)[5:20], lumas(made("interlaced.ts"))[5:20], strict=True):
        assert combing(image) > 0.9 * combing(before)


def test_a_progressive_film_is_not_touched(made: Made, tmp_path: Path) -> None:
    result = through(made("clip.mp4"), tmp_path / "out.mp4")
    assert not [line for line in result.warnings if "interlace" in line]
    assert psnr(lumas(result.path)[10], lumas(made("clip.mp4"))[10]) > SAME_PSNR_DB


# --- what changes in the middle ---


@pytest.mark.parametrize("order", [("sdr", "hdr"), ("hdr", "sdr")])
def test_every_frame_is_tone_mapped_as_its_own_kind(order: tuple[str, str], tmp_path: Path) -> None:
    parts = [sdr_or_hdr(tmp_path / f"{kind}.ts", hdr=kind == "hdr", start=at) for at, kind in enumerate(order)]
    alone = [images(through(part, tmp_path / f"{part.stem}.mp4").path) for part in parts]
    result = through(join(tmp_path / "in.ts", parts), tmp_path / "out.mp4")
    joined = images(result.path)
    assert len(joined) == 50
    assert measure(result.path).steps == {Fraction(1, 25)}
    for index in (3, 12, 22):
        assert psnr(joined[index], alone[0][index]) > SAME_PSNR_DB - 1
        assert psnr(joined[25 + index], alone[1][index]) > SAME_PSNR_DB - 1
    assert any("HDR" in line for line in result.warnings)


def test_a_portrait_is_fitted_with_bars(made: Made, tmp_path: Path) -> None:
    source = tmp_path / "in.ts"
    source.write_bytes(made("landscape.ts").read_bytes() + made("portrait.ts").read_bytes())
    result = through(source, tmp_path / "out.mp4")
    pictures = images(result.path)
    assert len(pictures) == 50
    portrait = images(made("portrait.ts"))[10]
    for picture, upright in ((pictures[35], portrait),):
        assert picture.shape == (90, 160, 3)
        assert picture[:, :50].mean() < 8
        assert picture[:, -50:].mean() < 8
        width = round(90 * 90 / 160)
        left = (160 - width) // 2
        expected = cv2.resize(upright, (width, 90), interpolation=cv2.INTER_AREA)
        fitted = picture[:, left : left + width]
        assert psnr(fitted[4:-4, 4:-4], expected[4:-4, 4:-4]) > 16
    assert any("90x160" in line or "bars" in line for line in result.warnings)


@pytest.mark.parametrize("first_is_full", [False, True])
def test_the_range_may_change(first_is_full: bool, tmp_path: Path) -> None:
    parts = []
    for index, full in enumerate((first_is_full, not first_is_full)):
        frame = frame_of_yuv(yuv_of(bars(), 1, full=full))
        pts = [(25 * index + step) * 3600 for step in range(25)]
        settings = {"color": (1, 2 if full else 1, 1, 1), "options": {"crf": "4", "bf": "0", "g": "5"}}
        part = tmp_path / f"{index}.ts"
        parts.append(
            make_video(part, pts=pts, time_base=Fraction(1, 90000), size=(384, 64), frames=[frame], **settings)
        )
    result = through(join(tmp_path / "in.ts", parts), tmp_path / "out.mp4")
    assert_bars(result.path, (5, 20, 30, 45))


def assert_bars(path: Path, indices: tuple[int, ...]) -> None:
    """The colour bars are those that were drawn, by the tags of the output."""
    pictures = read(path)
    middle = slice(28, 36), slice(16, None, 32)
    for index in indices:
        difference = np.abs(pictures.image(index)[middle].astype(int) - bars()[middle])
        assert difference.max() <= COLOR_LEVELS, f"frame {index}: {difference.max()} levels"


# --- matrices ---


def ycgco(bgr: np.ndarray) -> np.ndarray:
    """Y, Cg, Co in limited range (H.273, MatrixCoefficients 8)."""
    b, g, r = np.moveaxis(bgr.astype(np.float64) / 255, -1, 0)
    y, cg, co = 0.25 * r + 0.5 * g + 0.25 * b, 0.5 * g - 0.25 * (r + b), 0.5 * (r - b)
    return np.round(np.stack([219 * y + 16, 224 * cg + 128, 224 * co + 128], -1))


@pytest.mark.parametrize(
    ("matrix", "name"),
    [(8, "ycgco"), (12, "chroma"), (7, "240m"), (4, "fcc"), (11, "2085")],
)
def test_every_matrix_is_converted_or_named(matrix: int, name: str, tmp_path: Path) -> None:
    samples = ycgco(bars()) if matrix == 8 else yuv_of(bars(), matrix if matrix in LUMA_WEIGHTS else 1, full=False)
    plain = make_video(
        tmp_path / "plain.mp4", size=(384, 64), frames=[frame_of_yuv(samples)], options={"crf": "4", "bf": "0"}
    )
    source = tmp_path / "in.mp4"
    labels = f"h264_metadata=matrix_coefficients={matrix}:colour_primaries=1:transfer_characteristics=1"
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", f"{labels}:video_full_range_flag=0", source)
    result = through(source, tmp_path / "out.mp4")
    noted = [line for line in result.warnings if name in line.lower()]
    if not noted:
        assert_bars(result.path, (3,))


def test_rgb_stays_rgb(tmp_path: Path) -> None:
    """Matrix 0: the planes are green, blue and red."""
    frame = av.VideoFrame.from_ndarray(bars(), "bgr24").reformat(format="gbrp")
    source = make_video(
        tmp_path / "in.mkv", codec="libx264rgb", pixel_format="bgr24", size=(384, 64),
        frames=[frame.reformat(format="bgr24")], options={"crf": "4"},
    )  # fmt: skip
    assert_bars(through(source, tmp_path / "out.mp4").path, (3,))


@pytest.mark.parametrize("axis", [0, 1], ids=["down", "right"])
def test_chroma_stays_in_its_place(axis: int, tmp_path: Path) -> None:
    """Chroma samples lie at the left of two pixels, in the middle of two rows: BGR and back must not move them."""
    period = 16  # chroma samples
    y, x = np.mgrid[0:128, 0:128].astype(np.float64)
    wave = 40 * np.sin(2 * np.pi * (x if axis else y) / 2 / period)
    samples = np.round(np.stack([np.full_like(wave, 128), 128 + wave, 128 - wave], -1))
    frames = [frame_of_yuv(samples)]
    source = make_video(
        tmp_path / "in.mp4", size=(128, 128), frames=frames, color=(1, 1, 1, 1), options={"crf": "2", "bf": "0"}
    )
    result = through(source, tmp_path / "out.mp4", crf=2)
    for plane in (1, 2):
        before, after = (
            np.angle(np.fft.fft(planes_of(read(path).frames[3])[plane].mean(axis=1 - axis))[64 // period])
            for path in (source, result.path)
        )
        moved = abs(np.angle(np.exp(1j * (after - before)))) * period / (2 * np.pi)
        assert moved < 0.05, f"{moved:.2f} chroma samples"


# --- transparency ---


@pytest.mark.parametrize("name", ["alpha.webm", "alpha.mov", "alpha.gif"])
def test_what_is_transparent_shows_black(name: str, made: Made, tmp_path: Path) -> None:
    result = through(made(name), tmp_path / "out.mp4")
    picture = images(result.path)[5].astype(int)
    assert picture[45:75, 55:105].mean(axis=(0, 1)) == pytest.approx([254, 0, 0], abs=12)
    for corner in (picture[:20, :25], picture[-20:, -25:]):
        assert corner.max() < 24
    assert any("transparen" in line or "alpha" in line for line in result.warnings)
    assert result.frames == len(images(made(name)))


@pytest.mark.parametrize("name", ["alpha.webm", "alpha.mov"])
def test_the_background_can_be_chosen(name: str, made: Made, identity_style: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    assert run(identity_style, made(name), output, "--background", "white") == 0
    picture = images(output)[5].astype(int)
    assert picture[:20, :25].min() > 235
    assert picture[45:75, 55:105].mean(axis=(0, 1)) == pytest.approx([254, 0, 0], abs=12)


# --- encoders ---


def test_h265_in_mp4_is_marked_for_apple(made: Made, tmp_path: Path) -> None:
    result = through(made("clip.mp4"), tmp_path / "out.mp4", codec="libx265")
    with av.open(str(result.path)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
    assert b"hev1" not in result.path.read_bytes()


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("mpeg4", ".mp4"),
        ("mjpeg", ".mov"),
        ("dnxhd", ".mov"),
        ("rawvideo", ".mov"),
        ("libvpx-vp9", ".webm"),
        ("prores_ks", ".mov"),
    ],
)
@pytest.mark.parametrize("size", ["160x90", "1280x720"])
def test_every_encoder_is_good_by_default_or_says_what_it_takes(
    codec: str, suffix: str, size: str, tmp_path: Path
) -> None:
    source = tmp_path / "in.mp4"
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d=0.4", *YUV, *H264, "-crf", "4", source)
    output = tmp_path / f"out{suffix}"
    try:
        through(source, output, codec=codec)
    except EngineError as error:
        message = str(error)
        assert codec in message
        assert "hardware" not in message
        assert any(word in message for word in ("pixel format", "size", "yuv", "1280x720", "read"))
        assert list(tmp_path.iterdir()) == [source]
        return
    written = lumas(output)
    assert len(written) == 10
    assert min(psnr(ours, theirs) for ours, theirs in zip(written, lumas(source), strict=True)) > 33


def test_a_gif_has_a_palette_of_its_own(tmp_path: Path) -> None:
    """As good as the two filters of FFmpeg that are made for this."""
    source, theirs = tmp_path / "in.mp4", tmp_path / "theirs.gif"
    gradient = "gradients=s=160x90:r=10:d=1:c0=0x803020:c1=0xe0c090:speed=0.05"
    ffmpeg("-f", "lavfi", "-i", gradient, "-pix_fmt", "yuv420p", *H264, "-crf", "4", source)
    ffmpeg("-i", source, "-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse", theirs)
    ours = through(source, tmp_path / "out.gif").path
    before = images(source)
    quality, reference = (
        np.mean([psnr(image, other) for image, other in zip(images(path), before, strict=True)])
        for path in (ours, theirs)
    )
    assert quality > min(reference - 1.5, 50)
