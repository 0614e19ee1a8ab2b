"""Outputs that are not finished: their names, full disks, folders that go away, what dead processes leave."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.errors import SinkError
from engine.video import Frame, SourceInfo, partial_file
from engine.video.file_sink import FileSink
from engine.video.partial_file import PartialFile
from tests.media import moving_picture, read


def info(width: int, height: int) -> SourceInfo:
    return SourceInfo(name="test", width=width, height=height, frame_rate=Fraction(25), time_base=Fraction(1, 25))


def test_a_partial_file_is_never_replaced_by_a_shorter_one(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        file = PartialFile(tmp_path / "out.mp4", overwrite=False)
        file.write(b"x")
        names.append(file.keep_partial().name)
    assert names == ["out.partial.mp4", "out.partial-2.mp4"]


def test_a_name_taken_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    file = PartialFile(tmp_path / "out.mp4", overwrite=False)
    file.write(b"mine")
    (tmp_path / "out.mp4").write_bytes(b"another's")
    assert file.complete() == tmp_path / "out-2.mp4"
    assert (tmp_path / "out.mp4").read_bytes() == b"another's"


NOISE = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from fractions import Fraction
from engine.errors import SinkError
from engine.video import Frame, SourceInfo
from engine.video.file_sink import FileSink

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
info = SourceInfo("noise", 96, 64, frame_rate=Fraction(25), time_base=Fraction(1, 25))
sink = FileSink(Path(sys.argv[1]), info=info, crf=5)
noise = np.random.default_rng(0)
try:
    for index in range(400):
        sink.write(Frame(noise.integers(0, 255, (64, 96, 3), np.uint8), pts=index, duration=1))
    sink.finish()
except SinkError as error:
    print("refused:", error)
    print("kept:", sink.abort())
"""


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_file_that_may_not_grow(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    command = [sys.executable, "-c", NOISE, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "refused:" in run.stdout
    assert "files may not be larger here, after" in run.stdout
    assert run.stderr == ""
    partial = tmp_path / f"out.partial{suffix}"
    assert list(tmp_path.iterdir()) == [partial]
    assert f"after {len(read(partial).frames)} frames" in run.stdout


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("room", [1, 3_000, 40_000, 60_000, 100_000])
def test_a_full_disk(number: int, suffix: str, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the disk becomes full: what is kept for closing the file is enough for one that plays, or nothing is."""
    write, given_back = os.pwrite, False

    def pwrite(file: int, data: memoryview, position: int) -> int:
        nonlocal given_back
        if not given_back and position + len(data) > room:
            given_back = True  # by what asks again
            raise OSError(number, os.strerror(number))
        return write(file, data, position)

    monkeypatch.setattr(partial_file.os, "pwrite", pwrite)
    sink = FileSink(tmp_path / f"out{suffix}", info=info(64, 48), crf=0)
    noise = np.random.default_rng(0)
    with pytest.raises(SinkError, match="the disk is full"):  # noqa: PT012 - whichever of the calls it is
        for index in range(30):
            sink.write(Frame(noise.integers(0, 255, (48, 64, 3), np.uint8), pts=index, duration=1))
        sink.finish()
    partial = sink.abort()
    assert list(tmp_path.iterdir()) == ([] if partial is None else [partial])
    assert partial is None or read(partial).frames
    assert room < 60_000 or partial == tmp_path / f"out.partial{suffix}"


def test_a_disk_that_is_full_from_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(partial_file.os, "posix_fallocate", full)
    sink = FileSink(tmp_path / "out.mp4", info=info(64, 48))
    with pytest.raises(SinkError, match="the disk is full, after 0 frames"):
        sink.write(Frame(moving_picture(0, 64, 48), pts=0, duration=1))
    assert sink.abort() is None
    assert not list(tmp_path.iterdir())


def write_ten(path: Path) -> FileSink:
    sink = FileSink(path, info=info(64, 48))
    for index in range(10):
        sink.write(Frame(moving_picture(index, 64, 48), pts=index, duration=1))
    return sink


def test_a_folder_that_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    sink = write_ten(tmp_path / "a" / "out.mp4")
    (tmp_path / "a").rename(tmp_path / "b")
    assert sink.finish() == tmp_path / "b" / "out.mp4"
    assert len(read(tmp_path / "b" / "out.mp4").frames) == 10


def test_a_folder_that_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    sink = write_ten(tmp_path / "a" / "out.mp4")
    shutil.rmtree(tmp_path / "a")
    assert sink.finish() == tmp_path / "a" / "out.mp4"
    assert len(read(tmp_path / "a" / "out.mp4").frames) == 10


@pytest.mark.parametrize("suffix", [".avi", ".ts"])
def test_a_trailer_that_fails(suffix: str, tmp_path: Path) -> None:
    sink = write_ten(tmp_path / f"out{suffix}")

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    sink._close = fail  # type: ignore[method-assign]
    with pytest.raises(SinkError, match="can't be written after 10 frames"):
        sink.finish()
    partial = sink.abort()
    assert partial == tmp_path / f"out.partial{suffix}"
    assert read(partial).frames


def test_hidden_parts_of_dead_processes_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    dead = tmp_path / f".a.mp4.{ended.pid}.part"
    alive, other = tmp_path / f".b.mp4.{os.getpid()}.part", tmp_path / ".c.part"
    for path in (dead, alive, other):
        path.write_bytes(b"x")
    write_ten(tmp_path / "out.mp4").finish()
    assert sorted(tmp_path.iterdir()) == sorted([alive, other, tmp_path / "out.mp4"])
    assert str(dead) in caplog.text


def test_a_hidden_part_that_another_machine_writes_stays(tmp_path: Path) -> None:
    """Its process is unknown here, but holds a lock."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    part = tmp_path / f".a.mp4.{ended.pid}.part"
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_ten(tmp_path / "out.mp4").finish()
        assert part.exists()
