"""The hardware encoder, and software in its place where it is missing or does not take a video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.video import Frame, VideoHardware, video_encoder
from engine.video.encoders import VideoParameters
from engine.video.file_sink import FileSink
from engine.video.nvidia import codecs
from engine.video.nvidia.codecs import why_not_encoded
from engine.video.nvidia.trials import encoder_missing
from tests.engine.video.nvidia.stand_ins import no_gpu, psnr
from tests.media import moving_picture, read
from tests.tolerances import HARDWARE_ENCODER_DB


def encode(path: Path, size: tuple[int, int] = (320, 240), count: int = 10, **options: Any) -> FileSink:
    sink = FileSink(path, info=SimpleNamespace(frame_rate=Fraction(25), time_base=Fraction(1, 12800)), **options)
    for index in range(count):
        sink.write(Frame(moving_picture(index, *size), pts=index * 512, duration=512))
    sink.finish()
    return sink


@pytest.fixture
def stand_in_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libx265 for the hardware: whoever reads the file sees which encoder it was."""
    monkeypatch.setattr(video_encoder, "ENCODER", "libx265")
    monkeypatch.setattr(video_encoder, "why_not_encoded", lambda *_: None)
    monkeypatch.setattr(video_encoder, "nvenc_options", lambda hardware, crf: {"x265-params": "log-level=none"})


@no_gpu
@pytest.mark.parametrize("is_wanted", [False, True])
def test_an_encoder_that_is_not_there_is_libx264(tmp_path: Path, is_wanted: bool) -> None:
    plain = encode(tmp_path / "plain.mp4")
    sink = encode(tmp_path / "out.mp4", hardware=VideoHardware(is_wanted=is_wanted))
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()
    assert (plain.hardware, sink.hardware) == ("", "")
    assert len(sink.warnings) == is_wanted
    assert all("encoded by libx264" in line for line in sink.warnings)


@no_gpu
def test_an_encoder_whose_trial_fails_is_libx264(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only the picture's size is refused: the trial has passed, opening fails."""
    monkeypatch.setattr(codecs, "encoder_missing", lambda index: None)
    sink = encode(tmp_path / "out.mp4", hardware=VideoHardware(is_wanted=True))
    assert any("can't be opened for 320x240" in line for line in sink.warnings)
    assert read(tmp_path / "out.mp4").codec == "h264"


def test_the_hardware_encoder_is_taken(tmp_path: Path, stand_in_encoder: None) -> None:
    sink = encode(tmp_path / "out.mp4", hardware=VideoHardware())
    contents = read(tmp_path / "out.mp4")
    assert contents.codec == "hevc"
    assert sink.hardware == "libx265"
    assert [time * 25 for time in contents.times] == list(range(10))
    assert sink.warnings == []


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mp4", "mpeg4"), (".webm", None), (".gif", None)])
def test_a_codec_by_name_and_other_formats_stay(
    tmp_path: Path, stand_in_encoder: None, suffix: str, codec: str | None
) -> None:
    sink = encode(tmp_path / f"out{suffix}", codec=codec, hardware=VideoHardware())
    assert sink.hardware == ""
    assert read(tmp_path / f"out{suffix}").codec != "hevc"


@pytest.mark.parametrize("crf", [0, 51])
def test_qualities_that_the_hardware_has_not(crf: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "encoder_missing", lambda index: None)
    video = VideoParameters(640, 360, rate=Fraction(25), time_base=Fraction(1, 25))
    assert "--crf" in str(why_not_encoded(VideoHardware(), crf, video))


# --- with a GPU ---


@pytest.mark.needs_cuda
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_hardware_encodes_as_software_does(tmp_path: Path, suffix: str) -> None:
    if reason := encoder_missing(0):
        pytest.skip(reason)
    encode(tmp_path / f"software{suffix}", (640, 360), 60)
    sink = encode(tmp_path / f"hardware{suffix}", (640, 360), 60, hardware=VideoHardware(is_wanted=True))
    assert (sink.hardware, sink.warnings) == ("h264_nvenc", [])
    software, by_hardware = read(tmp_path / f"software{suffix}"), read(tmp_path / f"hardware{suffix}")
    assert by_hardware.codec == "h264"
    assert (by_hardware.times, by_hardware.durations) == (software.times, software.durations)
    assert (by_hardware.end, by_hardware.color) == (software.end, software.color)
    assert by_hardware.frames[0].format.name == "yuv420p"
    pictures = [by_hardware.image(index) for index in range(60)]
    assert min(psnr(image, moving_picture(i, 640, 360)) for i, image in enumerate(pictures)) >= HARDWARE_ENCODER_DB
