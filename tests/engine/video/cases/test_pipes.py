"""Sources that can be read once: they give what the file gives, and nothing hangs."""

from __future__ import annotations

import http.server
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.video.cases import child
from tests.engine.video.cases.measures import Film, measure
from tests.engine.video.through import through

Made = Callable[[str], Path]


def assert_same(film: Film, other: Film) -> None:
    assert film.times == other.times
    assert (film.sound, film.sound_packets) == (other.sound, other.sound_packets)
    film.assert_in_sync(flashes=5)


def feed(fifo: Path, data: bytes, *, pause_seconds: float = 0.0) -> threading.Thread:
    """Writes into a FIFO once, piece by piece; a reader that goes away is its own affair."""

    def write() -> None:
        try:
            with fifo.open("wb", buffering=0) as pipe:
                for start in range(0, len(data), 20_000):
                    pipe.write(data[start : start + 20_000])
                    time.sleep(pause_seconds)
        except OSError:
            return

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("pause_seconds", [0.0, 0.1])
@pytest.mark.parametrize("name", ["for_pipe.ts", "for_pipe.mkv", "no_duration.webm"])
def test_a_fifo_gives_what_the_file_gives(name: str, pause_seconds: float, made: Made, tmp_path: Path) -> None:
    source = made(name)
    fifo = tmp_path / f"p{source.suffix}"
    os.mkfifo(fifo)
    feed(fifo, source.read_bytes(), pause_seconds=pause_seconds)
    ended = child.run(fifo, tmp_path / "piped.mp4")
    assert (ended.status, ended.said.get("frames")) == (0, 125), ended
    assert_same(measure(tmp_path / "piped.mp4"), measure(through(source, tmp_path / "out.mp4").path))


def test_an_mp4_whose_index_is_last_is_one_line_or_a_film(made: Made, tmp_path: Path) -> None:
    fifo = tmp_path / "p.mp4"
    os.mkfifo(fifo)
    feed(fifo, made("clip.mp4").read_bytes())
    ended = child.run(fifo, tmp_path / "out.mp4", seconds=20)
    if ended.status == 0:
        assert len(measure(tmp_path / "out.mp4").times) == 75
    else:
        assert str(fifo) in ended.said["error"]
        assert "\n" not in ended.said["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_silent_pipe_can_be_stopped(number: signal.Signals, made: Made, tmp_path: Path) -> None:
    """The writer holds the pipe open and says no more."""
    fifo, data = tmp_path / "p.ts", made("for_pipe.ts").read_bytes()
    os.mkfifo(fifo)
    process = child.start(fifo, tmp_path / "out.mp4")
    with fifo.open("wb", buffering=0) as pipe:
        pipe.write(data[: len(data) // 2])
        time.sleep(2)
        process.send_signal(number)
        ended = child.end(process, seconds=15)
    assert ended.status == 128 + number
    kept = [path for path in tmp_path.iterdir() if path != fifo]
    assert kept in ([], [tmp_path / "out.partial.mp4"])
    if kept:
        assert 0 < len(measure(kept[0]).times) < 125


def test_a_pipe_that_gives_nothing_is_one_line(tmp_path: Path) -> None:
    fifo = tmp_path / "p.ts"
    os.mkfifo(fifo)
    feed(fifo, b"")
    ended = child.run(fifo, tmp_path / "out.mp4", seconds=15)
    assert ended.status == 1
    assert "\n" not in ended.said["error"]
    assert list(tmp_path.iterdir()) == [fifo]


@pytest.mark.parametrize(
    "command",
    [
        "{run} - -o {output} < {source}",
        "cat {source} | {run} /dev/stdin -o {output}",
        "{run} <(cat {source}) -o {output}",
    ],
    ids=["-", "/dev/stdin", "<(cat)"],
)
@pytest.mark.parametrize("name", ["for_pipe.ts", "for_pipe.mkv"])
def test_standard_input_and_process_substitution(
    command: str, name: str, made: Made, identity_style: Path, tmp_path: Path
) -> None:
    source, output = made(name), tmp_path / "out.mp4"
    program = [sys.executable, "-m", "engine.run", "--style", str(identity_style), "--quiet"]
    line = command.format(run=shlex.join(program), source=shlex.quote(str(source)), output=shlex.quote(str(output)))
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    film = measure(output)
    assert len(film.times) == 125
    assert film.sound_packets == 236
    film.assert_in_sync(flashes=5)


# --- HTTP ---


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file, with or without saying how long it is; parts of it can't be asked for."""

    data = b""
    says_length = True
    share = 1.0  # of the file that comes

    def do_GET(self) -> None:
        self.send_response(200)
        if self.says_length:
            self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        try:
            self.wfile.write(self.data[: round(self.share * len(self.data))])
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serves a file on a local port; gives its URL."""
    servers = []

    def start(path: Path, *, says_length: bool, share: float = 1.0) -> str:
        settings = {"data": path.read_bytes(), "says_length": says_length, "share": share}
        handler = type("One", (Handler,), settings)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/{path.name}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("name", ["no_duration.webm", "for_pipe.ts", "for_pipe.mkv"])
def test_http_gives_what_the_file_gives(
    name: str, says_length: bool, made: Made, serve: Callable[..., str], tmp_path: Path
) -> None:
    """A recording without a duration is no live stream."""
    ended = child.run(serve(made(name), says_length=says_length), tmp_path / "fetched.mp4")
    assert (ended.status, ended.said.get("frames")) == (0, 125), ended
    assert_same(measure(tmp_path / "fetched.mp4"), measure(through(made(name), tmp_path / "out.mp4").path))


@pytest.mark.parametrize("name", ["no_duration.webm", "for_pipe.ts"])
def test_a_connection_that_is_lost_is_an_error(
    name: str, made: Made, serve: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "fetched.mp4"
    ended = child.run(serve(made(name), says_length=True, share=0.5), output)
    assert ended.status != 0
    assert "the connection was lost" in ended.said["error"]
    assert not output.exists()
    assert 40 <= len(measure(tmp_path / "fetched.partial.mp4").times) < 125


def test_a_server_that_says_no_length_is_named(made: Made, serve: Callable[..., str], tmp_path: Path) -> None:
    """Where its file ends, and whether it does, nobody knows."""
    result = through(serve(made("for_pipe.ts"), says_length=False, share=0.5), tmp_path / "fetched.mp4")
    assert any("did not say how long it is" in line for line in result.warnings), result.warnings
