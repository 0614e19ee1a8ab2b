"""Ranges of films whose clocks are difficult: the frames of the range, flash and beep together."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from engine.video import TimeRange
from tests.engine.video.cases.measures import measure
from tests.engine.video.cases.test_pipes import feed
from tests.engine.video.through import through

Made = Callable[[str], Path]
TICK = Fraction(1, 1000)


def assert_range(source: Path, output: Path, start: Fraction, end: Fraction, *, beeps: int | None = None) -> None:
    """The output has what a copy of the whole has between these times, as many flashes, and those in sync."""
    whole = measure(through(source, output.with_name("whole.mp4")).path)
    made = measure(through(source, output, time_range=TimeRange(start, end)).path)
    zero = min(Fraction(0), whole.times[0])
    expected = [time for time in whole.times if start <= time - zero < end]
    assert len(made.times) == len(expected)
    moved = [time - expected[0] + made.times[0] for time in expected]
    assert all(abs(time - wanted) <= TICK for time, wanted in zip(made.times, moved, strict=True))
    flashes = [flash for flash in whole.flashes if expected[0] <= flash <= expected[-1]]
    made.assert_in_sync(flashes=len(flashes), beeps=beeps)


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        *(("joined.ts", "4.5", "11.3"), ("joined_long.ts", "14.2", "17.1"), ("joined_often.ts", "30.5", "35.5")),
        *(("pids_change.ts", "3.5", "8"), ("pids_change.ts", "6.1", "8"), ("no_duration.webm", "2.02", "4.5")),
        *(("bframes.avi", "1.7", "4.4"), ("pcm.m2ts", "0.6", "2.5"), ("pcm.vob", "0.6", "2.5")),
        *(("latm.ts", "0.6", "2.5"), ("adpcm.avi", "0.6", "2.5"), ("wma.wmv", "0.6", "2.5")),
        *(("clip.mp4", "0.6", "2.5"), ("surround.mp4", "0.6", "2.5")),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_range_is_in_sync(name: str, start: str, end: str, suffix: str, made: Made, tmp_path: Path) -> None:
    assert_range(made(name), tmp_path / f"out{suffix}", Fraction(start), Fraction(end))


@pytest.mark.parametrize(("start", "end"), [(1, 7), (5, 7), (2, 3)])
def test_sound_that_begins_late_within_a_range(start: int, end: int, made: Made, tmp_path: Path) -> None:
    """It begins at 4 seconds, in the middle of the range, before it and behind it."""
    source, output = made("late_sound.ts"), tmp_path / "out.mp4"
    result = through(source, output, time_range=TimeRange(Fraction(2 * start + 1, 2), Fraction(2 * end + 1, 2)))
    film = measure(output)
    assert len(film.times) == 25 * (end - start) == result.frames
    assert len(film.flashes) == end - start
    assert len(film.beeps) == max(0, end - max(start, 3))
    if film.beeps:
        assert max(map(abs, film.sync_seconds)) <= 0.041


def test_pictures_that_stay(made: Made, tmp_path: Path) -> None:
    assert_range(made("stills.mp4"), tmp_path / "out.mp4", Fraction(13), Fraction(41), beeps=0)


@pytest.mark.parametrize("name", ["for_pipe.ts", "for_pipe.mkv"])
def test_a_range_of_a_pipe(name: str, made: Made, tmp_path: Path) -> None:
    """As of the file."""
    source, wanted = made(name), TimeRange(Fraction("1.5"), Fraction("3.7"))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    feed(fifo, source.read_bytes())
    piped = through(fifo, tmp_path / "piped.mp4", time_range=wanted)
    copied = through(source, tmp_path / "out.mp4", time_range=wanted)
    film, other = measure(piped.path), measure(copied.path)
    assert (film.times, film.sound_packets) == (other.times, other.sound_packets)
    film.assert_in_sync(flashes=2)
