"""A stream that arrives as it is recorded: its sound is recorded too, in sync."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.engine.video.cases import child
from tests.engine.video.cases.measures import measure
from tests.engine.video.cases.media import FFMPEG, needs_ffmpeg

# The newest picture wins, so one may be missing beside a beep.
LIVE_SYNC_SECONDS = 0.08


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        return int(udp.getsockname()[1])


@needs_ffmpeg
def test_a_live_stream_keeps_its_sound(made: Callable[[str], Path], tmp_path: Path) -> None:
    url = f"udp://127.0.0.1:{free_port()}"
    process = child.start(url, tmp_path / "out.mp4")
    sender = [str(FFMPEG), "-nostdin", "-v", "error", "-re", "-stream_loop", "3", "-i", str(made("for_pipe.ts"))]
    sending = subprocess.Popen([*sender, "-c", "copy", "-f", "mpegts", f"{url}?pkt_size=1316"])
    try:
        deadline = time.monotonic() + 40
        while not list(tmp_path.glob(".out*")):
            assert time.monotonic() < deadline, "no picture has arrived"
            time.sleep(0.1)
        time.sleep(6)
        process.send_signal(signal.SIGINT)
        ended = child.end(process)
    finally:
        sending.kill()
        sending.wait()
    assert ended.status == 128 + signal.SIGINT
    (kept,) = tmp_path.iterdir()
    film = measure(kept)
    assert len(film.times) > 50
    assert film.sound == "aac"
    assert len(film.beeps) >= 2
    assert len(film.sync_seconds) >= 2
    assert max(map(abs, film.sync_seconds)) <= LIVE_SYNC_SECONDS, film.sync_seconds
