"""Decoded frames that stay on a device; the CPU takes the device's place where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from engine import ops
from engine.device import host_image
from engine.parity import is_nearly_uniform, psnr_db
from engine.video import FileSource, VideoHardware, video_decoder
from engine.video.color import Color, FromBgr, ToBgr
from engine.video.nvidia.codecs import decoded_surfaces_missing, encoded_surfaces_missing
from engine.video.nvidia.frames import FromDeviceBgr, ToDeviceBgr, padded
from tests.engine.video.nvidia.stand_ins import DEVICES, ON_CPU
from tests.media import bars, frame_of_yuv, make_video, moving_picture, yuv_of
from tests.tolerances import DEVICE_FRAMES_DB


@pytest.mark.parametrize(
    ("codec", "pixel_format", "bits", "color"),
    [
        ("libx264", "yuv420p", 8, (1, 1, 1, 1)),
        ("libx264", "yuv420p", 8, (6, 2, 6, 6)),
        ("libx265", "yuv420p10le", 10, (9, 1, 9, 1)),
        ("libx265", "yuv420p10le", 10, (1, 2, 1, 1)),
        ("libvpx-vp9", "yuv420p", 8, (1, 1, 1, 1)),  # does not say where chroma lies
    ],
)
def test_frames_look_as_in_software(
    tmp_path: Path,
    stand_in: SimpleNamespace,
    codec: str,
    pixel_format: str,
    bits: int,
    color: tuple[int, int, int, int],
) -> None:
    planes = yuv_of(bars(384, 64), color[0], full=color[1] == 2, bits=bits)
    path = make_video(
        tmp_path / "in.mkv",
        pts=[0, 512, 1024],
        size=(384, 64),
        codec=codec,
        pixel_format=pixel_format,
        frames=[frame_of_yuv(planes, pixel_format)],
        color=color,
        options={"x265-params": "log-level=none:bframes=0"} if codec == "libx265" else {},
    )
    expected, source = FileSource(str(path)), FileSource(str(path), hardware=ON_CPU)
    frames = list(source)
    assert stand_in.opened == 1
    assert (source.info, source.media, source.warnings) == (expected.info, expected.media, [])
    for frame, other in zip(frames, expected, strict=True):
        assert isinstance(frame.image, torch.Tensor)
        assert (frame.pts, frame.duration) == (other.pts, other.duration)
        assert psnr_db(host_image(frame.image), host_image(other.image)) >= DEVICE_FRAMES_DB


def hdr(tmp_path: Path) -> Path:
    frame = frame_of_yuv(yuv_of(bars(384, 64), 9, full=False, bits=10), "yuv420p10le")
    return make_video(
        tmp_path / "hdr.mkv",
        pts=[0, 512],
        size=(384, 64),
        codec="libx265",
        pixel_format="yuv420p10le",
        frames=[frame],
        color=(9, 1, 9, 16),
        options={"x265-params": "log-level=none:bframes=0"},
    )


UNSUITABLE = {
    "hdr": hdr,
    "rotated": lambda folder: make_video(folder / "in.mp4", rotation=(90, False, False)),
    "odd": lambda folder: make_video(folder / "in.webm", codec="libvpx-vp9", size=(63, 47), options={"cpu-used": "8"}),
}


@pytest.mark.parametrize("kind", UNSUITABLE)
def test_what_swscale_converts_as_ever(tmp_path: Path, stand_in: SimpleNamespace, kind: str) -> None:
    path = UNSUITABLE[kind](tmp_path)
    expected, source = FileSource(str(path)), FileSource(str(path), hardware=ON_CPU)
    for frame, other in zip(source, expected, strict=True):
        np.testing.assert_array_equal(frame.image, other.image)
    assert (source.hardware, source.warnings) == ("NVDEC", expected.warnings)


def test_a_first_frame_that_looks_otherwise_leaves_all_to_swscale(
    tmp_path: Path, stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if chroma were mixed up: Cb for Cr."""
    convert = ops.yuv_to_bgr
    monkeypatch.setattr(ops, "yuv_to_bgr", lambda luma, chroma, **color: convert(luma, chroma.flip(-1), **color))
    path = make_video(tmp_path / "in.mp4")
    source = FileSource(str(path), hardware=ON_CPU)
    for frame, other in zip(source, FileSource(str(path)), strict=True):
        np.testing.assert_array_equal(frame.image, other.image)
    assert source.hardware == "NVDEC"
    (line,) = source.warnings
    assert "not converted on the device from frame 0 on: it is at" in line


def test_frames_are_compared_until_one_tells_where_chroma_lies(
    tmp_path: Path, stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film that begins in grey, and a conversion in which colours are wrong: seen at the first frame that has any."""
    convert = ops.yuv_to_bgr
    monkeypatch.setattr(ops, "yuv_to_bgr", lambda luma, chroma, **color: convert(luma, chroma.flip(-1), **color))
    grey = [frame_of_yuv(yuv_of(np.full((48, 64, 3), 90, np.uint8), 1, full=False)) for _ in range(4)]
    colourful = [frame_of_yuv(yuv_of(moving_picture(index, 64, 48), 1, full=False)) for index in range(6)]
    path = make_video(tmp_path / "in.mkv", codec="ffv1", frames=[*grey, *colourful], color=(1, 1, 1, 1))
    monkeypatch.setattr(video_decoder, "why_not_decoded", lambda stream: None)
    source = FileSource(str(path), hardware=ON_CPU)
    assert [isinstance(frame.image, torch.Tensor) for frame in source] == [True] * 4 + [False] * 6
    (line,) = source.warnings
    assert "from frame 4 on: it is at" in line


@pytest.mark.parametrize("fail_at", [0, 1, 5])
def test_a_conversion_that_fails_goes_on_in_swscale(
    tmp_path: Path, stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    convert, calls = ops.yuv_to_bgr, iter([0, *range(100)])  # the first frame is converted in two ways

    def failing(*planes: torch.Tensor, **color: Any) -> torch.Tensor:
        if next(calls) == fail_at:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 6 MiB")
        return convert(*planes, **color)

    monkeypatch.setattr(ops, "yuv_to_bgr", failing)
    path = make_video(tmp_path / "in.mp4")
    source = FileSource(str(path), hardware=ON_CPU)
    frames, expected = list(source), list(FileSource(str(path)))
    assert [frame.pts for frame in frames] == [frame.pts for frame in expected]
    assert [isinstance(frame.image, torch.Tensor) for frame in frames] == [i < fail_at for i in range(10)]
    (line,) = source.warnings
    assert line.endswith(f"from frame {fail_at} on: CUDA out of memory.")
    for frame, other in zip(frames, expected, strict=True):
        assert psnr_db(host_image(frame.image), host_image(other.image)) >= DEVICE_FRAMES_DB


def test_frames_that_can_not_be_fetched_are_decoded_in_software(
    tmp_path: Path, stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the device is lost: neither converted there nor downloaded."""
    fetched = iter(range(100))

    def fetch(frame: av.VideoFrame) -> av.VideoFrame:
        if next(fetched):
            raise av.error.ExternalError(542398533, "Generic error in an external library")
        return frame

    convert, calls = ops.yuv_to_bgr, iter([0, *range(100)])

    def failing(*planes: torch.Tensor, **color: Any) -> torch.Tensor:
        if next(calls) == 4:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return convert(*planes, **color)

    monkeypatch.setattr(ops, "yuv_to_bgr", failing)
    monkeypatch.setattr(video_decoder, "in_memory", fetch)
    path = make_video(tmp_path / "in.mp4")
    source = FileSource(str(path), hardware=ON_CPU)
    frames, expected = list(source), list(FileSource(str(path)))
    assert [frame.pts for frame in frames] == [frame.pts for frame in expected]
    assert [isinstance(frame.image, torch.Tensor) for frame in frames] == [i < 4 for i in range(10)]
    np.testing.assert_array_equal(frames[4].image, expected[4].image)
    assert source.hardware == "NVDEC for 4 frames"


# --- parts ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["nv12", "p010le"])
@pytest.mark.parametrize("color", [Color(), Color(matrix=6, range=2)])
def test_there_and_back(device: str, layout: str, color: Color) -> None:
    """On a device: pictures from system memory, uploaded, and back into it."""
    image = moving_picture(3, 640, 360)
    decoded = FromBgr(color, layout)(image)
    expected = ToBgr(color, 640, 360)(decoded)
    convert = ToDeviceBgr(device if device == "cpu" else "cuda:0")
    for _ in range(2):
        on_device = convert(decoded)
        assert convert.failure is None
        assert on_device is not None
        assert on_device.device.type == device
        assert psnr_db(host_image(on_device), expected) >= DEVICE_FRAMES_DB
    back = FromDeviceBgr(color, None)(on_device)
    assert (back.format.name, back.width, back.height) == ("nv12", 640, 360)
    tags = (back.colorspace, back.color_range, back.color_primaries, back.color_trc)
    assert tags == (color.matrix, color.range, color.primaries, color.transfer)
    assert psnr_db(ToBgr(color, 640, 360)(back), expected) >= DEVICE_FRAMES_DB - 4  # its errors, twice


def test_a_film_without_colour_is_not_compared_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of its frames shows where chroma lies."""
    compared: list[int] = []
    grey = moving_picture(3, 64, 48).copy()
    grey[:] = grey[..., :1]
    decoded = FromBgr(Color(), "nv12")(grey)
    convert = ToDeviceBgr("cpu")
    proof = convert._prove
    monkeypatch.setattr(convert, "_prove", lambda frame: compared.append(1) or proof(frame))
    images = [convert(decoded) for _ in range(40)]
    assert len(compared) == 16
    assert all(image is not None and torch.equal(image, images[0]) for image in images)  # type: ignore[arg-type]
    assert convert.failure is None


@pytest.mark.parametrize(("bottom", "right"), [(0, 0), (0, 1), (1, 0), (1, 1), (3, 2)])
def test_padding_repeats_the_edge(bottom: int, right: int) -> None:
    image = moving_picture(0, 9, 7)
    expected = np.pad(image, ((0, bottom), (0, right), (0, 0)), mode="edge")
    np.testing.assert_array_equal(padded(torch.from_numpy(image), bottom, right).numpy(), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_nearly_uniform_as_of_an_array(device: str) -> None:
    for spread in (1, 8, 30, 60):
        image = np.random.default_rng(0).integers(100, 100 + spread, (90, 160, 3), dtype=np.uint8)
        assert is_nearly_uniform(torch.from_numpy(image).to(device)) == is_nearly_uniform(image)


def test_importing_sources_and_sinks_needs_no_torch() -> None:
    code = "import sys, engine.video, engine.pipeline, engine.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_trials_fail_with_a_reason() -> None:
    for trial in (decoded_surfaces_missing, encoded_surfaces_missing):
        reason = trial(VideoHardware(frames_device="cuda:0"))
        assert reason
        assert "\n" not in reason
