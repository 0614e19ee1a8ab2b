"""Transport streams whose streams change on the way, from a file and through a pipe."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from engine.errors import SinkError, SourceError
from engine.video import FileSource, open_sink, open_source, pyav
from engine.video.partial_file import PartialFile
from tests.engine.video.cases.media import ffmpeg
from tests.engine.video.test_demuxer import FRAME, assert_even, clip, join, needs_ffmpeg, sound_packets
from tests.engine.video.through import Result, through
from tests.media import read

pytestmark = needs_ffmpeg

Send = Callable[..., Result]


@pytest.fixture
def opened_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg looks for streams in the first bytes only, as if the film were long."""
    few = {"probesize": "20000", "analyzeduration": "100000"}
    monkeypatch.setattr(pyav, "_PIPE_OPTIONS", few)
    open_ = pyav._open
    monkeypatch.setattr(pyav, "_open", lambda name, form, options, hwaccel: open_(name, form, few | options, hwaccel))
    monkeypatch.setattr(pyav, "BROADCAST_OPTIONS", few)


@pytest.fixture(params=["file", "pipe"])
def send(request: pytest.FixtureRequest, tmp_path: Path) -> Send:
    """Sends joined parts through, in one of the two ways."""

    def send(*parts: Path, output: str = "out.mp4", **options: str) -> Result:
        path = join(tmp_path / "in.ts", *parts)
        if request.param == "file":
            return through(path, tmp_path / output, **options)
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        writer = threading.Thread(target=lambda: fifo.write_bytes(path.read_bytes()))
        writer.start()
        try:
            return through(fifo, tmp_path / output, **options)
        finally:
            writer.join()

    return send


def parts_of(folder: Path, *, sound: float = 0, then: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """A film of 4 s, and 3 s with sound that follow it."""
    first = clip(folder / "a.ts", 4, sound)
    return first, clip(folder / "b.ts", 3, 3, "-output_ts_offset", "4", *then)


@pytest.mark.usefixtures("opened_early")
@pytest.mark.parametrize("pid", ["0x100", "0x200"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".webm"])
def test_sound_that_begins_late(tmp_path: Path, send: Send, pid: str, suffix: str) -> None:
    first, second = parts_of(tmp_path, then=("-mpegts_start_pid", pid))
    result = send(first, second, output=f"out{suffix}")
    if suffix != ".webm":  # its clock is coarse
        assert_even(result, 175)
        assert sound_packets(result.path) == sound_packets(second)
    (track,) = result.contents.of_type("audio")
    assert abs(track.packets[0][0] - result.contents.times[100]) < 2 * FRAME
    assert [track.type for track in result.contents.tracks] == ["video", "audio"]
    kept = [line for line in result.warnings if "its clock" not in line and "is converted" not in line]
    assert not kept
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.usefixtures("opened_early")
def test_sound_in_the_middle_alone(tmp_path: Path, send: Send) -> None:
    first, second = parts_of(tmp_path)
    result = send(first, second, clip(tmp_path / "c.ts", 4, 0, "-output_ts_offset", "7"))
    assert_even(result, 275)
    assert sound_packets(result.path) == sound_packets(second)


def test_sound_far_behind_what_is_probed(tmp_path: Path) -> None:
    """It begins behind 5 MB and has ended before the end."""
    picture = "testsrc2=s=640x360:r=25:d=2,noise=alls=60:allf=t"
    encode = ["-c:v", "mpeg2video", "-q:v", "2", "-pix_fmt", "yuv420p"]
    parts = []
    for index, sound in enumerate([[], ["-f", "lavfi", "-i", "sine=d=2", "-c:a", "aac"], []]):
        part = tmp_path / f"{index}.ts"
        inputs = ["-f", "lavfi", "-i", picture, *sound[:4]]
        ffmpeg(*inputs, *encode, *sound[4:], "-output_ts_offset", str(2 * index), part)
        parts.append(part)
    assert min(part.stat().st_size for part in parts) > 8_000_000
    result = through(join(tmp_path / "in.ts", *parts), tmp_path / "out.mp4", codec="mpeg4")
    assert len(result.contents.times) == 150
    assert sound_packets(result.path) == sound_packets(parts[1])


@pytest.mark.usefixtures("opened_early")
def test_late_sound_behind_a_join(tmp_path: Path, send: Send) -> None:
    """The second part's clock begins anew."""
    first, second = clip(tmp_path / "a.ts", 4, 0), clip(tmp_path / "b.ts", 3, 3)
    result = send(first, second)
    assert_even(result, 175)
    (track,) = result.contents.of_type("audio")
    assert len(track.packets) == sound_packets(second)
    assert abs(track.packets[0][0] - 4) < FRAME


@pytest.mark.usefixtures("opened_early")
def test_late_sound_behind_a_wrap(tmp_path: Path, send: Send) -> None:
    first = clip(tmp_path / "a.ts", 4, 0, "-output_ts_offset", "95438")
    second = clip(tmp_path / "b.ts", 3, 3, "-output_ts_offset", "95442")
    (track,) = send(first, second).contents.of_type("audio")
    assert abs(track.packets[0][0] - 4) < FRAME


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_film_that_goes_on_under_other_pids_and_back(
    tmp_path: Path, send: Send, suffix: str, early: bool, request: pytest.FixtureRequest
) -> None:
    if early:
        request.getfixturevalue("opened_early")
    first, second = parts_of(tmp_path, sound=4, then=("-mpegts_start_pid", "0x200"))
    third = clip(tmp_path / "c.ts", 3, 3, "-output_ts_offset", "7")
    result = send(first, second, third, output=f"out{suffix}")
    assert len(result.contents.times) == 250
    assert [track.type for track in result.contents.tracks] == ["video", "audio"]
    (track,) = result.contents.of_type("audio")
    assert abs(track.packets[-1][0] - 10) < 2 * FRAME
    if suffix == ".mp4":
        assert_even(result, 250)
        assert len(track.packets) == sum(map(sound_packets, (first, second, third)))


@pytest.mark.usefixtures("opened_early")
@pytest.mark.parametrize("options", [("-ac", "2"), ("-ar", "44100"), ("-c:a", "ac3")])
def test_sound_of_another_kind_is_another_track(tmp_path: Path, send: Send, options: tuple[str, ...]) -> None:
    first, second = parts_of(tmp_path, sound=4, then=("-mpegts_start_pid", "0x200", *options))
    result = send(first, second)
    assert_even(result, 175)
    assert sorted(len(track.packets) for track in result.contents.of_type("audio")) == sorted(
        [
            sound_packets(first),
            sound_packets(second),
        ]
    )


@pytest.mark.usefixtures("opened_early")
def test_late_sound_is_left_out_if_none_is_wanted(tmp_path: Path, send: Send) -> None:
    assert not send(*parts_of(tmp_path), audio="none").contents.of_type("audio")


@pytest.mark.usefixtures("opened_early")
def test_a_cut_output_has_the_late_sound_to_its_end(tmp_path: Path) -> None:
    source = open_source(str(join(tmp_path / "in.ts", *parts_of(tmp_path))))
    sink = open_sink(str(tmp_path / "out.mp4"), source)
    for _, frame in zip(range(125), source, strict=False):
        sink.write(frame)
    source.close()
    output = sink.finish(is_cut=True)
    assert output is not None
    (track,) = read(output).of_type("audio")
    assert abs(track.packets[-1][0] - 5) < 2 * FRAME


@pytest.mark.usefixtures("opened_early")
def test_without_room_for_late_sound_the_picture_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(_: PartialFile) -> PartialFile:
        raise OSError(28, os.strerror(28))

    source = open_source(str(join(tmp_path / "in.ts", *parts_of(tmp_path))))
    sink = open_sink(str(tmp_path / "out.mp4"), source)
    for frame in source:
        sink.write(frame)
    monkeypatch.setattr(PartialFile, "another", another)
    with pytest.raises(SinkError, match="the disk is full"):
        sink.finish()
    partial = sink.abort()
    assert partial == tmp_path / "out.partial.mp4"
    assert len(read(partial).times) == 175


def test_a_picture_of_another_codec_is_an_error(tmp_path: Path, send: Send) -> None:
    first, second = parts_of(tmp_path, then=("-mpegts_start_pid", "0x200", "-c:v", "mpeg2video"))
    with pytest.raises(SourceError, match="the film goes on in a picture of another kind") as caught:
        send(first, second)
    assert "\n" not in str(caught.value)


def test_packets_with_something_around_them(tmp_path: Path) -> None:
    """Discs put a time before each packet, broadcasters a checksum behind it."""
    first, second = parts_of(tmp_path, sound=4, then=("-mpegts_start_pid", "0x200"))
    expected = through(join(tmp_path / "in.ts", first, second), tmp_path / "expected.mp4").contents
    data = (tmp_path / "in.ts").read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    (tmp_path / "in.m2ts").write_bytes(b"".join(b"\0\0\0\0" + packet for packet in packets))
    (tmp_path / "in204.ts").write_bytes(b"".join(packet + bytes(16) for packet in packets))
    for name in ("in.m2ts", "in204.ts"):
        contents = through(tmp_path / name, tmp_path / f"{name}.mp4").contents
        assert contents.times == expected.times
        assert contents.of_type("audio")[0].hashes == expected.of_type("audio")[0].hashes


def test_missing_bytes_move_the_packets(tmp_path: Path) -> None:
    first, second = parts_of(tmp_path, sound=4, then=("-mpegts_start_pid", "0x200"))
    data = first.read_bytes()
    first.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 100 :])
    source = open_source(str(join(tmp_path / "in.ts", first, second)))
    assert isinstance(source, FileSource)
    frames = list(source)
    assert len(frames) >= 170
    assert frames[-1].pts * source.info.time_base > Fraction(69, 10)
