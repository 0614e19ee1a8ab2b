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
from typing import Any

import numpy as np
import pytest

from engine.errors import SinkError
from engine.files import part_of
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


SUFFIXES = [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_place_on_the_disk_that_fails(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly when the index is written: the file goes on in another place."""
    write_ten(tmp_path / f"whole{suffix}").finish()
    sink = write_ten(tmp_path / f"out{suffix}")
    (part,) = tmp_path.glob(".*.part")
    inode, write = part.stat().st_ino, os.pwrite

    def pwrite(file: int, data: memoryview, position: int) -> int:
        if os.fstat(file).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return write(file, data, position)

    monkeypatch.setattr(partial_file.os, "pwrite", pwrite)
    output = sink.finish()
    assert output == tmp_path / f"out{suffix}"
    assert len(read(output).frames) == 10
    if suffix not in (".mkv", ".webm"):  # they have a random number in it
        assert output.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert any("the disk failed (Input/output error)" in line for line in sink.warnings)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_fails_everywhere(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more can be written: what has no index before its end is lost."""
    sink = FileSink(tmp_path / f"out{suffix}", info=info(64, 48), crf=0)
    noise = np.random.default_rng(0)
    for index in range(200):
        sink.write(Frame(noise.integers(0, 255, (48, 64, 3), np.uint8), pts=index, duration=1))

    def pwrite(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(partial_file.os, "pwrite", pwrite)
    with pytest.raises(SinkError, match="can't be written after 200 frames"):
        sink.finish()
    partial = sink.abort()
    assert list(tmp_path.iterdir()) == ([] if partial is None else [partial])
    assert partial is None or read(partial).frames
    assert (partial is None) == (suffix in (".mp4", ".mov"))


def test_what_cannot_be_forced_to_disk_is_kept_as_partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(partial_file.os, "fsync", fsync)
    sink = write_ten(tmp_path / "out.mp4")
    with pytest.raises(SinkError, match="Input/output error"):
        sink.finish()
    partial = sink.abort()
    assert partial == tmp_path / "out.partial.mp4"
    assert len(read(partial).frames) == 10


def limit_disk(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with so many bytes of room for a file and for what is kept for closing it."""
    write, allocate, sizes = os.pwrite, os.posix_fallocate, {"file": 0, "reserve": 0}

    def check(kind: str, size: int) -> None:
        other = sizes["file" if kind == "reserve" else "reserve"]
        if size > sizes[kind] and size + other > most:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sizes[kind] = max(size, sizes[kind])

    def pwrite(file: int, data: memoryview, position: int) -> int:
        check("file", position + len(data))
        return write(file, data, position)

    def posix_fallocate(file: int, offset: int, size: int) -> None:
        check("reserve", size)
        allocate(file, offset, size)

    monkeypatch.setattr(partial_file.os, "pwrite", pwrite)
    monkeypatch.setattr(partial_file.os, "posix_fallocate", posix_fallocate)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_small_output_needs_little_room(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_disk(200_000, monkeypatch)
    output = write_ten(tmp_path / f"out{suffix}").finish()
    assert output is not None
    assert len(read(output).frames) == 10


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


@pytest.mark.parametrize("nameless", [True, False], ids=["nameless", "named"])
def test_the_room_it_keeps_never_has_a_name_that_stays(
    nameless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be killed at any moment: what it leaves is swept by its name, so it has to be one of ours."""
    made: list[Path] = []
    opens = os.open

    def open_and_note(path: Any, flags: int, *args: Any, **given: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE and not nameless:
            raise OSError(errno.EOPNOTSUPP, "no such files here")
        file = opens(path, flags, *args, **given)
        made.extend(tmp_path.iterdir())
        return file

    monkeypatch.setattr(os, "open", open_and_note)
    file = PartialFile(tmp_path / "out.mp4", overwrite=False)
    file.write(b"x")
    file.reserve(1000)
    assert {path.name for path in made} == {
        file.part.name,
        *([] if nameless else [part_of(tmp_path / "out.mp4.room").name]),
    }
    assert list(tmp_path.iterdir()) == [file.part]
    file.remove()
    assert not list(tmp_path.iterdir())
