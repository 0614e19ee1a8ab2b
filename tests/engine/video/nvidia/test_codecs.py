"""Video hardware: which streams it gets, what comes back, and software in its place where it is missing or fails."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from engine import ops
from engine.errors import BackendError, SourceError
from engine.video import FileSource, Frame, VideoHardware, choose_hardware, open_source, video_decoder, video_encoder
from engine.video.color import color_of
from engine.video.encoders import VideoParameters
from engine.video.file_sink import FileSink
from engine.video.nvidia import codecs
from engine.video.nvidia.codecs import describe_hardware, why_not_decoded, why_not_encoded
from engine.video.nvidia.trials import decoder_missing, encoder_missing
from engine.video.pyav import open_input
from tests.engine.video.through import through
from tests.media import Audio, bars, damage, frame_of_yuv, make_video, moving_picture, read, yuv_of
from tests.tolerances import HARDWARE_DECODER_DB, HARDWARE_ENCODER_DB

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class StandInStream:
    """Decodes in software and gives frames as a download from the device does: NV12, or P010 for 10 bits."""

    def __init__(self, stream: Any, fail_at: int | None, error: Exception | None) -> None:
        self.real = stream
        self.thread_count = 0
        self._fail_at = fail_at
        self._error = error
        self._decoded = 0

    def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        if self._decoded == self._fail_at and self._error is not None:
            raise self._error
        frames = self.real.decode(packet)
        if self._fail_at is not None and self._decoded < self._fail_at <= self._decoded + len(frames):
            frames = frames[: self._fail_at - self._decoded]
        self._decoded += len(frames)
        return [downloaded(frame) for frame in frames]


class StandInContainer:
    """A container whose streams are `StandInStream`."""

    def __init__(self, path: str, fail_at: int | None = None, error: Exception | None = None) -> None:
        self._container = open_input(path)
        self.streams = [StandInStream(stream, fail_at, error) for stream in self._container.streams]

    def demux(self, streams: list[StandInStream]) -> Iterator[av.Packet]:
        return self._container.demux([stream.real for stream in streams])

    def close(self) -> None:
        self._container.close()


def downloaded(frame: av.VideoFrame) -> av.VideoFrame:
    """The same samples and tags in the layout of the device's memory; PyAV copies the tags of a download likewise."""
    sample_range = color_of(frame).range
    layout = "p010le" if "10" in frame.format.name else "nv12"
    return frame.reformat(format=layout, src_color_range=sample_range, dst_color_range=sample_range)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hardware decoder that works until frame `fail_at`, and counts how often it was opened."""
    state = SimpleNamespace(opened=0, fail_at=None, error=None)

    def open_on_hardware(spec: str, hardware: VideoHardware) -> StandInContainer:
        state.opened += 1
        return StandInContainer(spec, state.fail_at, state.error)

    monkeypatch.setattr(codecs, "open_on_hardware", open_on_hardware)
    monkeypatch.setattr(video_decoder, "decoder_missing", lambda index: None)
    return state


def stream_of(path: Path) -> tuple[Any, Any]:
    container = open_input(str(path))
    return container, container.streams.video[0]


# --- choosing ---


def test_none_and_the_processor_are_software() -> None:
    assert choose_hardware("none", CPU) is None
    assert choose_hardware("none", CUDA) is None
    assert choose_hardware("auto", CPU) is None


def test_auto_on_a_gpu_offers_its_own_hardware_and_tells_nothing() -> None:
    for device, index in ((CUDA, 0), (torch.device("cuda:1"), 1)):
        frames_device = f"cuda:{index}" if torch.cuda.is_available() else ""
        assert choose_hardware("auto", device) == VideoHardware(index, frames_device=frames_device)


@pytest.mark.parametrize("reason", [None, "the CUDA operators aren't built"])
def test_frames_stay_where_they_are_translated(monkeypatch: pytest.MonkeyPatch, reason: str | None) -> None:
    """If the operators are there."""
    monkeypatch.setattr(ops, "cuda_unavailable", lambda: reason)
    monkeypatch.setattr(codecs, "decoder_missing", lambda index: None)
    for hwaccel in ("auto", "cuda"):
        chosen = choose_hardware(hwaccel, torch.device("cuda:1"))
        assert chosen is not None
        assert chosen.frames_device == ("cuda:1" if reason is None else "")
    chosen = choose_hardware("cuda", CPU)
    assert chosen is not None
    assert chosen.frames_device == ""


@no_gpu
def test_asked_for_by_name_and_not_there() -> None:
    with pytest.raises(BackendError, match="no video hardware can be used here") as caught:
        choose_hardware("cuda", CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("decoder", "encoder"), [(None, "no encoder"), ("no decoder", None), (None, None)])
def test_asked_for_by_name_and_half_there(
    monkeypatch: pytest.MonkeyPatch, decoder: str | None, encoder: str | None
) -> None:
    monkeypatch.setattr(codecs, "decoder_missing", lambda index: decoder)
    monkeypatch.setattr(codecs, "encoder_missing", lambda index: encoder)
    assert choose_hardware("cuda", CPU) == VideoHardware(0, is_wanted=True)


@no_gpu
def test_a_missing_driver_is_named() -> None:
    assert "libcuda" in str(decoder_missing(0))
    assert describe_hardware().startswith("not available: no NVIDIA driver")


def test_half_of_the_hardware_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "decoder_missing", lambda index: None)
    monkeypatch.setattr(codecs, "encoder_missing", lambda index: "it has none")
    assert describe_hardware() == "NVDEC works, NVENC (h264_nvenc) not available: it has none"


# --- which streams ---


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "options", "is_decoded"),
    [
        ("libx264", "yuv420p", ".mp4", {}, True),
        ("libx264", "yuvj420p", ".mp4", {}, True),
        ("libx264", "yuv420p", ".mp4", {"profile": "baseline"}, True),
        ("libx264", "yuv420p10le", ".mp4", {}, False),
        ("libx264", "yuv422p", ".mp4", {}, False),
        ("libx264", "yuv444p", ".mp4", {}, False),
        ("libx265", "yuv420p", ".mp4", {"x265-params": "log-level=none"}, True),
        ("libx265", "yuv420p10le", ".mp4", {"x265-params": "log-level=none"}, True),
        ("libx265", "yuv420p12le", ".mkv", {"x265-params": "log-level=none"}, False),
        ("libx265", "yuv444p", ".mp4", {"x265-params": "log-level=none"}, False),
        ("libvpx-vp9", "yuv420p", ".webm", {"cpu-used": "8"}, True),
        ("libvpx-vp9", "yuv444p", ".webm", {"cpu-used": "8"}, False),
        ("libvpx", "yuv420p", ".webm", {"cpu-used": "8"}, False),
        ("mpeg2video", "yuv420p", ".ts", {}, True),
        ("mpeg4", "yuv420p", ".mp4", {}, False),
        ("mjpeg", "yuvj420p", ".avi", {}, False),
        ("prores_ks", "yuv422p10le", ".mov", {}, False),
        ("ffv1", "yuv420p", ".mkv", {}, False),
    ],
)
def test_which_streams_go_to_the_hardware(
    tmp_path: Path,
    stand_in: SimpleNamespace,
    codec: str,
    pixel_format: str,
    suffix: str,
    options: dict[str, str],
    is_decoded: bool,
) -> None:
    path = make_video(
        tmp_path / f"in{suffix}",
        codec=codec,
        pixel_format=pixel_format,
        size=(160, 128),
        options=options,
        pts=list(range(10)),
        time_base=Fraction(1, 25),
    )
    container, stream = stream_of(path)
    assert (why_not_decoded(stream) is None) == is_decoded
    container.close()
    source = FileSource(str(path), hardware=VideoHardware(is_wanted=True))
    assert len(list(source)) == 10
    assert source.hardware == ("NVDEC" if is_decoded else "")
    assert stand_in.opened == is_decoded
    assert any("decoded in software" in line for line in source.warnings) == (not is_decoded)


def test_av1_has_no_hardware_in_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVT_LOG", "1")
    path = make_video(tmp_path / "in.mp4", codec="libsvtav1", size=(160, 128), options={"preset": "12"})
    container, stream = stream_of(path)
    assert "libdav1d" in str(why_not_decoded(stream))
    container.close()


@no_gpu
def test_without_hardware_auto_says_nothing_and_by_name_says_why(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mp4")
    assert FileSource(str(path), hardware=VideoHardware()).warnings == []
    (line,) = FileSource(str(path), hardware=VideoHardware(is_wanted=True)).warnings
    assert "no NVIDIA driver" in line


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


# --- encoding ---


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


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(float) - b) ** 2))
    return 10 * np.log10(255**2 / error) if error else float("inf")


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


def assert_same(expected: FileSource, source: FileSource) -> None:
    wanted, given = list(expected), list(source)
    assert [(frame.pts, frame.duration) for frame in given] == [(frame.pts, frame.duration) for frame in wanted]
    for a, b in zip(wanted, given, strict=True):
        np.testing.assert_array_equal(b.image, a.image)
    assert source.info == expected.info
    assert source.media == expected.media
