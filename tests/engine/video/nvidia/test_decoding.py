"""What comes back from the hardware decoder, and software in its place where it fails."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from engine.errors import SourceError
from engine.video import FileSource, VideoHardware, open_source, video_decoder
from engine.video.file_sink import FileSink
from engine.video.nvidia import codecs
from engine.video.nvidia.trials import decoder_missing
from tests.engine.video.nvidia.stand_ins import StandInStream, assert_same, no_gpu, psnr
from tests.engine.video.through import through
from tests.media import Audio, bars, damage, frame_of_yuv, make_video, yuv_of
from tests.tolerances import HARDWARE_DECODER_DB

# --- what comes back from it ---


@pytest.mark.parametrize(
    ("codec", "pixel_format", "bits", "size", "color"),
    [
        ("libx264", "yuv420p", 8, (384, 64), (1, 1, 1, 1)),
        ("libx264", "yuv420p", 8, (384, 64), (6, 1, 6, 6)),
        ("libx264", "yuv420p", 8, (384, 64), (1, 2, 1, 1)),
        ("libx265", "yuv420p", 8, (384, 64), (9, 1, 9, 1)),
        ("libx265", "yuv420p10le", 10, (384, 64), (1, 1, 1, 1)),
        ("libx265", "yuv420p10le", 10, (384, 64), (9, 2, 9, 14)),
        ("libx265", "yuv420p10le", 10, (384, 64), (9, 1, 9, 16)),
        ("libx265", "yuv420p10le", 10, (384, 64), (9, 1, 9, 18)),
    ],
)
def test_colours_are_those_of_software(
    tmp_path: Path,
    stand_in: SimpleNamespace,
    codec: str,
    pixel_format: str,
    bits: int,
    size: tuple[int, int],
    color: tuple[int, int, int, int],
) -> None:
    planes = yuv_of(bars(*size), color[0], full=color[1] == 2, bits=bits)
    path = make_video(
        tmp_path / "in.mkv",
        pts=[0, 512],
        size=size,
        codec=codec,
        pixel_format=pixel_format,
        frames=[frame_of_yuv(planes, pixel_format)],
        color=color,
        options={"x265-params": "log-level=none:bframes=0"} if codec == "libx265" else {},
    )
    assert_same(FileSource(str(path)), FileSource(str(path), hardware=VideoHardware()))
    assert stand_in.opened == 1


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1), (62, 46), (640, 360)])
def test_every_size_is_converted_as_software_does(
    tmp_path: Path, stand_in: SimpleNamespace, size: tuple[int, int]
) -> None:
    path = make_video(tmp_path / "in.webm", pts=[0, 512], codec="libvpx-vp9", size=size, options={"cpu-used": "8"})
    assert_same(FileSource(str(path)), FileSource(str(path), hardware=VideoHardware()))
    assert stand_in.opened == 1


def test_timestamps_and_tracks_are_those_of_software(tmp_path: Path, stand_in: SimpleNamespace) -> None:
    pts = [0, 100, 1000, 1512, 5000, 5001, 5600, 9000]
    path = make_video(
        tmp_path / "in.mp4",
        pts=pts,
        last_duration=700,
        audio=(Audio(),),
        aspect=Fraction(4, 3),
        rotation=(90, True, False),
    )
    source = FileSource(str(path), hardware=VideoHardware())
    assert [frame.pts for frame in source] == pts
    software, by_hardware = through(path, tmp_path / "a.mp4"), tmp_path / "b.mp4"
    source = open_source(str(path), hardware=VideoHardware())
    sink = FileSink(by_hardware, info=source.info, media=source.media)
    for frame in source:
        sink.write(frame)
    sink.finish()
    assert by_hardware.read_bytes() == software.path.read_bytes()


# --- what fails ---


def failures() -> list[Any]:
    return [
        pytest.param(av.error.InvalidDataError(1094995529, "Invalid data"), id="invalid"),
        pytest.param(av.error.ExternalError(542398533, "Generic error in an external library"), id="external"),
        pytest.param(DeviceMemoryError(12, "Cannot allocate memory"), id="memory"),
        pytest.param(RuntimeError("no hardware"), id="runtime"),
    ]


class DeviceMemoryError(OSError):
    """As FFmpeg's errors that are the system's."""


@pytest.mark.parametrize("is_wanted", [False, True])
@pytest.mark.parametrize("fail_at", [0, 1, 5, 9])
@pytest.mark.parametrize("error", failures())
def test_software_goes_on_where_hardware_fails(
    tmp_path: Path, stand_in: SimpleNamespace, fail_at: int, error: Exception, is_wanted: bool
) -> None:
    path = make_video(tmp_path / "in.mp4")
    stand_in.fail_at, stand_in.error = fail_at, error
    source = FileSource(str(path), hardware=VideoHardware(is_wanted=is_wanted))
    assert_same(FileSource(str(path)), source)
    assert source.hardware == (f"NVDEC for {fail_at} frames" if fail_at else "")
    assert len(source.warnings) == is_wanted
    assert all(f"software from frame {fail_at} on" in line for line in source.warnings)


@pytest.mark.parametrize("error", [SourceError("can't be opened"), RuntimeError("no stream is compatible")])
def test_hardware_that_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(spec: str, hardware: VideoHardware) -> None:
        raise error

    monkeypatch.setattr(codecs, "open_on_hardware", refuse)
    monkeypatch.setattr(video_decoder, "decoder_missing", lambda index: None)
    path = make_video(tmp_path / "in.mp4")
    source = FileSource(str(path), hardware=VideoHardware())
    assert_same(FileSource(str(path)), source)
    assert (source.hardware, source.warnings) == ("", [])


@no_gpu
def test_a_device_that_is_not_there_after_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's own refusal, of opening a real file on hardware."""
    monkeypatch.setattr(video_decoder, "decoder_missing", lambda index: None)
    path = make_video(tmp_path / "in.mp4")
    source = FileSource(str(path), hardware=VideoHardware())
    assert_same(FileSource(str(path)), source)
    assert source.hardware == ""


def test_frames_that_are_not_the_hardwares(
    tmp_path: Path, stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandInStream, "decode", lambda self, packet: self.real.decode(packet))
    path = make_video(tmp_path / "in.mp4")
    source = FileSource(str(path), hardware=VideoHardware())
    assert_same(FileSource(str(path)), source)
    assert (stand_in.opened, source.hardware) == (1, "")


def test_frames_of_another_size_than_the_stream(
    tmp_path: Path, stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FFmpeg gives them where a picture is cropped at the left or top."""
    decode = StandInStream.decode

    def uncropped(self: StandInStream, packet: av.Packet) -> list[av.VideoFrame]:
        return [frame.reformat(width=frame.width + 2) for frame in decode(self, packet)]

    monkeypatch.setattr(StandInStream, "decode", uncropped)
    path = make_video(tmp_path / "in.mp4")
    source = FileSource(str(path), hardware=VideoHardware())
    assert_same(FileSource(str(path)), source)
    assert source.hardware == ""


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_damaged_files_are_as_in_software(tmp_path: Path, stand_in: SimpleNamespace, suffix: str, seed: int) -> None:
    path = make_video(
        tmp_path / f"in{suffix}", pts=[512 * index for index in range(60)], size=(160, 128), options={"g": "12"}
    )
    damage(path, 0.45, 0.02, seed=seed)
    software, by_hardware = FileSource(str(path)), FileSource(str(path), hardware=VideoHardware())
    assert_same(software, by_hardware)
    assert by_hardware.warnings == software.warnings


def test_closing_early_ends_the_hardware(tmp_path: Path, stand_in: SimpleNamespace) -> None:
    source = FileSource(str(make_video(tmp_path / "in.mp4")), hardware=VideoHardware())
    for number, _ in enumerate(source):
        if number == 3:
            source.close()
    assert number == 3


# --- with a GPU ---


@pytest.mark.needs_cuda
@pytest.mark.parametrize(
    ("codec", "pixel_format", "options"),
    [
        ("libx264", "yuv420p", {}),
        ("libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
        ("mpeg2video", "yuv420p", {}),
    ],
)
def test_hardware_decodes_as_software_does(
    tmp_path: Path, codec: str, pixel_format: str, options: dict[str, str]
) -> None:
    if reason := decoder_missing(0):
        pytest.skip(reason)
    is_constant = codec == "mpeg2video"  # it knows a few frame rates and nothing between
    path = make_video(
        tmp_path / ("in.ts" if is_constant else "in.mp4"),
        pts=[index if is_constant else 512 * index + 100 * (index % 3) for index in range(60)],
        time_base=Fraction(1, 25 if is_constant else 12800),
        codec=codec,
        pixel_format=pixel_format,
        size=(640, 360),
        options=options,
    )
    source = FileSource(str(path), hardware=VideoHardware(is_wanted=True))
    expected, frames = list(FileSource(str(path))), list(source)
    assert (source.hardware, source.warnings) == ("NVDEC", [])
    assert [(frame.pts, frame.duration) for frame in frames] == [(frame.pts, frame.duration) for frame in expected]
    assert min(psnr(a.image, b.image) for a, b in zip(frames, expected, strict=True)) >= HARDWARE_DECODER_DB
