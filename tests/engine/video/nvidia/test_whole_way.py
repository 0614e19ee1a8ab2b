"""Frames that stay on a device from decoding to encoding; the CPU takes its place where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine import ops
from engine.device import host_image
from engine.parity import psnr_db
from engine.pipeline import Pipeline
from engine.translator import Translator
from engine.video import FileSource, Frame, ImageFolderSink, ImageSink, Sink, VideoHardware, video_encoder
from engine.video.file_sink import FileSink
from engine.video.nvidia import codecs
from engine.video.nvidia.codecs import decoded_surfaces_missing, encoded_surfaces_missing
from tests.engine.runners.test_cuda_graph import as_on_a_gpu
from tests.engine.small_generators import small_generator
from tests.engine.video.nvidia.stand_ins import ON_CPU, Inverting, assert_alike, translate
from tests.media import frame_of_yuv, make_video, moving_picture, read, yuv_of
from tests.tolerances import DEVICE_FRAMES_DB, DEVICE_FRAMES_TRANSLATED_DB, HARDWARE_ENCODER_DB

__all__ = ["as_on_a_gpu"]


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
        dropped = 0

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
    """Without a copy through system memory, and with NV12 through it; in two parts, as long jobs are kept."""
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
    write = sink.write

    def in_two_parts(frame: Frame) -> None:
        if frame.pts == 512 * 30:
            sink._mux(sink._encoder.flush())
        write(frame)

    monkeypatch.setattr(sink, "write", in_two_parts)
    translator = Inverting()
    result = Pipeline(source, translator, sink, batch=1).run()
    assert (source.hardware, sink.hardware, result.warnings) == ("NVDEC", "h264_nvenc", [])
    assert translator.kinds == [(torch.Tensor, 1)] * 60
    one, other = read(tmp_path / "device.mp4"), read(tmp_path / "software.mp4")
    assert (one.times, one.end, one.color) == (other.times, other.end, other.color)
    assert min(psnr_db(one.image(i), other.image(i)) for i in range(60)) >= HARDWARE_ENCODER_DB - 3
