"""Live sources that go away and come back: a webcam, a network stream with other size and clock."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import SourceError
from engine.pipeline import Pipeline
from engine.video import live_source as live
from engine.video import open_sink, open_source
from engine.video.live_source import LiveSource, open_camera
from tests.engine.video.cases.measures import measure
from tests.engine.video.cases.media import BEEP, FFMPEG, FLASH, needs_ffmpeg
from tests.engine.video.identity import Identity
from tests.engine.video.test_live_source import Camera

LIVE_SYNC_SECONDS = 0.08  # a frame may be missing beside a beep


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RETRY_SECONDS", (0.05, 0.1))


class Cameras:
    """Opens one camera after the other; None is a time at which none is there."""

    def __init__(self, *cameras: Camera | None) -> None:
        self.left = list(cameras)
        self.tries = 0

    def __call__(self) -> Camera:
        self.tries += 1
        camera = self.left.pop(0) if self.left else None
        if camera is None:
            raise SourceError("no such camera")
        return camera


def test_a_camera_that_is_plugged_in_again(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Camera(count=4, interval_seconds=0.02), Camera(count=4, interval_seconds=0.02)
    cameras = Cameras(first, None, None, second)
    source = open_camera("0", capture=cameras, patience_seconds=5.0)
    frames = []
    with caplog.at_level(logging.WARNING, "streamgan"):
        for frame in source:
            frames.append(frame)
            if source.interruptions and second.count != second.reads:
                continue
            if source.interruptions:
                break
    source.close()
    assert source.interruptions == 1
    assert (first.released, second.released) == (True, True)
    assert [line for line in source.warnings if "went away once and came back" in line]
    assert "unplugged?); trying again for 5 s" in caplog.text
    assert "is back after" in caplog.text
    assert all(later.pts > earlier.pts for earlier, later in itertools.pairwise(frames))


def test_patience_ends() -> None:
    cameras = Cameras(Camera(count=3, interval_seconds=0.01))
    source = open_camera("0", capture=cameras, patience_seconds=0.4)
    began = time.monotonic()
    assert list(source)
    assert 0.3 < time.monotonic() - began < 5.0
    assert cameras.tries > 3
    assert source.interruptions == 0
    assert any("unplugged" in line and "kept" in line for line in source.warnings)


def test_without_patience_nothing_is_tried() -> None:
    cameras = Cameras(Camera(count=3))
    assert list(open_camera("0", capture=cameras))
    assert cameras.tries == 1


def test_waiting_for_a_camera_ends_at_once() -> None:
    source = open_camera("0", capture=Cameras(Camera(count=2)), patience_seconds=3600.0)
    threading.Timer(0.3, source.close).start()
    began = time.monotonic()
    list(source)
    assert time.monotonic() - began < 5.0


def test_a_camera_that_hangs_is_replaced() -> None:
    hanging, second = Camera(), Camera(count=5, interval_seconds=0.01)
    source = open_camera("0", capture=Cameras(hanging, second), patience_seconds=1.0, silence_seconds=0.2)
    hanging.gate = threading.Semaphore(2)
    values = [int(frame.image[0, 0, 0]) for frame in source]
    assert source.interruptions == 1
    assert values[-1] == 5
    hanging.gate.release(10)  # it wakes up late: nobody wants its frames
    time.sleep(0.1)
    assert hanging.released


# --- streams ---


def free_port() -> int:
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        return int(tcp.getsockname()[1])


class Sender:
    """A server of one live stream with flashes and beeps; it can be killed and started again."""

    def __init__(self) -> None:
        self.url = f"rtmp://127.0.0.1:{free_port()}/live"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, size: str = "160x90", at_seconds: float = 0.0) -> None:
        picture = f"testsrc2=s={size}:r=25,{FLASH}"
        inputs = ["-re", "-f", "lavfi", "-i", picture, "-re", "-f", "lavfi", "-i", f"aevalsrc='{BEEP}':s=48000"]
        encoded = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-pix_fmt", "yuv420p"]
        out = ["-c:a", "aac", "-output_ts_offset", str(at_seconds), "-f", "flv", "-listen", "1", self.url]
        self._process = subprocess.Popen([str(FFMPEG), "-nostdin", "-v", "error", *inputs, *encoded, *out])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def sender() -> Iterator[Sender]:
    sender = Sender()
    yield sender
    sender.kill()


def opened(url: str) -> LiveSource:
    """The stream, once its server is up."""
    for _ in range(200):
        with contextlib.suppress(SourceError):
            source = open_source(url, reconnect_seconds=30.0)
            assert isinstance(source, LiveSource)
            return source
        time.sleep(0.1)
    raise AssertionError("the server does not start")


@needs_ffmpeg
def test_a_stream_comes_back_with_another_size_and_clock(sender: Sender, tmp_path: Path) -> None:
    """The time that it was away stays in the film, and sound stays in sync."""
    sender.start()
    source = opened(sender.url)
    sink = open_sink(str(tmp_path / "out.mp4"), source)
    pipeline = Pipeline(source, Identity(), sink)

    def interrupt() -> None:
        time.sleep(3.0)
        sender.kill()
        time.sleep(1.0)
        sender.start(size="320x180", at_seconds=5000.0)
        time.sleep(5.0)
        pipeline.stop()

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = pipeline.run()
    thread.join()
    assert source.interruptions == 1
    film = measure(result.output)
    assert film.size == (160, 90)
    steps = [float(later - earlier) for earlier, later in itertools.pairwise(film.times)]
    assert sum(step > 0.9 for step in steps) == 1  # and not 5000 s
    assert float(film.times[-1]) < 60.0
    away = steps.index(max(steps))
    gone, back = float(film.times[away]), float(film.times[away + 1])
    assert sum(beep < gone + 0.5 for beep in film.beeps) >= 2
    assert sum(beep > back - 0.5 for beep in film.beeps) >= 2
    assert max(map(abs, film.sync_seconds)) <= LIVE_SYNC_SECONDS, (film.flashes, film.beeps)


@needs_ffmpeg
def test_a_stream_that_stays_away(sender: Sender, tmp_path: Path) -> None:
    sender.start()
    source = opened(sender.url)
    source._patience_seconds = 0.5
    pipeline = Pipeline(source, Identity(), open_sink(str(tmp_path / "out.mp4"), source))
    threading.Timer(2.0, sender.kill).start()
    result = pipeline.run()
    assert result.completed
    assert any("what came before is kept" in line for line in result.warnings)
    assert len(measure(result.output).times) > 10
