"""Jobs that end at any moment and in any place: what was there stays, what is named plays, nothing is hidden."""

from __future__ import annotations

import http.server
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.video.cases import child
from tests.engine.video.identity import translate
from tests.media import Audio, make_video, read

FRAMES = 120
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
PREVIOUS = b"what an earlier run has written"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 4.8 s."""
    path = tmp_path_factory.mktemp("ends") / "in.mp4"
    return make_video(
        path,
        pts=[index * 512 for index in range(FRAMES)],
        size=(160, 96),
        audio=(Audio(seconds=4.8),),
        container_options={"movflags": "+faststart"},
    )


def assert_whole_or_partial(folder: Path, ended: child.Ended) -> None:
    """One new file at most besides the previous output; it plays and is named in what was said."""
    output = folder / "out.mp4"
    replaced = output.read_bytes() != PREVIOUS
    partials = sorted(folder.glob("*.partial*"))
    if replaced:
        assert len(read(output).times) == FRAMES
        assert not partials
    assert ended.partial in [None, *partials], ended
    for partial in partials:
        contents = read(partial)
        assert 0 < len(contents.times) <= FRAMES
        assert len(contents.of_type("audio")) == 1


# --- killed ---


def kill_at_random(source: Path, folder: Path, number: signal.Signals, seed: int) -> None:
    """Sends the signal somewhere between the first line of the job and its end."""
    output, ready = folder / "out.mp4", folder / "ready"
    output.write_bytes(PREVIOUS)
    process = child.start(source, output, "--overwrite", "--frame-seconds", "0.006", "--ready", str(ready))
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.005)
    ready.unlink()
    time.sleep(random.Random(f"{number} {seed}").uniform(0, 0.9))
    process.send_signal(number)
    ended = child.end(process)
    assert ended.status in (0, -number if number == signal.SIGKILL else 128 + number), ended
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert_whole_or_partial(folder, ended)
    if number != signal.SIGKILL:
        assert not hidden
    else:
        assert len(hidden) <= 1
        translate(source, folder / "next.mp4")
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("number", SIGNALS)
def test_killed_at_a_random_moment(number: signal.Signals, seed: int, source: Path, tmp_path: Path) -> None:
    kill_at_random(source, tmp_path, number, seed)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_killed_at_200_moments(number: signal.Signals, source: Path, tmp_path: Path) -> None:
    for seed in range(100, 300):
        folder = tmp_path / str(seed)
        folder.mkdir()
        kill_at_random(source, folder, number, seed)


# --- full ---


def fill_at(source: Path, folder: Path, most_bytes: int) -> None:
    """No file may be larger: the write that would make it so fails, as on a full disk."""
    output = folder / "out.mp4"
    output.write_bytes(PREVIOUS)
    ended = child.run(source, output, "--overwrite", "--most-bytes", str(most_bytes))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert_whole_or_partial(folder, ended)
    if ended.status == 0:
        assert output.read_bytes() != PREVIOUS
        return
    assert ended.status == 1
    assert output.read_bytes() == PREVIOUS
    assert "out.mp4" in ended.said["error"]
    assert "\n" not in ended.said["error"]
    if most_bytes > 30_000:
        assert ended.partial is not None, "there was room for frames"


@pytest.mark.parametrize("most_bytes", [0, 1, 1000, 20_000, 40_000, 60_000, 75_000])
def test_full_at_some_writes(most_bytes: int, source: Path, tmp_path: Path) -> None:
    fill_at(source, tmp_path, most_bytes)


@pytest.mark.slow
def test_full_at_every_write(source: Path, tmp_path: Path) -> None:
    whole = translate(source, tmp_path / "whole.mp4").output
    assert whole is not None
    for most_bytes in range(0, whole.stat().st_size + 2000, 500):
        folder = tmp_path / str(most_bytes)
        folder.mkdir()
        fill_at(source, folder, most_bytes)


# --- unreadable ---


class HalfHandler(http.server.BaseHTTPRequestHandler):
    """Promises a whole file, gives a share of it, and hangs up."""

    data = b""
    share = 0.5

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data[: int(len(self.data) * self.share)])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def half_url(source: Path) -> Iterator[str]:
    HalfHandler.data = source.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), HalfHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/in.mp4"
    server.shutdown()
    server.server_close()


def assert_named_loss(folder: Path, ended: child.Ended) -> None:
    """What could be read is in a file that plays, and the rest is not passed over."""
    (kept,) = [path for path in folder.iterdir() if path.name != "in.mp4"]
    assert 5 < len(read(kept).times) < FRAMES
    if ended.status == 0:
        assert ended.said["warnings"]
    else:
        assert ended.partial == kept


def test_a_connection_that_ends_in_the_middle(half_url: str, tmp_path: Path) -> None:
    ended = child.run(half_url, tmp_path / "out.mp4", seconds=60)
    assert_named_loss(tmp_path, ended)


@pytest.mark.parametrize("container", ["mp4", "ts", "mkv"])
def test_a_file_that_is_cut_off_while_it_is_read(container: str, tmp_path: Path) -> None:
    """A card that is pulled out: reads that worked a moment ago give nothing."""
    copy = tmp_path / f"in.{container}"
    make_video(copy, pts=[index * 512 for index in range(FRAMES)], size=(320, 240), options={"crf": "1", "g": "10"})
    process = child.start(copy, tmp_path / "out.mp4", "--frame-seconds", "0.05")
    while not [path for path in tmp_path.iterdir() if path != copy and path.stat().st_size]:
        assert process.poll() is None
        time.sleep(0.005)
    os.truncate(copy, copy.stat().st_size // 2)
    ended = child.end(process)
    copy.unlink()
    assert_named_loss(tmp_path, ended)
