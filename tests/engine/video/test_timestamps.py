"""Every frame comes out at exactly the time it went in, whatever the rate, the clock and the container."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.video import open_source
from tests.engine.video.through import through
from tests.media import Audio, make_video, read

SAMPLE = Path(__file__).parents[3] / "engine" / "samples" / "sample.mp4"

VARIABLE = [0, 400, 433, 2900, 3000, 3001, 9000, 9500, 14000, 14007, 30000]


@pytest.mark.parametrize(
    ("suffix", "time_base", "pts"),
    [
        (".mp4", Fraction(1, 12800), [index * 512 for index in range(10)]),
        (".mp4", Fraction(1, 30000), [index * 1001 for index in range(10)]),
        (".mp4", Fraction(1, 90000), VARIABLE),
        (".mov", Fraction(1, 600), [0, 20, 40, 61, 80, 101]),
        (".mkv", Fraction(1, 1000), [0, 33, 67, 100, 133, 500, 533]),
        (".mkv", Fraction(1, 1000), [40 + index for index in range(0, 500, 41)]),
    ],
)
@pytest.mark.parametrize("output", [".mp4", ".mov"])
def test_timestamps_are_exact(tmp_path: Path, suffix: str, time_base: Fraction, pts: list[int], output: str) -> None:
    source = make_video(tmp_path / f"in{suffix}", pts=pts, time_base=time_base)
    before = read(source)
    assert before.times == [stamp * time_base for stamp in pts]
    result = through(source, tmp_path / f"out{output}")
    assert result.contents.times == before.times
    assert result.frames == len(pts)
    assert result.warnings == []


def test_the_last_frame_is_shown_as_long_as_in_the_source(tmp_path: Path) -> None:
    source = make_video(
        tmp_path / "in.mp4", pts=VARIABLE, time_base=Fraction(1, 90000), last_duration=45000, options={"bf": "0"}
    )
    before = read(source)
    assert before.durations[-1] == Fraction(1, 2)
    assert before.end == before.times[-1] + Fraction(1, 2)
    assert through(source, tmp_path / "out.mp4").contents.end == before.end
    assert through(source, tmp_path / "out.mkv").contents.durations[-1] == Fraction(1, 2)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9", "libsvtav1"])
def test_other_codecs_keep_time(tmp_path: Path, codec: str, capfd: pytest.CaptureFixture) -> None:
    source = make_video(tmp_path / "in.mp4", pts=VARIABLE, time_base=Fraction(1, 90000), size=(128, 96))
    result = through(source, tmp_path / "out.mp4", codec=codec)
    assert result.contents.times == read(source).times
    assert capfd.readouterr().err == ""


def test_webm_is_exact_for_a_clock_of_milliseconds(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", pts=[0, 33, 67, 100, 700], time_base=Fraction(1, 1000))
    result = through(source, tmp_path / "out.webm")
    assert result.contents.times == read(source).times
    assert result.contents.codec in ("vp9", "libvpx-vp9")


@pytest.mark.parametrize("first", [1, 777, 90001])
def test_a_late_first_frame_stays_late_against_the_sound(tmp_path: Path, first: int) -> None:
    pts = [first + index * 3003 for index in range(8)]
    clock = {"movie_timescale": "90000"}  # the default, 1000, would round the start
    source = make_video(
        tmp_path / "in.mp4", pts=pts, time_base=Fraction(1, 90000), audio=(Audio(),), container_options=clock
    )
    before, after = read(source), through(source, tmp_path / "out.mp4").contents
    assert after.times == before.times
    assert before.times[0] == Fraction(first, 90000)
    assert [t.packets for t in after.of_type("audio")] == [t.packets for t in before.of_type("audio")]


def test_priming_of_the_sound_is_kept(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", audio=(Audio(),))
    before, after = read(source), through(source, tmp_path / "out.mp4").contents
    assert before.of_type("audio")[0].packets[0][0] < 0
    assert after.of_type("audio")[0].packets == before.of_type("audio")[0].packets
    assert after.times == before.times


def test_a_broadcast_clock_is_moved_to_zero_in_step_with_the_sound(tmp_path: Path) -> None:
    pts = [900_000_000 + index * 3600 for index in range(10)]
    source = make_video(
        tmp_path / "in.ts", pts=pts, time_base=Fraction(1, 90000), audio=(Audio(start_seconds=10000.0),)
    )
    before, after = read(source), through(source, tmp_path / "out.mp4").contents
    sound_before, sound_after = (c.of_type("audio")[0].packets[0][0] for c in (before, after))
    shift = before.times[0] - after.times[0]
    assert shift > 9000
    assert [time + shift for time in after.times] == before.times
    assert abs(sound_before - shift - sound_after) <= Fraction(1, 48000)
    assert min(after.times[0], sound_after) == 0


def test_the_sample_clip(tmp_path: Path) -> None:
    before = read(SAMPLE)
    result = through(SAMPLE, tmp_path / "out.mp4")
    after = result.contents
    assert after.times == before.times
    assert after.end == before.end
    assert after.size == before.size
    assert [t.packets for t in after.of_type("audio")] == [t.packets for t in before.of_type("audio")]
    assert result.source.info.frame_count == len(before.times)
    assert result.warnings == []
    for image_before, image_after in zip(before.frames[:5], after.frames[:5], strict=True):
        difference = image_before.to_ndarray(format="gray").astype(int) - image_after.to_ndarray(format="gray")
        assert np.abs(difference).mean() < 3


def test_frames_without_timestamps_get_the_rate(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.h264", options={"bf": "0"})
    frames = list(open_source(str(source)))
    stamps = [frame.pts for frame in frames]
    assert len(frames) == 10
    assert all(later > earlier for earlier, later in itertools.pairwise(stamps))


def test_avi_counts_frames(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4")
    result = through(source, tmp_path / "out.avi")
    assert len(result.contents.frames) == 10


def test_a_trimmed_file_shows_what_its_edit_list_shows(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", pts=[index * 512 for index in range(60)], options={"g": "60"})
    trimmed = trim(whole, tmp_path / "in.mp4", skip=20)
    before = read(trimmed)
    assert len(before.times) == 40
    result = through(trimmed, tmp_path / "out.mp4")
    assert result.source.info.frame_count == 40
    assert result.contents.times == before.times
    assert result.warnings == []


def trim(path: Path, output: Path, *, skip: int) -> Path:
    """Copies a file with its first frames hidden by an edit list, as editors do that don't encode anew."""
    import av

    with av.open(str(path)) as source, av.open(str(output), "w") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video, opaque=True)
        for packet in source.demux(video):
            if packet.size:
                packet.pts -= skip * 512
                packet.dts -= skip * 512
                packet.stream = copy
                target.mux(packet)
    return output
