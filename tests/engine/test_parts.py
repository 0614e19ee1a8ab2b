"""A job that is interrupted goes on: what comes out equals what comes out of one run."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import save_generator
from engine.errors import SinkError
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.part_files import PartPacket
from engine.parts import Parts, describe, folder_of
from engine.run import main
from engine.video.part_keeper import PartKeeper
from engine.video.video_encoder import VideoEncoder
from tests.media import Audio, Contents, Text, make_video, read

SECONDS = "0.5"
"""Length of a part in these tests."""

SIZE = (128, 80)
"""At some other sizes, 64x48 or 320x180 for example, libx264 makes different bytes of the same frames each time."""


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("style") / "tiny.safetensors"
    save_generator(build(ResNetConfig(width=4, blocks=1)), path, metadata={})
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Four seconds of 25 frames, with sound that is shorter and a subtitle that begins late."""
    text = Text(((2100, 3000, "later"),))
    path = tmp_path / "film.mkv"
    return make_video(path, pts=[512 * i for i in range(100)], size=SIZE, audio=(Audio(seconds=3.5),), texts=(text,))


class Interruption:
    """Makes writing fail at frames of some numbers, once each."""

    def __init__(self) -> None:
        self.at: list[int] = []
        self.encoded: list[int] = []

    def write(self, keeper: PartKeeper, number: int, *arguments: Any) -> Iterator[Any]:
        if self.at and number == self.at[0]:
            del self.at[0]
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield from self.original(keeper, number, *arguments)

    original: Any = None


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch) -> Interruption:
    made = Interruption()
    made.original = PartKeeper.write
    monkeypatch.setattr(PartKeeper, "write", lambda keeper, *arguments: made.write(keeper, *arguments))
    encode = VideoEncoder.encode

    def counting(encoder: VideoEncoder, picture: Any, pts: int) -> Any:
        made.encoded.append(pts)
        return encode(encoder, picture, pts)

    monkeypatch.setattr(VideoEncoder, "encode", counting)
    return made


def run(source: Path, output: Path, style: Path, *more: str) -> int:
    command = [str(source), "-o", str(output), "--style", str(style), "--precision", "fp32"]
    return main([*command, *(more or ("--part-seconds", SECONDS))])


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def assert_same(made: Contents, expected: Contents, *, payloads: bool = True, frames: bool = True) -> None:
    """Packets, timestamps and pictures; without `payloads` all but the order and the bytes of encoded pictures."""
    assert made.times == expected.times
    least = 0 if payloads else Fraction(1, 1000)  # MP4 tells the end in milliseconds, Matroska doesn't
    assert abs((made.end or 0) - (expected.end or 0)) <= least
    assert made.chapters == expected.chapters
    assert [track.codec for track in made.tracks] == [track.codec for track in expected.tracks]
    for track, other in zip(made.tracks, expected.tracks, strict=True):
        if track.type != "video" or payloads:
            assert track.packets == other.packets
    if frames:
        for frame, wanted in zip(made.frames, expected.frames, strict=True):
            assert np.array_equal(frame.to_ndarray(), wanted.to_ndarray())


# --- from the command line ---


def test_a_job_goes_on_where_it_was(
    film: Path, style: Path, tmp_path: Path, interruption: Interruption, capsys: pytest.CaptureFixture[str]
) -> None:
    """After three interruptions every frame was encoded once, but for those of the parts that were under way."""
    whole, output = tmp_path / "whole.mkv", tmp_path / "out.mkv"
    assert run(film, whole, style) == 0
    interruption.encoded.clear()
    interruption.at = [30, 55, 90]
    for _ in range(3):
        assert run(film, output, style) == 1
        assert "disk is full" in error_line(capsys)
        assert not output.exists()
    assert run(film, output, style) == 0
    assert_same(read(output), read(whole))
    assert not folder_of(output).exists()
    again = len(interruption.encoded) - len(set(interruption.encoded))
    assert len(set(interruption.encoded)) == 100
    assert 0 < again <= 3 * 16  # a part has at most 0.625 s


def test_a_steadied_job_goes_on_where_it_was(
    film: Path, style: Path, tmp_path: Path, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames before a part that is missing are translated again, as far as it depends on them."""
    monkeypatch.setattr("engine.steady.BLOCK", 16)
    monkeypatch.setattr("engine.steady.WARM_UP", 4)
    whole, output = tmp_path / "whole.mkv", tmp_path / "out.mkv"
    steady = ("--part-seconds", SECONDS, "--steady", "1")
    assert run(film, whole, style, *steady) == 0
    interruption.at = [30, 55, 90]
    for _ in range(3):
        assert run(film, output, style, *steady) == 1
    assert run(film, output, style, *steady) == 0
    assert_same(read(output), read(whole))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts", ".webm", ".avi"])
@pytest.mark.parametrize("kind", ["even", "uneven", "late start", "B-frames", "long sound", "drop-frame"])
def test_parts_are_joined_to_what_one_piece_is(
    kind: str, suffix: str, style: Path, tmp_path: Path, interruption: Interruption
) -> None:
    """Timestamps and the other tracks are those of one piece, and the frames as well where no encoder changes them."""
    even = [512 * i for i in range(60)]
    uneven = [512 * (i + i // 7 * 3 + (i % 3) // 2) for i in range(60)]
    film: dict[str, Any] = {
        "even": {"pts": even, "audio": (Audio(),)},
        "uneven": {"pts": uneven, "audio": (Audio(),)},
        "late start": {"pts": [12800 + pts for pts in even], "audio": (Audio(start_seconds=0.7),)},
        "B-frames": {"pts": even, "options": {"bf": "3", "x264-params": "open-gop=1", "g": "20"}},
        "long sound": {"pts": even, "audio": (Audio(seconds=4.0),)},
        "drop-frame": {"pts": [1001 * i for i in range(60)], "time_base": Fraction(1, 30000), "audio": (Audio(),)},
    }[kind]
    source = make_video(tmp_path / "film.mkv", size=SIZE, **film)
    whole, parts, output = (tmp_path / f"{name}{suffix}" for name in ("whole", "parts", "out"))
    lossless = ["--codec", "ffv1"] if suffix in (".mkv", ".avi") else []
    assert run(source, whole, style, "--part-seconds", "0", *lossless) == 0
    assert run(source, parts, style, "--part-seconds", SECONDS, *lossless) == 0
    interruption.at = [25, 50]
    while interruption.at:
        assert run(source, output, style, "--part-seconds", SECONDS, *lossless) == 1
    assert run(source, output, style, "--part-seconds", SECONDS, *lossless) == 0
    assert_same(read(output), read(parts))
    assert_same(read(output), read(whole), payloads=False, frames=bool(lossless))


def test_a_short_job_is_made_in_one_piece(film: Path, style: Path, tmp_path: Path, interruption: Interruption) -> None:
    """Nothing is kept where the whole is expected to take less than a minute."""
    output = tmp_path / "out.mkv"
    interruption.at = [90]
    assert run(film, output, style, "--crf", "20") == 1
    assert not folder_of(output).exists()


def test_parts_stay_where_they_are_wanted(film: Path, style: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    assert run(film, output, style, "--part-seconds", SECONDS, "--keep-parts") == 0
    assert "100 of 100 (100%)" in describe(output)[0]


def test_another_setting_is_named(
    film: Path, style: Path, tmp_path: Path, interruption: Interruption, capsys: pytest.CaptureFixture[str]
) -> None:
    output, kept = tmp_path / "out.mkv", ("--part-seconds", SECONDS)
    interruption.at = [50]
    assert run(film, output, style) == 1
    capsys.readouterr()
    assert run(film, output, style, *kept, "--crf", "30") == 1
    assert "another --crf (None, now 30)" in error_line(capsys)
    assert run(film, output, style, *kept, "--steady", "0.5") == 1
    assert "another --steady (None, now 0.5)" in error_line(capsys)
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_generator(build(ResNetConfig(width=4, blocks=1)), other, metadata={})
    assert run(film, output, other) == 1
    assert "another style" in error_line(capsys)
    assert run(film, output, style, *kept, "--backend", "eager") == 1
    assert "--backend fused --precision fp32" in error_line(capsys)
    with film.open("ab") as file:
        file.write(b"more")
    assert run(film, output, style) == 1
    assert "another source" in error_line(capsys)
    assert "128x80" in "".join(describe(output))  # nothing was lost
    assert run(film, output, style, *kept, "--restart") == 0
    assert len(read(output).times) == 100


def test_a_range_goes_on_where_it_was(
    film: Path, style: Path, tmp_path: Path, interruption: Interruption, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its limits belong to the job."""
    whole, output = tmp_path / "whole.mkv", tmp_path / "out.mkv"
    kept = ("--part-seconds", SECONDS, "--start", "0.5")
    assert run(film, whole, style, *kept, "--end", "0:03.5") == 0
    interruption.at = [20, 60]
    for _ in range(2):
        assert run(film, output, style, *kept, "--end", "3.5") == 1
    capsys.readouterr()
    assert run(film, output, style, *kept) == 1
    assert "another --end (0:03.5, now None)" in error_line(capsys)
    assert run(film, output, style, *kept, "--end", "3.5") == 0
    assert len(read(whole).times) == 75
    assert_same(read(output), read(whole))


def test_a_damaged_part_is_done_again(
    film: Path, style: Path, tmp_path: Path, interruption: Interruption, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, output = tmp_path / "whole.mkv", tmp_path / "out.mkv"
    assert run(film, whole, style) == 0
    interruption.at = [80]
    assert run(film, output, style) == 1
    packets = sorted(folder_of(output).glob("*.packets"))
    packets[1].write_bytes(packets[1].read_bytes()[:-1])
    packets[2].with_suffix(".json").write_text("{")
    assert run(film, output, style) == 0
    assert capsys.readouterr().err.count("is damaged: its frames are done again") == 2
    assert_same(read(output), read(whole))


def test_two_runs_at_once_do_not_share_parts(
    film: Path, style: Path, tmp_path: Path, interruption: Interruption, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mkv"
    interruption.at = [50]
    assert run(film, output, style) == 1
    capsys.readouterr()
    about = json.loads((folder_of(output) / "job.json").read_text())
    first = Parts(output, about["job"], frame_count=100)
    assert "a process is working on it" in describe(output)[0]
    assert run(film, output, style) == 1
    assert "another process is working on it" in error_line(capsys)
    first.close()
    assert run(film, output, style) == 0


def test_the_status_of_no_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--status", str(tmp_path / "out.mp4")]) == 1
    assert "no unfinished job" in error_line(capsys)


@pytest.mark.parametrize("text", ["-1", "nan", "0.01", "much", "inf"])
def test_a_length_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(["clip.mp4", f"--part-seconds={text}"])
    assert exit_status.value.code == 2
    assert "number of seconds" in capsys.readouterr().err


@pytest.mark.slow
def test_twenty_kills(style: Path, tmp_path: Path) -> None:
    """A film of two minutes with sound is killed at random moments; at most one part is lost each time."""
    film = make_video(
        tmp_path / "film.mp4", pts=[512 * i for i in range(3000)], size=(256, 144), audio=(Audio(seconds=120.0),)
    )
    command = [sys.executable, "-m", "engine.run", str(film), "--style", str(style), "--precision", "fp32"]
    command += ["--part-seconds", "2"]
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    begin = time.monotonic()
    subprocess.run([*command, "-o", str(whole)], check=True, capture_output=True)
    seconds = time.monotonic() - begin
    random.seed(0)
    for _ in range(20):
        process = subprocess.Popen([*command, "-o", str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if output.exists():
            assert_same(read(output), read(whole))
            output.unlink()
    subprocess.run([*command, "-o", str(output)], check=True, capture_output=True)
    assert_same(read(output), read(whole))


def test_a_killed_process_leaves_its_parts(film: Path, style: Path, tmp_path: Path) -> None:
    """SIGKILL, and the same command again."""
    command = [sys.executable, "-m", "engine.run", str(film), "--style", str(style), "--precision", "fp32"]
    command += ["--part-seconds", SECONDS]
    whole, output = tmp_path / "whole.mkv", tmp_path / "out.mkv"
    subprocess.run([*command, "-o", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*command, "-o", str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(folder_of(output).glob("*.json"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run([*command, "-o", str(output)], check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert_same(read(output), read(whole))


# --- parts ---


JOB = {"source": "a", "--crf": None}


def written(parts: Parts, first: int, payloads: list[bytes]) -> None:
    writer = parts.begin(first, (48, 64))
    for number, payload in enumerate(payloads):
        writer.add_frame(first + number)
        writer.add_packet(PartPacket(first + number, first + number - 2, number == 0, payload))
    writer.complete()


def test_a_part_holds_what_was_written(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    parts = Parts(output, JOB, frame_count=10, seconds=1.0)
    parts.choose_engine("fused fp32", 0.0)
    written(parts, 0, [b"first", b"", b"third"])
    parts.begin(3, (48, 64))  # not complete
    parts.close()
    again = Parts(output, JOB, frame_count=10, seconds=1.0)
    assert [again.keeps(number) for number in range(5)] == [True, True, True, False, False]
    assert again.picture == (48, 64)
    part = again.holding(1)
    assert part is not None
    packets = [PartPacket(0, -2, True, b"first"), PartPacket(1, -1, False, b""), PartPacket(2, 0, False, b"third")]
    assert list(part.packets()) == packets
    assert not list(again.folder.glob("000000003*"))
    again.choose_engine("fused fp32", 0.0)
    with pytest.raises(SinkError, match="add --backend fused --precision fp32"):
        again.choose_engine("fused bf16", 0.0)
    again.remove()
    assert not again.folder.exists()


def test_a_job_of_over_a_minute_is_kept(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.mp4", JOB, frame_count=1000)
    parts.choose_engine("fused fp32", 0.059)
    assert not parts.is_active
    parts.choose_engine("fused fp32", 0.061)
    assert parts.is_active


@pytest.mark.parametrize("about", ["", "[]", '{"format": 99}', '{"format": 1, "job": 3}'])
def test_a_damaged_description(about: str, tmp_path: Path) -> None:
    """All begins again, or the job is said to be another one; never an exception of Python's."""
    output = tmp_path / "out.mp4"
    parts = Parts(output, JOB, frame_count=10, seconds=1.0)
    parts.choose_engine("fused fp32", 0.0)
    written(parts, 0, [b"first"])
    parts.close()
    (parts.folder / "job.json").write_text(about)
    again = Parts(output, JOB, frame_count=10)
    assert again.frame_count == 0
    assert again.choose_engine("fused bf16", 0.0) is None
