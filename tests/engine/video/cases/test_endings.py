"""Whatever ends a job leaves something that plays and is named, or nothing; and no hidden file for ever."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from engine.errors import SinkError
from engine.files import part_of
from engine.video import open_sink, open_source
from tests.engine.video.cases import child
from tests.engine.video.cases.measures import measure
from tests.engine.video.cases.media import AAC, ffmpeg, needs_ffmpeg, sound
from tests.engine.video.identity import translate

Made = Callable[[str], Path]

pytestmark = needs_ffmpeg


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film that compresses badly: 250 frames of 15 KB each."""
    path = tmp_path_factory.mktemp("noise") / "long.mp4"
    picture = ["-f", "lavfi", "-i", "testsrc2=s=320x180:r=25:d=10,noise=alls=60:allf=t"]
    codec = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "ultrafast", "-crf", "20"]
    ffmpeg(*picture, *sound(10), *codec, *AAC, path)
    return path


def assert_plays(path: Path, source: Path, *, least: int = 1) -> None:
    """What was kept is a beginning of the film, in sync."""
    film, whole = measure(path), measure(source)
    assert least <= len(film.times) < len(whole.times)
    assert film.times == whole.times[: len(film.times)]
    assert film.sound == "aac"
    assert abs(film.sound_packets * 1024 / 48000 - float(film.times[-1] + Fraction(1, 25))) < 0.3


@pytest.mark.parametrize("most_bytes", [200_000, 500_000, 1_000_000])
def test_a_limit_of_file_sizes_keeps_what_fits(most_bytes: int, noise: Path, tmp_path: Path) -> None:
    """`ulimit -f`, a quota, a file system of small files: EFBIG."""
    output = tmp_path / "out.mp4"
    ended = child.run(noise, output, "--most-bytes", str(most_bytes))
    assert ended.status == 1
    assert "out.mp4" in ended.said["error"]
    assert ended.partial == tmp_path / "out.partial.mp4"
    assert list(tmp_path.iterdir()) == [ended.partial]
    assert_plays(ended.partial, noise)
    assert ended.partial.stat().st_size > most_bytes / 3


def test_the_command_line_under_a_limit(noise: Path, identity_style: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    program = [sys.executable, "-m", "engine.run", str(noise), "-o", str(output), "--style", str(identity_style)]
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 600; {shlex.join(program)}"], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    partial = tmp_path / "out.partial.mp4"
    assert str(partial) in errors[0]
    assert list(tmp_path.iterdir()) == [partial]
    assert_plays(partial, noise)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_is_done(number: signal.Signals, noise: Path, tmp_path: Path) -> None:
    process = child.start(noise, tmp_path / "out.mp4", "--frame-seconds", "0.02")
    wait_for_bytes(tmp_path, 100_000)
    process.send_signal(number)
    ended = child.end(process)
    assert ended.status == 128 + number
    assert ended.partial == tmp_path / "out.partial.mp4"
    assert list(tmp_path.iterdir()) == [ended.partial]
    assert_plays(ended.partial, noise)


def wait_for_bytes(folder: Path, count: int) -> None:
    """Until so much has been written in the folder."""
    deadline = time.monotonic() + 30
    while sum(path.stat().st_size for path in folder.iterdir()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_renamed_folder_keeps_the_film(noise: Path, tmp_path: Path) -> None:
    folder, renamed = tmp_path / "results", tmp_path / "renamed"
    folder.mkdir()
    source = open_source(str(noise))
    sink = open_sink(str(folder / "out.mp4"), source)
    written = 0
    try:
        for frame in source:
            if written == 40:
                folder.rename(renamed)
            sink.write(frame)
            written += 1
        output = sink.finish()
    except SinkError:
        output = sink.abort()
        assert output is None or ".partial" in output.name
    assert output is not None
    assert output.exists()
    assert len(measure(output).times) == written >= 40
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [output]


def test_a_removed_folder_is_made_again(noise: Path, tmp_path: Path) -> None:
    """What was written so far is still open."""
    folder = tmp_path / "results"
    folder.mkdir()
    process = child.start(noise, folder / "out.mp4", "--frame-seconds", "0.01")
    wait_for_bytes(folder, 100_000)
    shutil.rmtree(folder)
    ended = child.end(process)
    assert ended.status == 0
    assert len(measure(folder / "out.mp4").times) == len(measure(noise).times)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [folder / "out.mp4"]


def test_a_trailer_that_fails_leaves_what_plays(noise: Path, tmp_path: Path) -> None:
    """All frames are written, the index is not."""
    ended = child.run(noise, tmp_path / "out.mkv", "--no-trailer")
    assert ended.status == 1
    assert ended.partial == tmp_path / "out.partial.mkv"
    assert list(tmp_path.iterdir()) == [ended.partial]
    assert len(measure(ended.partial).times) > 100


def test_an_error_at_the_end_keeps_the_previous_output(noise: Path, made: Made, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    previous = made("clip.mp4").read_bytes()
    output.write_bytes(previous)
    ended = child.run(noise, output, "--no-trailer", "--overwrite")
    assert ended.status == 1
    assert output.read_bytes() == previous
    assert {path.name for path in tmp_path.iterdir()} <= {"out.mp4", "out.partial.mp4"}


def test_hidden_parts_of_dead_processes_are_swept(made: Made, tmp_path: Path) -> None:
    """Those of living ones, and files of other kinds, are left alone."""
    process = child.start(made("stills.mp4"), tmp_path / "out.mp4", "--frame-seconds", "0.1")
    while not [path for path in tmp_path.iterdir() if path.stat().st_size]:
        time.sleep(0.01)
    process.kill()
    child.end(process)
    (dead,) = tmp_path.iterdir()
    assert dead.name.startswith(".")
    living = part_of(tmp_path / "other.mp4")
    parent = living.with_name(living.name.replace(str(os.getpid()), str(os.getppid())))
    foreign = tmp_path / ".notes.part"
    for path in (living, parent, foreign):
        path.write_bytes(b"x")
    translate(made("clip.mp4"), tmp_path / "new.mp4")
    assert sorted(tmp_path.iterdir()) == sorted([living, parent, foreign, tmp_path / "new.mp4"])


def test_the_same_name_again_sweeps_its_own(made: Made, tmp_path: Path) -> None:
    process = child.start(made("stills.mp4"), tmp_path / "out.mp4", "--frame-seconds", "0.1")
    while not [path for path in tmp_path.iterdir() if path.stat().st_size]:
        time.sleep(0.01)
    process.kill()
    child.end(process)
    result = translate(made("clip.mp4"), tmp_path / "out.mp4")
    assert result.output == tmp_path / "out.mp4"
    assert list(tmp_path.iterdir()) == [result.output]
