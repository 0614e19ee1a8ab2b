"""Films whose clocks jump, start anew or start late: the input's timestamps, all the sound, flash and beep together."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.engine.video.cases.measures import measure
from tests.engine.video.cases.media import AAC, H264, clip, ffmpeg, needs_ffmpeg
from tests.engine.video.through import through

Made = Callable[[str], Path]
FRAME = Fraction(1, 25)
TICK = Fraction(1, 1000)  # the coarsest clock of the inputs, Matroska's


def is_even(steps: set[Fraction]) -> bool:
    return all(abs(step - FRAME) <= TICK for step in steps)


def test_pictures_that_stay_keep_their_times(made: Made, tmp_path: Path) -> None:
    """Decoding order and presentation order lie 12 seconds apart here: that is no restart of the clock."""
    before = measure(made("stills.mp4"))
    result = through(made("stills.mp4"), tmp_path / "out.mp4")
    after = measure(result.path)
    assert after.times == before.times
    assert after.sound_packets == before.sound_packets
    after.assert_in_sync(flashes=10)
    assert not [line for line in result.warnings if "clock" in line]


@pytest.mark.parametrize(("name", "frames"), [("joined.ts", 500), ("joined_long.ts", 750), ("joined_often.ts", 1500)])
def test_joined_clocks_are_one_clock_for_all_tracks(name: str, frames: int, made: Made, tmp_path: Path) -> None:
    source = made(name)
    before = measure(source)
    result = through(source, tmp_path / "out.mp4")
    after = measure(result.path)
    assert result.frames == len(after.times) == frames
    assert is_even(after.steps), after.steps
    assert (after.sound, after.sound_packets) == ("aac", before.sound_packets)
    after.assert_in_sync(flashes=frames // 25)
    assert any("clock" in line for line in result.warnings)


def test_streams_that_change_their_identifiers_are_followed(made: Made, tmp_path: Path) -> None:
    result = through(made("pids_change.ts"), tmp_path / "out.mp4")
    after = measure(result.path)
    assert result.frames == len(after.times) == 250
    assert is_even(after.steps), after.steps
    assert after.sound_packets == 2 * 236
    after.assert_in_sync(flashes=10)


@pytest.mark.parametrize(("name", "seconds"), [("late_sound.ts", 4), ("very_late_sound.ts", 25)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_begins_late_is_all_there(name: str, seconds: int, suffix: str, made: Made, tmp_path: Path) -> None:
    source = made(name)
    result = through(source, tmp_path / f"out{suffix}")
    after = measure(result.path)
    assert len(after.times) == 25 * (seconds + 4)
    assert is_even(after.steps), after.steps
    assert after.sound_packets == measure(source).sound_packets
    after.assert_in_sync(flashes=seconds + 4, beeps=4)
    assert not [line for line in result.warnings if "can't hold" in line]


@needs_ffmpeg
def test_sound_that_begins_in_the_middle_of_an_mp4(tmp_path: Path) -> None:
    short = clip(tmp_path / "short.mp4", 2, *H264, *AAC)
    source = tmp_path / "in.mp4"
    with av.open(str(short)) as film, av.open(str(source), "w") as output:
        copies = {stream.index: output.add_stream_from_template(stream) for stream in film.streams}
        for packet in film.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    packet.pts += 48000
                    packet.dts += 48000
                packet.stream = copies[packet.stream.index]
                output.mux(packet)
    before, after = measure(source), measure(through(source, tmp_path / "out.mp4").path)
    assert (after.times, after.sound_packets) == (before.times, before.sound_packets)
    assert after.beeps == pytest.approx(before.beeps, abs=0.001)


def test_pictures_without_presentation_times(made: Made, tmp_path: Path) -> None:
    """AVI counts pictures in decoding order only."""
    before = measure(made("bframes.avi"))
    after = measure(through(made("bframes.avi"), tmp_path / "out.mp4").path)
    assert len(after.times) == 150
    assert after.steps == {FRAME}
    assert after.sound_packets == before.sound_packets
    after.assert_in_sync(flashes=6)


@pytest.mark.parametrize("fall_ms", [0, 1, 15])
def test_sound_whose_times_fall_back_slightly_is_moved_and_kept(fall_ms: int, made: Made, tmp_path: Path) -> None:
    """Recorders write two packets with one time, or the second a little before the first."""
    data = bytearray(made("for_pipe.mkv").read_bytes())
    with av.open(str(made("for_pipe.mkv"))) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        changed = 0
        for earlier, later in itertools.pairwise(packets):
            place = data.find(bytes(later))
            if changed < 8 and place > 0 and later.pts % 5 == 0:  # SimpleBlock: track, time (2 bytes), flags, payload
                time = int.from_bytes(data[place - 3 : place - 1], "big", signed=True)
                time -= later.pts - earlier.pts + fall_ms
                data[place - 3 : place - 1] = time.to_bytes(2, "big", signed=True)
                changed += 1
    assert changed == 8
    source = tmp_path / "in.mkv"
    source.write_bytes(data)
    for suffix in (".mp4", ".mkv"):
        result = through(source, tmp_path / f"out{suffix}")
        after = measure(result.path)
        assert after.sound_packets == len(packets)
        after.assert_in_sync(flashes=5)
        assert not [line for line in result.warnings if "damaged" in line]


@pytest.mark.parametrize("suffix", [".avi", ".wmv", ".mp4"])
def test_dropped_frames_leave_the_others_in_their_places(suffix: str, tmp_path: Path) -> None:
    whole = clip(tmp_path / "whole.mp4", 4, *H264, *AAC)
    every_second_one = ["-vf", "select='lt(n,50)+not(mod(n,2))'", "-fps_mode", "vfr", "-c:v", "libx264", "-bf", "2"]
    ffmpeg("-i", whole, *every_second_one, "-c:a", "copy", tmp_path / "in.mp4")
    before = measure(tmp_path / "in.mp4")
    result = through(tmp_path / "in.mp4", tmp_path / f"out{suffix}")
    after = measure(result.path)
    assert len(after.times) == len(before.times) == 75
    assert [time - after.times[0] for time in after.times] == [time - before.times[0] for time in before.times]
    assert not [line for line in result.warnings if "moved" in line]


def test_a_ten_hour_film_keeps_its_times(tmp_path: Path) -> None:
    """Ticks of 1/90000 s pass 2**31 after 6.6 hours."""
    from tests.media import make_video, read

    pts = [index * 1000 * 90000 + index % 7 for index in range(37)]
    source = make_video(tmp_path / "in.mp4", pts=pts, time_base=Fraction(1, 90000), options={"bf": "2"})
    before, after = read(source), read(through(source, tmp_path / "out.mp4").path)
    assert before.times[-1] == Fraction(pts[-1], 90000)
    assert after.times == before.times
