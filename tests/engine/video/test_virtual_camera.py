"""The virtual camera, with a stand-in for pyvirtualcam: there is no such device here."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.errors import SinkError
from engine.run import main
from engine.video import Frame, open_sink, open_source
from engine.video.virtual_camera import VirtualCameraSink
from tests.media import make_video


class Camera:
    """Takes frames; `opened` are all of them."""

    opened: list[Camera] = []  # noqa: RUF012 - cleared by each test

    def __init__(self, width: int, height: int, fps: float, *, fmt: Any) -> None:
        self.width, self.height, self.fps, self.fmt, self.device = width, height, fps, fmt, "/dev/video9"
        self.frames: list[np.ndarray] = []
        self.is_closed = False
        Camera.opened.append(self)

    def send(self, frame: np.ndarray) -> None:
        assert frame.flags.c_contiguous
        self.frames.append(frame.copy())

    def sleep_until_next_frame(self) -> None:
        self.slept = getattr(self, "slept", 0) + 1

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def pyvirtualcam(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    Camera.opened = []
    module = SimpleNamespace(Camera=Camera, PixelFormat=SimpleNamespace(BGR="BGR"))
    monkeypatch.setitem(sys.modules, "pyvirtualcam", module)  # type: ignore[arg-type]
    return module


def test_frames_arrive_as_they_are(tmp_path: Path) -> None:
    source = open_source(str(make_video(tmp_path / "in.mp4")))
    sink = open_sink(str(tmp_path / "out.mp4"), source, virtual_camera=True)
    frames = list(source)
    for frame in frames:
        sink.write(frame)
    assert sink.finish() == tmp_path / "out.mp4"
    (camera,) = Camera.opened
    assert (camera.width, camera.height, camera.fps, camera.fmt) == (64, 48, 25.0, "BGR")
    assert all(np.array_equal(sent, frame.image) for sent, frame in zip(camera.frames, frames, strict=True))
    assert camera.is_closed
    assert any("/dev/video9" in line for line in sink.warnings)


def test_a_file_keeps_its_own_speed(tmp_path: Path) -> None:
    source = open_source(str(make_video(tmp_path / "in.mp4")))
    sink = open_sink(None, source, virtual_camera=True)
    for frame in source:
        sink.write(frame)
    sink.finish()
    assert Camera.opened[0].slept == 10


def test_another_size_opens_it_again() -> None:
    sink = VirtualCameraSink(Fraction(30))
    for size in ((8, 6), (8, 6), (6, 8)):
        sink.write(Frame(np.zeros((*size, 3), np.uint8)))
    sink.abort()
    assert [(camera.width, camera.height, len(camera.frames)) for camera in Camera.opened] == [(6, 8, 2), (8, 6, 1)]
    assert all(camera.is_closed for camera in Camera.opened)


def test_no_device_is_one_line(pyvirtualcam: SimpleNamespace) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("'v4l2loopback' backend: No v4l2 loopback device found at /dev/video[0-99].\nDid you run?")

    pyvirtualcam.Camera = fail
    with pytest.raises(SinkError, match="exclusive_caps=1") as caught:
        VirtualCameraSink(Fraction(30)).write(Frame(np.zeros((4, 4, 3), np.uint8)))
    assert "\n" not in str(caught.value)


def test_without_the_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    clip = make_video(tmp_path / "in.mp4")
    assert main([str(clip), "--virtual-camera"]) == 1
    assert "streamgan[virtual-camera]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [clip]
