"""What takes the place of the decoder, the encoder and the translator, and what compares files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from engine.parity import psnr_db
from engine.pipeline import Pipeline, Result
from engine.runners.base import RunnerInfo
from engine.video import FileSource, VideoHardware
from engine.video.color import color_of
from engine.video.file_sink import FileSink
from engine.video.pyav import open_input
from tests.media import read
from tests.tolerances import DEVICE_FRAMES_DB

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")

ON_CPU = VideoHardware(frames_device="cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]


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


def stream_of(path: Path) -> tuple[Any, Any]:
    container = open_input(str(path))
    return container, container.streams.video[0]


def assert_same(expected: FileSource, source: FileSource) -> None:
    wanted, given = list(expected), list(source)
    assert [(frame.pts, frame.duration) for frame in given] == [(frame.pts, frame.duration) for frame in wanted]
    for a, b in zip(wanted, given, strict=True):
        np.testing.assert_array_equal(b.image, a.image)
    assert source.info == expected.info
    assert source.media == expected.media


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


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(float) - b) ** 2))
    return 10 * np.log10(255**2 / error) if error else float("inf")
