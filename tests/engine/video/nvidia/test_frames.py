"""Frames that stay on a device, from decoding to encoding; the CPU takes the device's place where there is none."""

from __future__ import annotations

import subprocess
import sys
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
from engine.device import host_image
from engine.parity import is_nearly_uniform, psnr_db
from engine.pipeline import Pipeline, Result
from engine.runners.base import RunnerInfo
from engine.translator import Translator
from engine.video import (
    FileSource,
    Frame,
    ImageFolderSink,
    ImageSink,
    Sink,
    VideoHardware,
    video_decoder,
    video_encoder,
)
from engine.video.color import Color, FromBgr, ToBgr
from engine.video.file_sink import FileSink
from engine.video.nvidia import codecs
from engine.video.nvidia.codecs import decoded_surfaces_missing, encoded_surfaces_missing
from engine.video.nvidia.frames import FromDeviceBgr, ToDeviceBgr, padded
from engine.video.video_encoder import VideoEncoder
from tests.engine.runners.test_cuda_graph import as_on_a_gpu
from tests.engine.small_generators import small_generator
from tests.engine.video.nvidia.test_codecs import stand_in
from tests.media import bars, frame_of_yuv, make_video, moving_picture, read, yuv_of
from tests.tolerances import DEVICE_FRAMES_DB, DEVICE_FRAMES_TRANSLATED_DB, HARDWARE_ENCODER_DB

__all__ = ["as_on_a_gpu", "stand_in"]

ON_CPU = VideoHardware(frames_device="cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]


class Inverting:
    """In a translator's place: negatives, arrays of arrays and tensors of tensors; remembers what came."""

    frames_under_way = 2
    uniform_frames = 0

    def __init__(self) -> None:
        self.engine = RunnerInfo("eager", "fp32")
        self.kinds: list[tuple[type, int]] = []

    def engine_for(self, frame: Any) -> RunnerInfo:
        return self.engine

    def choose_batch(self, frame: Any) -> int:
        return 1

    def submit(self, frames: Any) -> Any:
        self.kinds.append((type(frames), len(frames)))
        return lambda: 255 - frames


@pytest.fixture
def encoder_on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Libx264 in the hardware encoder's place; the list has the layouts of the frames that it was given."""
    monkeypatch.setattr(video_encoder, "ENCODER", "libx264")
    monkeypatch.setattr(video_encoder, "why_not_encoded", lambda *_: None)
    monkeypatch.setattr(video_encoder, "nvenc_options", lambda hardware, crf: {"crf": "10"})
    layouts: list[str] = []
    picture = VideoEncoder.picture

    def noting(self: VideoEncoder, image: Any) -> av.VideoFrame:
        frame = picture(self, image)
        layouts.append(f"{frame.format.name} of {type(image).__name__}")
        return frame

    monkeypatch.setattr(VideoEncoder, "picture", noting)
    return layouts


def translate(path: Path, output: Path, hardware: VideoHardware | None, *, batch: int = 1) -> tuple[Result, Inverting]:
    source = FileSource(str(path), hardware=hardware)
    sink = FileSink(output, info=source.info, media=source.media, crf=10, hardware=hardware)
    translator = Inverting()
    return Pipeline(source, translator, sink, batch=batch).run(), translator


def assert_alike(output: Path, expected: Path) -> None:
    """As many frames at the same times with the same tags, and pictures that look alike."""
    one, other = read(output), read(expected)
    assert (one.times, one.end, one.color) == (other.times, other.end, other.color)
    # Both were encoded at crf 10, which leaves 50 dB.
    assert min(psnr_db(one.image(i), other.image(i)) for i in range(len(one.frames))) >= DEVICE_FRAMES_DB - 4


# --- decoding ---


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


# --- the whole way ---


@pytest.mark.parametrize("size", [(64, 48), (160, 128)])
@pytest.mark.parametrize("batch", [1, 4])
def test_from_file_to_file(
    tmp_path: Path, stand_in: SimpleNamespace, encoder_on_cpu: list[str], size: tuple[int, int], batch: int
) -> None:
    pts = [0, 100, 1000, 1512, 5000, 5001, 5600, 9000, 9001, 9600]
    path = make_video(tmp_path / "in.mp4", pts=pts, last_duration=700, size=size, color=(1, 1, 1, 1))
    translate(path, tmp_path / "software.mp4", None, batch=batch)
    encoder_on_cpu.clear()
    result, translator = translate(path, tmp_path / "device.mp4", ON_CPU, batch=batch)
    assert (result.frames, result.warnings) == (10, [])
    assert translator.kinds == [(torch.Tensor, count) for count in ([1] * 10 if batch == 1 else [4, 4, 2])]
    assert encoder_on_cpu == ["nv12 of Tensor"] * 10
    assert_alike(tmp_path / "device.mp4", tmp_path / "software.mp4")


@pytest.mark.parametrize("batch", [1, 4])
def test_software_in_the_middle_of_a_file(
    tmp_path: Path, stand_in: SimpleNamespace, encoder_on_cpu: list[str], batch: int
) -> None:
    path = make_video(tmp_path / "in.mp4", color=(1, 1, 1, 1))
    translate(path, tmp_path / "software.mp4", None)
    stand_in.fail_at, stand_in.error = 6, RuntimeError("no hardware any more")
    encoder_on_cpu.clear()
    result, translator = translate(path, tmp_path / "device.mp4", ON_CPU, batch=batch)
    assert result.frames == 10
    counts = [1] * 10 if batch == 1 else [4, 2, 4]
    kinds = [torch.Tensor] * (6 if batch == 1 else 2) + [np.ndarray] * (4 if batch == 1 else 1)
    assert translator.kinds == list(zip(kinds, counts, strict=True))
    assert encoder_on_cpu == ["nv12 of Tensor"] * 6 + ["nv12 of ndarray"] * 4
    assert_alike(tmp_path / "device.mp4", tmp_path / "software.mp4")


def test_through_a_generator(
    tmp_path: Path, stand_in: SimpleNamespace, encoder_on_cpu: list[str], as_on_a_gpu: list[Any]
) -> None:
    """With all that is done on a GPU, step by step: two frames under way, a grey one, software at the end."""
    grey = [frame_of_yuv(yuv_of(np.full((48, 64, 3), 90, np.uint8), 1, full=False))]
    others = [frame_of_yuv(yuv_of(moving_picture(index, 64, 48), 1, full=False)) for index in range(9)]
    path = make_video(tmp_path / "in.mp4", frames=[*others[:4], *grey, *others[4:]], color=(1, 1, 1, 1))
    stand_in.fail_at, stand_in.error = 8, RuntimeError("no hardware any more")
    kinds = {}
    for name, hardware in (("software", None), ("device", ON_CPU)):
        translator = Translator(small_generator("resnet"), backend="fused", precision="bf16", device="cpu")
        source = FileSource(str(path), hardware=hardware)
        sink = FileSink(tmp_path / f"{name}.mp4", info=source.info, media=source.media, crf=10, hardware=hardware)
        result = Pipeline(source, translator, sink).run()
        assert (result.frames, str(result.engine), translator.uniform_frames) == (10, "fused bf16", 1)
        kinds[name], encoder_on_cpu[:] = list(encoder_on_cpu), []
    assert kinds["device"] == ["nv12 of Tensor"] * 8 + ["nv12 of ndarray"] * 2
    one, other = read(tmp_path / "device.mp4"), read(tmp_path / "software.mp4")
    assert (one.times, one.end, one.color) == (other.times, other.end, other.color)
    coloured = [index for index in range(10) if index != 4]  # in grey a generator sees nothing but rounding
    assert min(psnr_db(one.image(i), other.image(i)) for i in coloured) >= DEVICE_FRAMES_TRANSLATED_DB


def test_an_encoder_that_is_software_gets_arrays(
    tmp_path: Path, stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_encoder, "why_not_encoded", lambda *_: "it is not there")
    path = make_video(tmp_path / "in.mp4", color=(1, 1, 1, 1))
    translate(path, tmp_path / "software.mp4", None)
    result, translator = translate(path, tmp_path / "device.mp4", ON_CPU)
    assert translator.kinds == [(torch.Tensor, 1)] * 10
    assert result.warnings == []
    assert_alike(tmp_path / "device.mp4", tmp_path / "software.mp4")


def test_an_encoders_conversion_that_fails(
    tmp_path: Path, stand_in: SimpleNamespace, encoder_on_cpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    convert, calls = ops.bgr_to_yuv, iter(range(100))

    def failing(image: torch.Tensor, **color: Any) -> Any:
        if next(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return convert(image, **color)

    monkeypatch.setattr(ops, "bgr_to_yuv", failing)
    path = make_video(tmp_path / "in.mp4", color=(1, 1, 1, 1))
    translate(path, tmp_path / "software.mp4", None)
    result, _ = translate(path, tmp_path / "device.mp4", ON_CPU)
    (line,) = result.warnings
    assert line.endswith("not converted on the device from frame 3 on: CUDA out of memory")
    assert_alike(tmp_path / "device.mp4", tmp_path / "software.mp4")


# --- sinks ---


@pytest.fixture
def tensor_and_array() -> tuple[Frame, Frame]:
    image = moving_picture(3, 63, 47)
    return Frame(torch.from_numpy(image), pts=0, duration=512), Frame(image, pts=0, duration=512)


def test_images_are_written_of_tensors(tmp_path: Path, tensor_and_array: tuple[Frame, Frame]) -> None:
    for name, frame in zip(("tensor", "array"), tensor_and_array, strict=True):
        ImageSink(tmp_path / f"{name}.png").write(frame)
        ImageFolderSink(tmp_path / name).write(frame)
    expected = (tmp_path / "array.png").read_bytes()
    assert (tmp_path / "tensor.png").read_bytes() == expected
    assert (tmp_path / "tensor" / "frame_000001.png").read_bytes() == expected


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_files_are_written_of_tensors(tmp_path: Path, suffix: str, tensor_and_array: tuple[Frame, Frame]) -> None:
    info = SimpleNamespace(frame_rate=Fraction(25), time_base=Fraction(1, 12800))
    for name, frame in zip(("tensor", "array"), tensor_and_array, strict=True):
        sink = FileSink(tmp_path / f"{name}{suffix}", info=info)
        sink.write(frame)
        sink.finish()
    (one, two) = (read(tmp_path / f"{name}{suffix}") for name in ("tensor", "array"))
    np.testing.assert_array_equal(one.image(), two.image())


def test_odd_sides_are_padded_as_arrays_are(
    tmp_path: Path, encoder_on_cpu: list[str], tensor_and_array: tuple[Frame, Frame]
) -> None:
    info = SimpleNamespace(frame_rate=Fraction(25), time_base=Fraction(1, 12800))
    pictures = []
    for name, frame in zip(("tensor", "array"), tensor_and_array, strict=True):
        sink = FileSink(tmp_path / f"{name}.mp4", info=info, hardware=ON_CPU)
        sink.write(frame)
        sink.finish()
        assert len(sink.warnings) == 1
        pictures.append(read(tmp_path / f"{name}.mp4").image())
    assert encoder_on_cpu == ["nv12 of Tensor", "yuv420p of ndarray"]
    assert pictures[0].shape == (48, 64, 3)
    assert psnr_db(pictures[0], pictures[1]) >= DEVICE_FRAMES_DB


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


def test_batches_are_of_one_kind() -> None:
    """Tensors and arrays of one size in turn, as no source has them."""
    images = [moving_picture(index, 16, 16) for index in range(6)]
    frames = [
        Frame(torch.from_numpy(image) if index in (1, 2, 5) else image, pts=index) for index, image in enumerate(images)
    ]
    written: list[np.ndarray] = []

    class Source:
        info = SimpleNamespace(live=False, name="", frame_count=6, time_base=Fraction(1, 25))
        warnings: tuple[str, ...] = ()

        def __iter__(self) -> Iterator[Frame]:
            return iter(frames)

        def close(self) -> None:
            pass

    class Kept(Sink):
        def write(self, frame: Frame) -> None:
            written.append(host_image(frame.image))

    translator = Inverting()
    Pipeline(Source(), translator, Kept(), batch=3).run()
    assert [count for _, count in translator.kinds] == [1, 2, 2, 1]
    np.testing.assert_array_equal(written, [255 - image for image in images])


def test_importing_sources_and_sinks_needs_no_torch() -> None:
    code = "import sys, engine.video, engine.pipeline, engine.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_trials_fail_with_a_reason() -> None:
    for trial in (decoded_surfaces_missing, encoded_surfaces_missing):
        reason = trial(VideoHardware(frames_device="cuda:0"))
        assert reason
        assert "\n" not in reason


# --- with a GPU ---


@pytest.mark.needs_cuda
@pytest.mark.parametrize(
    ("codec", "pixel_format", "options"),
    [("libx264", "yuv420p", {}), ("libx265", "yuv420p10le", {"x265-params": "log-level=none"})],
)
@pytest.mark.parametrize("is_shared", [True, False])
def test_from_the_hardwares_decoder_to_its_encoder(
    tmp_path: Path,
    codec: str,
    pixel_format: str,
    options: dict[str, str],
    is_shared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a copy through system memory, and with NV12 through it."""
    hardware = VideoHardware(frames_device="cuda:0")
    for trial in (decoded_surfaces_missing, encoded_surfaces_missing):
        if is_shared and (reason := trial(hardware)):
            pytest.skip(reason)
    if not is_shared:
        monkeypatch.setattr(codecs, "decoded_surfaces_missing", lambda hardware: "as if")
        monkeypatch.setattr(video_encoder, "why_not_shared", lambda *_: "as if")
    path = make_video(
        tmp_path / "in.mp4",
        pts=[512 * index for index in range(60)],
        codec=codec,
        pixel_format=pixel_format,
        size=(640, 360),
        options=options,
    )
    translate(path, tmp_path / "software.mp4", None)
    source = FileSource(str(path), hardware=hardware)
    sink = FileSink(tmp_path / "device.mp4", info=source.info, media=source.media, hardware=hardware)
    translator = Inverting()
    result = Pipeline(source, translator, sink, batch=1).run()
    assert (source.hardware, sink.hardware, result.warnings) == ("NVDEC", "h264_nvenc", [])
    assert translator.kinds == [(torch.Tensor, 1)] * 60
    one, other = read(tmp_path / "device.mp4"), read(tmp_path / "software.mp4")
    assert (one.times, one.end, one.color) == (other.times, other.end, other.color)
    assert min(psnr_db(one.image(i), other.image(i)) for i in range(60)) >= HARDWARE_ENCODER_DB - 3
