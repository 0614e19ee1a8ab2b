"""Jobs on a cluster of two nodes: what comes out equals what one process makes, whatever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import pytest

from engine.cluster import cluster as cluster_module
from engine.cluster import spread
from engine.parts import folder_of
from engine.run import main
from tests.engine.test_parts import assert_same
from tests.media import Audio, damage, make_video, read

SECONDS = "0.5"
SIZE = (128, 80)


def arguments(source: Path, output: Path, style: Path, address: str | None) -> list[str]:
    command = [str(source), "-o", str(output), "--style", str(style), "--precision", "fp32", "--threads", "1"]
    return [*command, "--part-seconds", SECONDS, *(["--cluster", address] if address else [])]


def run(source: Path, output: Path, style: Path, address: str | None = None, *more: str) -> int:
    return main([*arguments(source, output, style, address), *more])


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    written = capsys.readouterr().err
    lines = [line for line in written.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in written
    assert len(lines) == 1, written
    return lines[0]


@pytest.fixture
def whole(film: Path, style: Path, tmp_path: Path, shared_cache: Path) -> Path:
    """The film as one undisturbed process makes it."""
    path = tmp_path / "whole.mkv"
    assert run(film, path, style) == 0
    return path


def test_two_nodes_make_what_one_process_makes(
    cluster: str, film: Path, style: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mkv"
    assert run(film, output, style, cluster) == 0
    assert "by 2 workers" in capsys.readouterr().err
    assert_same(read(output), read(whole))
    assert not folder_of(output).exists()


def test_the_first_frames_and_a_comparison(
    cluster: str, film: Path, style: Path, tmp_path: Path, shared_cache: Path
) -> None:
    """Options of the command line reach the workers, and numbers of frames count from the film's beginning."""
    one, many = tmp_path / "one.mp4", tmp_path / "many.mp4"
    more = ("--frames", "50", "--compare", "toggle", "--strength", "0.5", "--crf", "30")
    assert run(film, one, style, None, *more) == 0
    assert run(film, many, style, cluster, *more) == 0
    assert_same(read(many), read(one))


def test_a_folder_is_spread(
    cluster: str, style: Path, tmp_path: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sources of which decoding can begin anywhere or only at their start; one fails, the others don't."""
    folder, one, many = tmp_path / "films", tmp_path / "one", tmp_path / "many"
    folder.mkdir()
    even = [512 * i for i in range(70)]
    gop = {"g": "20", "bf": "3", "x264-params": "open-gop=1"}
    films: dict[str, dict[str, Any]] = {
        "b-frames.mp4": {"options": gop, "audio": (Audio(),)},
        "interlaced.mkv": {"options": {**gop, "x264-params": "interlaced=1:open-gop=1"}},
        "uneven.mkv": {"pts": [512 * (i + i // 7 * 3 + (i % 3) // 2) for i in range(70)], "options": gop},
        "broadcast.ts": {"options": gop},
        "late.mp4": {"pts": [12800 + pts for pts in even], "options": gop},
        "old.avi": {"codec": "mpeg4", "options": {"g": "12"}},
        "hidden frames.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "30"}},
    }
    for name, settings in films.items():
        make_video(folder / name, size=SIZE, **{"pts": even, **settings})
    damage(make_video(folder / "damaged.mkv", pts=even, size=SIZE, options={"g": "20"}), 0.5, 0.02)
    stills = make_video(tmp_path / "film.mkv", pts=even, size=SIZE, codec="mjpeg", pixel_format="yuvj420p")
    with_empty_packet(stills, folder / "lost frame.mkv")
    (folder / "no film.mp4").write_bytes(b"nothing")
    lossless = ("--codec", "ffv1")  # so that it doesn't matter where parts begin
    for output in (one, many):
        output.mkdir()
    assert run(folder, one, style, None, *lossless, "--overwrite") == 1
    capsys.readouterr()
    assert run(folder, many, style, cluster, *lossless, "--overwrite") == 1
    assert "no film.mp4" in error_line(capsys)
    assert len(read(many / "lost frame_tiny.mp4").times) == 69
    assert sorted(path.name for path in many.iterdir()) == sorted(path.name for path in one.iterdir())
    made = list(one.iterdir())
    assert len(made) == len(films) + 2
    for path in made:
        assert_same(read(many / path.name), read(path), payloads=False)


def with_empty_packet(film: Path, copy: Path) -> None:
    """Copies a film's packets, all but one of them: that one tells its time, but holds no frame."""
    with av.open(str(film)) as source, av.open(str(copy), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux() if packet.size):
            copied = av.Packet(bytes(packet) if number != 30 else bytes(8))
            copied.pts, copied.dts, copied.time_base, copied.stream = packet.pts, packet.dts, packet.time_base, stream
            copied.is_keyframe = packet.is_keyframe
            output.mux(copied)


# --- what dies ---


class Killer:
    """Kills workers and drivers of one cluster, and waits for parts."""

    def __init__(self, command: list[str], output: Path, cache: Path) -> None:
        self._command = [sys.executable, "-m", "engine.run", *command]
        self._output = output
        self._cache = cache
        self.start()

    def start(self) -> None:
        self.driver = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def parts(self) -> set[str]:
        return {path.name for path in folder_of(self._output).glob("[0-9]*.json")}

    def wait_for_parts(self, count: int) -> bool:
        """Waits until there are so many more; False if the driver has ended before."""
        wanted = len(self.parts()) + count
        while self.driver.poll() is None:
            if len(self.parts()) >= wanted:
                return True
            time.sleep(0.005)
        return False

    def kill_worker(self) -> bool:
        """Kills one that is making a part; False if there is none."""
        for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda _: random.random()):
            with contextlib.suppress(OSError):
                is_worker = (process / "cmdline").read_bytes().startswith(b"ray::Worker.make")
                if is_worker and str(self._cache).encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
                    return True
        return False

    def kill_driver(self) -> tuple[set[str], set[str]]:
        """Kills it and starts it again; the parts that were there before, and after it has gone on."""
        self.driver.send_signal(signal.SIGKILL)
        self.driver.communicate()
        before = self.parts()
        self.start()
        return before, self.parts()

    def end(self) -> str:
        """What the driver said until its end, which has to be a good one."""
        _, said = self.driver.communicate()
        assert self.driver.returncode == 0, said
        return said


def test_a_worker_and_the_driver_die(
    cluster: str, film: Path, style: Path, whole: Path, tmp_path: Path, shared_cache: Path
) -> None:
    """What was being made is made again, and nothing else."""
    output = tmp_path / "out.mkv"
    killer = Killer(arguments(film, output, style, cluster), output, shared_cache)
    assert killer.wait_for_parts(1)
    while not killer.kill_worker():
        assert killer.driver.poll() is None, killer.end()
    assert killer.wait_for_parts(3)
    before, _ = killer.kill_driver()
    said = killer.end()
    assert len(before) >= 4
    frames = 16 * len(before) - (8 if "000000192.json" in before else 0)
    assert f"{frames} frames are there from an earlier run" in said
    assert f"{200 - frames} frames by" in said
    assert_same(read(output), read(whole))


@pytest.mark.slow
def test_ten_workers_and_two_drivers_die(cluster: str, style: Path, tmp_path: Path, shared_cache: Path) -> None:
    """A film of two minutes with sound."""
    random.seed(0)
    options = {"g": "10000", "keyint_min": "10000"}
    pts = [512 * i for i in range(3000)]
    film = make_video(tmp_path / "film.mp4", pts=pts, size=SIZE, audio=(Audio(seconds=120.0),), options=options)
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    assert run(film, whole, style) == 0
    killer = Killer(arguments(film, output, style, cluster), output, shared_cache)
    for number in range(12):
        assert killer.wait_for_parts(random.randint(4, 8)), killer.end()
        if number in (4, 8):
            before, after = killer.kill_driver()
            assert before <= after
        else:
            while not killer.kill_worker():
                assert killer.driver.poll() is None, killer.end()
    said = killer.end()
    print(said)
    assert said.count("a worker on") == 3  # since the last driver was killed
    assert_same(read(output), read(whole))


def test_ctrl_c_keeps_the_parts(
    cluster: str, film: Path, style: Path, whole: Path, tmp_path: Path, shared_cache: Path
) -> None:
    output = tmp_path / "out.mkv"
    killer = Killer(arguments(film, output, style, cluster), output, shared_cache)
    assert killer.wait_for_parts(2)
    killer.driver.send_signal(signal.SIGINT)
    _, said = killer.driver.communicate()
    assert killer.driver.returncode == 128 + signal.SIGINT
    assert "stopped" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    killer.start()
    killer.end()
    assert_same(read(output), read(whole))


# --- what workers lack ---


def test_a_source_that_workers_cannot_read_is_sent(
    cluster: str, film: Path, style: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another file under that name where they are."""
    output = tmp_path / "out.mkv"
    monkeypatch.setattr(spread, "identity_of", lambda path: "another")
    assert run(film, output, style, cluster) == 0
    assert_same(read(output), read(whole))


def test_a_source_that_is_too_large_to_be_sent(
    cluster: str,
    film: Path,
    style: Path,
    tmp_path: Path,
    shared_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(spread, "identity_of", lambda path: "another")
    monkeypatch.setattr(spread, "SENT_BYTES", 1000)
    assert run(film, tmp_path / "out.mkv", style, cluster) == 1
    assert "film.mkv can't be read there, or is another file" in error_line(capsys)


def test_a_worker_of_another_version(
    cluster: str,
    film: Path,
    style: Path,
    tmp_path: Path,
    shared_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster_module, "versions", lambda: {"StreamGAN": "0.0.1"})
    assert run(film, tmp_path / "out.mkv", style, cluster) == 1
    assert "not 0.0.1: install the same version" in error_line(capsys)


def test_more_cores_than_a_node_has(
    cluster: str, film: Path, style: Path, tmp_path: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(film, tmp_path / "out.mkv", style, cluster, "--threads", "2") == 1
    assert "no node of the cluster has the 2 cores" in error_line(capsys)
