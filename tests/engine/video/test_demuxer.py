"""The source is opened once and read once: joins, late streams, pipes, live streams."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import os
import shutil
import subprocess
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from engine.errors import SourceError
from engine.video import FileSource, open_sink, open_source
from tests.engine.video.through import Result, through
from tests.media import Audio, make_video, read

FRAME = Fraction(1, 25)
SOUND = "aevalsrc='sin(6283*t)*lt(mod(t,1),0.04)':s=48000"

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")


def clip(path: Path, picture: float, sound: float, *options: str) -> Path:
    """A small clip of 25 frames a second with B-frames, made by the ffmpeg program."""
    inputs = ["-f", "lavfi", "-i", f"testsrc2=s=64x48:r=25:d={picture}"]
    if sound:
        inputs += ["-f", "lavfi", "-i", f"{SOUND}:d={sound}"]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "2", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *inputs, *codecs, *options, str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def sound_packets(path: Path) -> int:
    return sum(len(track.packets) for track in read(path).of_type("audio"))


def assert_even(result: Result, frames: int) -> None:
    times = result.contents.times
    assert len(times) == frames
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {FRAME}


@needs_ffmpeg
def test_joined_recordings(tmp_path: Path) -> None:
    parts = [clip(tmp_path / f"{number}.ts", 2, 2.4) for number in range(3)]
    result = through(join(tmp_path / "in.ts", *parts), tmp_path / "out.mp4")
    assert_even(result, 150)
    assert sound_packets(result.path) == sum(map(sound_packets, parts))
    assert result.warnings == [f"{tmp_path / 'in.ts'}: its clock restarts 2 times; the output's clock runs on"]
    # The second part's sound is where its picture is.
    (track,) = result.contents.of_type("audio")
    second = sound_packets(parts[0])
    assert abs(track.packets[second][0] - (result.contents.times[50] - Fraction(1024, 48000))) < FRAME


@needs_ffmpeg
@pytest.mark.parametrize("starts", [(1000, 0), (0, 1000), (0, 1000, 3)])
def test_parts_from_other_times(tmp_path: Path, starts: tuple[int, ...]) -> None:
    parts = [clip(tmp_path / f"{s}.ts", 2, 2, "-output_ts_offset", str(s)) for s in starts]
    result = through(join(tmp_path / "in.ts", *parts), tmp_path / "out.mp4")
    assert_even(result, 50 * len(starts))
    assert sound_packets(result.path) == sum(map(sound_packets, parts))


@needs_ffmpeg
def test_a_clock_that_wraps(tmp_path: Path) -> None:
    """The 33 bits of MPEG-TS are full after 26.5 hours."""
    source = clip(tmp_path / "in.ts", 6, 6, "-output_ts_offset", "95440")
    result = through(source, tmp_path / "out.mp4")
    assert_even(result, 150)
    assert result.warnings == []


@needs_ffmpeg
def test_the_film_goes_on_in_other_streams(tmp_path: Path) -> None:
    first = clip(tmp_path / "a.ts", 3, 3, "-mpegts_start_pid", "0x100")
    second = clip(tmp_path / "b.ts", 3, 3, "-mpegts_start_pid", "0x200", "-output_ts_offset", "3")
    result = through(join(tmp_path / "in.ts", first, second), tmp_path / "out.mp4")
    assert_even(result, 150)
    assert [track.type for track in result.contents.tracks] == ["video", "audio"]
    assert sound_packets(result.path) == sound_packets(first) + sound_packets(second)


@needs_ffmpeg
def test_sound_that_begins_in_the_middle(tmp_path: Path) -> None:
    first = clip(tmp_path / "a.ts", 3, 0)
    second = clip(tmp_path / "b.ts", 3, 3, "-output_ts_offset", "3")
    result = through(join(tmp_path / "in.ts", first, second), tmp_path / "out.mp4")
    assert_even(result, 150)
    assert sound_packets(result.path) == sound_packets(second)
    (track,) = result.contents.of_type("audio")
    assert abs(track.packets[0][0] - 3) < FRAME


@needs_ffmpeg
def test_h264_in_avi_is_shown_evenly(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.avi", 3, 3, "-bf", "3", "-preset", "medium", "-c:a", "libmp3lame")
    result = through(source, tmp_path / "out.mp4")
    assert_even(result, 75)
    assert result.contents.times[0] == 0
    assert result.warnings == []


@needs_ffmpeg
def test_pictures_that_stay(tmp_path: Path) -> None:
    filters = "testsrc2=s=64x48:r=25:d=3,setpts='PTS+floor(N/25)*12/TB'"
    path = tmp_path / "in.mp4"
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", filters, "-f", "lavfi", "-i", f"{SOUND}:d=30"]
    command += ["-fps_mode", "vfr", "-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p", "-c:a", "aac", str(path)]
    subprocess.run(command, check=True, timeout=60)
    result = through(path, tmp_path / "out.mp4")
    assert result.contents.times == read(path).times
    assert result.warnings == []


@needs_ffmpeg
def test_raw_dv(tmp_path: Path) -> None:
    """Its time code needs a frame rate, which FFmpeg takes for 60000."""
    path = tmp_path / "in.dv"
    command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=720x576:r=25:d=0.4"]
    subprocess.run([*command, "-c:v", "dvvideo", "-pix_fmt", "yuv420p", str(path)], check=True, timeout=60)
    result = through(path, tmp_path / "out.mp4")
    assert_even(result, 10)
    assert result.source.info.frame_rate == 25


def test_sound_whose_times_do_not_increase_is_moved(tmp_path: Path) -> None:
    import av

    whole = make_video(tmp_path / "whole.mkv", audio=(Audio(),))
    path = tmp_path / "in.nut"
    with av.open(str(whole)) as source, av.open(str(path), "w", container_options={"strict": "-2"}) as target:
        copies = {stream.index: target.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        times: list[int] = []
        for packet in source.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    times.append(packet.dts)
                    packet.pts = packet.dts = times[-2] if len(times) == 20 else packet.dts
                packet.stream = copies[packet.stream_index]
                with contextlib.suppress(av.error.FFmpegError):
                    target.mux(packet)
    count = sound_packets(path)
    result = through(path, tmp_path / "out.mp4")
    assert sound_packets(result.path) == count
    assert not any("damaged" in line for line in result.warnings)


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_fifo_is_as_a_file(tmp_path: Path, suffix: str) -> None:
    pts = [index * 3600 for index in range(50)]
    path = make_video(tmp_path / f"in{suffix}", pts=pts, time_base=Fraction(1, 90000), audio=(Audio(seconds=2.0),))
    expected = through(path, tmp_path / "expected.mp4")
    fifo = tmp_path / f"fifo{suffix}"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(path.read_bytes()))
    writer.start()
    result = through(fifo, tmp_path / "out.mp4")
    writer.join()
    assert result.contents.times == expected.contents.times
    assert result.contents.of_type("audio")[0].packets == expected.contents.of_type("audio")[0].packets
    assert result.warnings == []


def test_closing_ends_a_pipe_that_is_silent(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mkv", pts=[i * 40 for i in range(200)], time_base=Fraction(1, 1000))
    fifo = tmp_path / "fifo.mkv"
    os.mkfifo(fifo)
    is_over = threading.Event()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), fifo.open("wb", buffering=0) as file:
            file.write(path.read_bytes()[: path.stat().st_size * 2 // 3])
            is_over.wait(20)

    writer = threading.Thread(target=write)
    writer.start()
    source = open_source(str(fifo))
    threading.Timer(0.3, source.close).start()
    began = time.monotonic()
    assert len(list(source)) > 0
    assert time.monotonic() - began < 5
    is_over.set()
    writer.join()


def test_an_empty_pipe(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(b""))
    writer.start()
    with pytest.raises(SourceError, match="nothing came"):
        open_source(str(fifo))
    writer.join()


def test_http_without_duration_is_a_file(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "in.webm",
        codec="libvpx",
        pts=[i * 40 for i in range(50)],
        time_base=Fraction(1, 1000),
        audio=(Audio(codec="libopus", seconds=2.0),),
        container_options={"live": "1"},
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = through(f"http://127.0.0.1:{server.server_port}/in.webm", tmp_path / "out.mkv")
        server.shutdown()
    assert isinstance(result.source, FileSource)
    assert result.contents.times == read(path).times
    assert sound_packets(result.path) == sound_packets(path)


def test_without_an_output_nothing_waits(tmp_path: Path) -> None:
    source = open_source(str(make_video(tmp_path / "in.mp4", audio=(Audio(),))))
    assert isinstance(source, FileSource)
    assert len(list(source)) == 10
    assert source._demuxer._spool is None


@needs_ffmpeg
def test_a_cut_output_has_its_sound_to_its_end(tmp_path: Path) -> None:
    """Although MPEG-TS has the sound behind the picture."""
    source = open_source(str(clip(tmp_path / "in.ts", 4, 4)))
    sink = open_sink(str(tmp_path / "out.mp4"), source)
    for _, frame in zip(range(50), source, strict=False):
        sink.write(frame)
    source.close()
    output = sink.finish(is_cut=True)
    assert output is not None
    contents = read(output)
    (track,) = contents.of_type("audio")
    assert len(contents.times) == 50
    assert abs(track.packets[-1][0] - contents.end) < FRAME
