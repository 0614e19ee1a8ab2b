"""Live outputs, taken by the ffmpeg program: every frame and sound, in sync, at the speed of the film."""

from __future__ import annotations

import itertools
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import SinkError
from engine.run import main
from engine.video import open_sink, open_source
from engine.video import stream_sink as module
from tests.engine.video.cases.measures import measure
from tests.engine.video.cases.media import AAC, FFMPEG, H264, clip, ffmpeg, needs_ffmpeg
from tests.engine.video.identity import translate

# (scheme, options of the receiver before -i, behind its URL)
RECEIVERS = {
    "rtmp": (["-listen", "1"], "/live"),
    "rtsp": (["-rtsp_flags", "listen"], "/live"),
    "tcp": ([], "?listen=1"),
    "udp": ([], "?timeout=3000000"),
}


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


class Receiver:
    """An ffmpeg program that writes what it gets into a file."""

    def __init__(self, scheme: str, path: Path) -> None:
        options, behind = RECEIVERS[scheme]
        port = free_port(socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM)
        self.url = f"{scheme}://127.0.0.1:{port}" + (behind if behind.startswith("/") else "")
        self.path = path
        self._command = [str(FFMPEG), "-nostdin", "-y", "-v", "error", *options]
        self._from = self.url + ("" if behind.startswith("/") else behind)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, path: Path | None = None) -> None:
        """Returns when it listens, as far as that can be seen."""
        self.path = path or self.path
        self._process = subprocess.Popen([*self._command, "-i", self._from, "-c", "copy", str(self.path)])
        port = int(self.url.split(":")[2].split("/")[0])
        for _ in range(200):
            listening = Path("/proc/net/udp" if self.url.startswith("udp") else "/proc/net/tcp").read_text()
            if f":{port:04X} " in listening:
                return
            time.sleep(0.05)

    def wait(self) -> None:
        assert self._process is not None
        self._process.wait(30)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("film") / "clip.mp4", 4, *H264, *AAC)


@pytest.fixture
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(getattr(request, "param", "rtmp"), tmp_path / "received.mkv")
    yield receiver
    receiver.kill()


@needs_ffmpeg
@pytest.mark.parametrize("receiver", list(RECEIVERS), indirect=True)
def test_a_film_arrives_whole_and_in_its_time(receiver: Receiver, film: Path) -> None:
    receiver.start()
    began = time.monotonic()
    result = translate(film, receiver.url)
    assert 3.5 < time.monotonic() - began < 60.0
    assert (result.frames, result.output) == (100, None)
    receiver.wait()
    received = measure(receiver.path)
    assert (received.size, received.sound) == ((160, 90), "aac")
    assert len(received.times) == 100
    received.assert_in_sync(flashes=4)


@needs_ffmpeg
def test_a_playlist_that_browsers_take(film: Path, tmp_path: Path) -> None:
    translate(film, tmp_path / "live.m3u8")
    received = measure(tmp_path / "live.m3u8")
    assert len(received.times) == 100
    received.assert_in_sync(flashes=4)
    text = (tmp_path / "live.m3u8").read_text()
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert text.count("#EXTINF:2.0") == 2  # a key frame every two seconds


@needs_ffmpeg
def test_a_receiver_that_comes_back_gets_the_rest(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said while it is away is not said later."""
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.2,))
    film = clip(tmp_path / "film.mp4", 9, *H264, *AAC)
    receiver.start()

    def interrupt() -> None:
        time.sleep(2.5)
        receiver.kill()
        time.sleep(1.0)
        receiver.start(tmp_path / "second.mkv")

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = translate(film, receiver.url, reconnect_seconds=30.0)
    thread.join()
    receiver.wait()
    assert result.completed
    assert any("its receiver went away once and came back" in line for line in result.warnings)
    missed = next(int(line.split()[1]) for line in result.warnings if "frames were not sent" in line)
    received = measure(tmp_path / "second.mkv")
    assert 25 <= len(received.times) <= 225 - missed
    steps = [float(later - earlier) for earlier, later in itertools.pairwise(received.times)]
    assert max(steps) < 0.05
    assert len(received.sync_seconds) >= 2
    assert max(map(abs, received.sync_seconds)) <= 0.04


def test_what_nobody_takes_is_one_line(film: Path, tmp_path: Path) -> None:
    url = f"rtmp://127.0.0.1:{free_port()}/live"
    with pytest.raises(SinkError, match=r"can't be sent to \(.*refused"):
        translate(film, url)


@pytest.mark.parametrize("url", ["http://localhost/x", "ftp://localhost/x", "gopher://localhost"])
def test_other_protocols_are_named(url: str, film: Path) -> None:
    with pytest.raises(SinkError, match=r"nothing can be sent to .*; accepted: rtmp:// .*playlist\.m3u8"):
        open_sink(url, open_source(str(film)))


def test_a_protocol_that_ffmpeg_lacks_is_named(film: Path) -> None:
    import av

    try:
        with av.open("srt://127.0.0.1:1", timeout=0.5):
            pass
    except av.error.ProtocolNotFoundError:
        with pytest.raises(SinkError, match="the FFmpeg in PyAV was built without srt"):
            translate(film, "srt://127.0.0.1:1")
    except av.error.FFmpegError:
        pytest.skip("this FFmpeg has SRT")


def test_several_sources_are_refused(film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"rtmp://127.0.0.1:{free_port()}/live"
    assert main([str(film), str(film), "-o", url]) == 1
    assert f"{url}: takes one source" in capsys.readouterr().err


@needs_ffmpeg
def test_a_receiver_that_takes_nothing_has_gone_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STALLED_MICROSECONDS", 500_000)
    noise = tmp_path / "noise.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=gray:s=640x360:r=25:d=8,noise=alls=100:allf=t", "-crf", "1", noise)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with pytest.raises(SinkError, match=r"lost after \d+ frames .*; --reconnect tries again"):
            translate(noise, f"tcp://127.0.0.1:{listening.getsockname()[1]}", crf=1)
