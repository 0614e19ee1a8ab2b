"""Live sources: the newest frame wins, the rest are counted, unplugging ends the stream and keeps what came."""

from __future__ import annotations

import itertools
import threading
import time

import cv2
import numpy as np
import pytest

from engine.errors import SourceError
from engine.video import open_source
from engine.video.live_source import open_camera


class Camera:
    """Stands in for cv2.VideoCapture: a picture on every `tick`, or as fast as it is asked."""

    def __init__(self, count: int | None = None, *, interval_seconds: float = 0.0, opens: bool = True) -> None:
        self.count = count
        self.interval_seconds = interval_seconds
        self.opens = opens
        self.reads = 0
        self.released = False
        self.read_after_release = False
        self.gate: threading.Semaphore | None = None
        self.sizes: list[tuple[int, int]] = []  # of the pictures to come; then 64x48

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.read_after_release |= self.released
        if not self.opens or (self.count is not None and self.reads >= self.count):
            return False, None
        if self.gate is not None:
            self.gate.acquire()
        time.sleep(self.interval_seconds)
        self.reads += 1
        width, height = self.sizes.pop(0) if self.sizes else (64, 48)
        return True, np.full((height, width, 3), self.reads % 256, np.uint8)

    def get(self, which: int) -> float:
        return 30.0 if which == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        self.released = True


def test_the_newest_frame_wins_and_drops_are_counted() -> None:
    camera = Camera(interval_seconds=0.005)
    source = open_camera("0", capture=camera)
    taken = []
    for frame in itertools.islice(source, 5):
        taken.append(int(frame.image[0, 0, 0]))
        time.sleep(0.05)
    source.close()
    assert all(later - earlier >= 4 for earlier, later in itertools.pairwise(taken))
    (line,) = source.warnings
    dropped = int(line.split(":")[1].split()[0])
    assert camera.reads - 8 <= dropped + len(taken) <= camera.reads
    assert camera.released
    assert not camera.read_after_release


def test_a_fast_consumer_gets_every_frame() -> None:
    camera = Camera(count=20, interval_seconds=0.01)
    source = open_camera("0", capture=camera)
    assert [int(frame.image[0, 0, 0]) for frame in source] == list(range(2, 21))  # the first told the size
    assert not any("dropped" in line for line in source.warnings)


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_every_frame_is_taken_or_counted_as_dropped(taken: int) -> None:
    camera = Camera(interval_seconds=0.004)
    source = open_camera("0", capture=camera)
    frames = iter(source)
    for _ in range(taken):
        next(frames)
        time.sleep(0.01)
    source.close()
    assert camera.released
    assert camera.reads - 1 == taken + source.dropped  # the first told the size


def test_a_camera_that_changes_its_size_is_followed() -> None:
    """The frames keep the first size; another shape gets black bars."""
    camera = Camera(count=5)
    camera.sizes = [(64, 48), (64, 48), (128, 96), (64, 24), (32, 48)]
    source = open_camera("0", capture=camera)
    images = []
    camera.gate = threading.Semaphore(1)
    for frame in source:
        images.append(np.asarray(frame.image))
        camera.gate.release()
    assert [image.shape for image in images] == [(48, 64, 3)] * 4
    assert [int(image[24, 32, 0]) for image in images] == [2, 3, 4, 5]
    assert (images[1] == 3).all()
    wide, high = images[2:]
    assert (wide[12:36] == 4).all()
    assert not wide[:12].any()
    assert not wide[36:].any()
    assert (high[:, 16:48] == 5).all()
    assert not high[:, :16].any()
    assert not high[:, 48:].any()
    assert any(
        "changed its size 3 times, to 32x48 at last; the pictures keep 64x48" in line for line in source.warnings
    )


def test_unplugging_ends_the_stream_with_a_warning() -> None:
    camera = Camera(count=5, interval_seconds=0.01)
    source = open_camera("0", capture=camera)
    assert len(list(source)) >= 1
    assert any("unplugged" in line and "kept" in line for line in source.warnings)
    assert camera.released


def test_a_camera_that_falls_silent() -> None:
    camera = Camera()
    source = open_camera("0", capture=camera, silence_seconds=0.2)
    camera.gate = threading.Semaphore(3)
    began = time.perf_counter()
    assert len(list(source)) <= 3
    camera.gate.release(10**6)
    assert time.perf_counter() - began < 5
    assert any("no picture for 0.2 s" in line for line in source.warnings)


def test_timestamps_are_the_capture_clock() -> None:
    source = open_camera("0", capture=Camera(interval_seconds=0.02))
    frames = list(itertools.islice(source, 6))
    source.close()
    assert source.info.live
    assert source.info.time_base is not None
    seconds = [float(frame.pts * source.info.time_base) for frame in frames]
    captured = [frame.captured_seconds for frame in frames]
    for (a, b), (c, d) in zip(itertools.pairwise(seconds), itertools.pairwise(captured), strict=True):
        assert b > a
        assert abs((b - a) - (d - c)) < 0.001


def test_closing_from_another_thread() -> None:
    camera = Camera(interval_seconds=0.01)
    source = open_camera("0", capture=camera)
    threading.Timer(0.1, source.close).start()
    assert len(list(source)) >= 1
    assert source.warnings == [] or "dropped" in source.warnings[0]
    assert camera.released


def test_no_picture_is_refused() -> None:
    camera = Camera(opens=False)
    with pytest.raises(SourceError, match="another program"):
        open_camera("0", capture=camera)
    assert camera.released


@pytest.mark.parametrize("spec", ["/dev/video9", "99"])
def test_no_such_camera(spec: str, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SourceError, match="camera") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
