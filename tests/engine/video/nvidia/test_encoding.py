"""The hardware encoder, and software in its place where it is missing or does not take a video."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.video import Frame, VideoHardware, video_encoder
from engine.video.encoders import VideoParameters
from engine.video.file_sink import FileSink
from engine.video.nvidia import codecs
from engine.video.nvidia.codecs import why_not_encoded
from engine.video.nvidia.frames import FromDeviceBgr
from engine.video.nvidia.trials import encoder_missing
from tests.engine.cuda_stand_in import cuda_on_the_host
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


# --- frames that lie where the encoder reads them ---


@pytest.fixture
def shared_on_the_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Libx264 reads pictures in NV12 where the hardware reads a device's; the list has the contexts that were made."""
    made: list[tuple[str, str]] = []
    create = codecs.encoder_context

    def noting(name: str, options: dict[str, str], video: VideoParameters, pixel_format: str) -> Any:
        made.append((name, pixel_format))
        return create(name, options, video, pixel_format)

    for module in (codecs, video_encoder):
        monkeypatch.setattr(module, "ENCODER", "libx264")
        monkeypatch.setattr(module, "SHARED_FORMAT", "nv12")
        monkeypatch.setattr(module, "nvenc_options", lambda hardware, crf: {"crf": "10"})
        monkeypatch.setattr(module, "FromDeviceBgr", lambda color, hardware: FromDeviceBgr(color, None))
    monkeypatch.setattr(codecs, "encoder_context", noting)
    monkeypatch.setattr(video_encoder, "why_not_encoded", lambda *_: None)
    codecs.encoded_surfaces_missing.cache_clear()
    yield made
    codecs.encoded_surfaces_missing.cache_clear()


def test_an_encoder_opens_at_its_first_frame_on_the_device(
    tmp_path: Path, shared_on_the_host: list[tuple[str, str]]
) -> None:
    """Each of its parts does, the first one too; arrays that follow are taken by the same one."""
    info = SimpleNamespace(frame_rate=Fraction(25), time_base=Fraction(1, 12800))
    sink = FileSink(tmp_path / "out.mp4", info=info, hardware=VideoHardware(frames_device="cpu"))
    contexts = []
    for index in range(12):
        image = moving_picture(index, 64, 48)
        frame = torch.from_numpy(image) if index not in (4, 5) else image
        sink.write(Frame(frame, pts=index * 512, duration=512))
        contexts.append(sink._encoder._context)
        if index == 5:
            sink._mux(sink._encoder.flush())
    assert sink._encoder._stream.codec_context is not sink._encoder._context
    sink.finish()
    assert [context is contexts[0] for context in contexts] == [True] * 6 + [False] * 6
    assert len(set(map(id, contexts[6:]))) == 1
    contents = read(tmp_path / "out.mp4")
    assert [time * 25 for time in contents.times] == list(range(12))
    assert [index for index, frame in enumerate(contents.frames) if frame.key_frame] == [0, 6]
    assert min(psnr(contents.image(index), moving_picture(index, 64, 48)) for index in range(12)) >= 30


def test_the_encoder_is_tried_with_a_frame_on_the_device(shared_on_the_host: list[tuple[str, str]]) -> None:
    video = VideoParameters(64, 48, rate=Fraction(25), time_base=Fraction(1, 25))
    with cuda_on_the_host():
        assert codecs.why_not_shared(VideoHardware(), None, video) is None
    assert shared_on_the_host == [("libx264", "nv12")] * 3


def test_another_header_for_frames_on_the_device(
    shared_on_the_host: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file has one header for all of its parts."""
    options = iter([{"crf": "10"}, {"crf": "10"}, {"crf": "10", "profile": "baseline"}])
    monkeypatch.setattr(codecs, "nvenc_options", lambda hardware, crf: next(options))
    video = VideoParameters(64, 48, rate=Fraction(25), time_base=Fraction(1, 25))
    with cuda_on_the_host():
        assert "another header" in str(codecs.why_not_shared(VideoHardware(), None, video))


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
