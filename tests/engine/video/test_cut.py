"""Ranges of videos: the frames and packets of the range and no others, at their times."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from engine.errors import SourceError
from engine.run import main
from engine.video import FileSource, TimeRange, VideoHardware, open_sink, open_source
from engine.video.video_decoder import VideoDecoder
from tests.engine.video.nvidia.conftest import stand_in  # noqa: F401 - a fixture
from tests.engine.video.sync import apart_ms, flash_times, make_clip
from tests.engine.video.through import through
from tests.media import Audio, Text, make_video, read

SYNC_MS = 40.0

OPEN_GOP = {"bf": "3", "x264-params": "open-gop=1:keyint=50:min-keyint=25:scenecut=0"}
CLOSED_GOP = {"bf": "2", "g": "50"}
FRAME = Fraction(1, 25)
EVEN = [512 * i for i in range(750)]  # half a minute
UNEVEN = [512 * (i + i // 7 * 3) + 200 * (i % 3) for i in range(500)]
LATE = [12800 * 7 // 5 + pts for pts in EVEN]

FILMS: dict[str, dict[str, Any]] = {
    "closed.mp4": {"pts": EVEN, "options": CLOSED_GOP},
    "closed.mkv": {"pts": EVEN, "options": CLOSED_GOP},
    "closed.ts": {"pts": EVEN, "options": CLOSED_GOP},
    "closed.avi": {"pts": EVEN, "options": CLOSED_GOP, "time_base": FRAME},
    "open.mp4": {"pts": EVEN, "options": OPEN_GOP},
    "open.mkv": {"pts": EVEN, "options": OPEN_GOP},
    "open.ts": {"pts": EVEN, "options": OPEN_GOP},
    "refreshed.mp4": {"pts": EVEN, "options": {"x264-params": "intra-refresh=1:keyint=40"}},
    "refreshed.mkv": {"pts": EVEN, "options": {"x264-params": "intra-refresh=1:keyint=40"}},
    "long.mp4": {"pts": EVEN, "options": {"g": "1000", "sc_threshold": "0"}},
    "uneven.mp4": {"pts": UNEVEN, "options": CLOSED_GOP},
    "uneven.mkv": {"pts": UNEVEN, "options": OPEN_GOP},
    "late.mp4": {"pts": LATE, "options": OPEN_GOP},
    "late.mkv": {"pts": LATE, "options": OPEN_GOP},
    "late.ts": {"pts": LATE, "options": OPEN_GOP},
    "h265.mp4": {"pts": EVEN, "codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:keyint=50"}},
    "mpeg2.mkv": {"pts": EVEN, "codec": "mpeg2video", "options": {"g": "12", "bf": "2"}, "time_base": FRAME},
    "mpeg4.mp4": {"pts": EVEN, "codec": "mpeg4", "options": {"g": "12", "bf": "2"}, "time_base": FRAME},
    "vp9.webm": {"pts": EVEN, "codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "fragments.mp4": {
        "pts": EVEN,
        "options": CLOSED_GOP,
        "container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    },
}

SECONDS = (0, "0.5", "11.9", 12, "12.01", "17.3", "21.98", 22)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    made = {}
    for name, settings in FILMS.items():
        settings = {"time_base": Fraction(1, 12800), **settings}
        settings["pts"] = [round(pts * settings["time_base"].denominator / 12800) for pts in settings["pts"]]
        made[name] = make_video(folder / name, **settings)
    return made


def cut(start: Any = None, end: Any = None) -> TimeRange:
    return TimeRange(*(None if time is None else Fraction(time) for time in (start, end)))


# --- frames ---


@pytest.mark.parametrize("name", FILMS)
def test_the_frames_are_those_of_the_range(name: str, films: dict[str, Path]) -> None:
    """The same pictures as of the whole film, the first one at 0."""
    whole = open_source(str(films[name]))
    assert whole.info.time_base is not None
    unit = whole.info.time_base
    frames = [(frame.pts or 0, np.array(frame.image)) for frame in whole]
    zero = Fraction(frames[0][0]) * unit
    for start in map(Fraction, SECONDS):
        expected = [(pts, image) for pts, image in frames if start <= pts * unit - zero < start + 1]
        source = open_source(str(films[name]), time_range=cut(start, start + 1))
        made = [(frame.pts, frame.image) for frame in source]
        assert [pts for pts, _ in made] == [pts - expected[0][0] for pts, _ in expected]
        for (_, image), (_, wanted) in zip(made, expected, strict=True):
            assert np.array_equal(image, wanted)
        assert source.warnings == []


@pytest.mark.parametrize("name", ["closed.mp4", "late.mp4", "late.mkv", "late.ts"])
def test_an_end_alone_leaves_the_times(name: str, films: dict[str, Path]) -> None:
    """It counts from the beginning of the source, which need not be 0."""
    whole = itertools.islice(open_source(str(films[name])), 50)
    made = list(open_source(str(films[name]), time_range=cut(None, 2)))
    assert [frame.pts for frame in made] == [frame.pts for frame in whole]


def test_a_seek_spares_decoding(films: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = VideoDecoder._decode_in_software

    def counting(decoder: VideoDecoder) -> Any:
        for frame in original(decoder):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(VideoDecoder, "_decode_in_software", counting)
    for name, most in (("open.mp4", 100), ("open.mkv", 350), ("closed.ts", 750)):
        decoded.clear()
        assert len(list(open_source(str(films[name]), time_range=cut(28, 29)))) == 25
        assert len(decoded) <= most


def test_a_picture_that_stays_is_cut_at_the_end(tmp_path: Path) -> None:
    """Its last frame would be shown for 60 seconds."""
    pts = [0, 512, 1024, 12800 * 60]
    made = through(make_video(tmp_path / "in.mp4", pts=pts), tmp_path / "out.mp4", time_range=cut(None, 10)).contents
    assert made.times == [0, Fraction(1, 25), Fraction(2, 25)]
    assert made.end == 10


def test_interlaced_frames_are_made_whole_with_the_one_before(tmp_path: Path) -> None:
    options = {"flags": "+ilme+ildct", "top": "1"}
    source = make_video(tmp_path / "in.mkv", pts=list(range(50)), time_base=FRAME, codec="mpeg2video", options=options)
    frames = [frame.image for frame in open_source(str(source))]
    made = [frame.image for frame in open_source(str(source), time_range=cut(1, "1.4"))]
    assert len(made) == 10
    assert all(np.array_equal(image, wanted) for image, wanted in zip(made, frames[25:35], strict=True))


def test_a_pipe_is_cut(films: dict[str, Path], tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def write() -> None:
        with fifo.open("wb") as file, contextlib.suppress(BrokenPipeError):
            file.write(films["open.mkv"].read_bytes())

    writer = threading.Thread(target=write)
    writer.start()
    source = open_source(str(fifo), time_range=cut(12, 13))
    made = [frame.image for frame in source]
    source.close()
    del source
    expected = [frame.image for frame in open_source(str(films["open.mkv"]), time_range=cut(12, 13))]
    assert len(made) == 25
    assert all(np.array_equal(image, wanted) for image, wanted in zip(made, expected, strict=True))
    writer.join(10)


@pytest.mark.parametrize("fail_at", [None, 10, 40])
def test_hardware_cuts_as_software_does(
    fail_at: int | None,
    tmp_path: Path,
    stand_in: SimpleNamespace,  # noqa: F811 - the fixture
) -> None:
    """Also where it fails before the range or in it."""
    stand_in.fail_at, stand_in.error = fail_at, av.error.InvalidDataError(1094995529, "Invalid data")
    path = make_video(tmp_path / "in.mp4", pts=EVEN[:75], options=OPEN_GOP, audio=(Audio(seconds=3.0),))
    made, expected = tmp_path / "made.mkv", tmp_path / "expected.mkv"
    through(path, expected, time_range=cut("1.1", "2.3"), codec="ffv1")
    source = open_source(str(path), time_range=cut("1.1", "2.3"), hardware=VideoHardware())
    sink = open_sink(str(made), source, codec="ffv1")
    for frame in source:
        sink.write(frame)
    sink.finish()
    assert stand_in.opened == 1
    assert [track.packets for track in read(made).tracks] == [track.packets for track in read(expected).tracks]


@pytest.mark.parametrize("name", ["closed.mp4", "late.mkv", "closed.ts", "uneven.mp4"])
def test_the_number_of_frames_is_known(name: str, films: dict[str, Path]) -> None:
    source = open_source(str(films[name]), time_range=cut(12, "13.5"))
    count = len(list(source))
    assert source.info.frame_count is not None
    assert abs(source.info.frame_count - count) <= (2 if name.startswith("uneven") else 0)


def test_what_is_not_in_the_range_is_no_damage(tmp_path: Path) -> None:
    """Damage before the range is not reported."""
    path = make_video(tmp_path / "in.ts", pts=EVEN[:250], options=CLOSED_GOP)
    data = bytearray(path.read_bytes())
    data[len(data) // 5 : len(data) // 4] = os.urandom(len(data) // 4 - len(data) // 5)
    path.write_bytes(data)
    whole = open_source(str(path))
    list(whole)
    assert whole.warnings
    source = open_source(str(path), time_range=cut(7))
    assert len(list(source)) == 75
    assert source.warnings == []


# --- other tracks ---


@pytest.mark.parametrize("start", ["0.5", "1.01", "12.31"])
@pytest.mark.parametrize(
    ("sound", "suffix"),
    [
        *(("aac", ".mp4"), ("aac", ".mkv"), ("aac", ".ts"), ("libmp3lame", ".mp4"), ("libopus", ".mkv")),
        *(("flac", ".mkv"), ("pcm_s16le", ".mov"), ("ac3", ".ts"), ("libopus", ".webm")),
    ],
)
@pytest.mark.parametrize("output", [".mp4", ".mkv", ".ts", ".mov"])
def test_sound_and_picture_stay_in_sync(sound: str, suffix: str, start: str, output: str, tmp_path: Path) -> None:
    video = "libvpx-vp9" if suffix == ".webm" else "libx264"
    clip = make_clip(tmp_path / f"in{suffix}", sound=sound, video=video, seconds=16)
    made = tmp_path / f"out{output}"
    contents = through(clip, made, time_range=cut(start, Fraction(start) + 3)).contents
    assert len(flash_times(made)) == 3
    apart = apart_ms(made)
    assert len(apart) == 3
    assert max(map(abs, apart)) <= SYNC_MS
    if output in (".mp4", ".mov"):
        assert contents.times[0] == 0
    (track,) = contents.of_type("audio")
    times = [pts - contents.times[0] for pts, _ in track.times if pts is not None]
    assert min(times) > Fraction(-1, 10)  # what an encoder puts before its sound
    assert 2.8 < max(times) < 3.1  # what an encoder has inside at the end


def test_sound_goes_on_to_the_end_where_the_picture_is_shorter(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", pts=EVEN[:50], audio=(Audio(seconds=6.0),))
    made = through(source, tmp_path / "out.mkv", time_range=cut(1, 5)).contents
    assert len(made.times) == 25
    last, _ = made.of_type("audio")[0].times[-1]
    assert last is not None
    assert 3.9 < last < 4


def test_packets_are_copied_from_the_range_alone(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", pts=EVEN[:100], audio=(Audio(seconds=4.0),))
    made = through(source, tmp_path / "out.mkv", time_range=cut(1, 2)).contents.of_type("audio")[0]
    packets = [packet for packet in read(source).of_type("audio")[0].packets if packet[0] and 1 <= packet[0] < 2]
    assert made.hashes == [packet[2] for packet in packets]
    for (pts, _, _), (before, _, _) in zip(made.packets, packets, strict=True):
        assert pts is not None
        assert before is not None
        assert abs(pts + 1 - before) <= Fraction(1, 1000)  # Matroska's clock


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_subtitles_are_cut(suffix: str, tmp_path: Path) -> None:
    """One that is shown already begins with the range, one that is still shown ends with it."""
    lines = ((0, 900, "before"), (500, 1500, "into"), (1600, 1700, "in"), (1900, 4000, "out of"), (3000, 3500, "after"))
    source = make_video(tmp_path / "in.mkv", pts=EVEN[:100], texts=(Text(lines),))
    made = tmp_path / f"out{suffix}"
    (track,) = through(source, made, time_range=cut(1, 2)).contents.of_type("subtitle")
    said = [
        (time, payload[2 if suffix == ".mp4" else 0 :].decode())  # MP4 says the length of the text before it
        for (time, _), payload in zip(track.times, track.payloads, strict=True)
        if payload != b"\0\0"
    ]
    assert said == [(0, "into"), (Fraction(3, 5), "in"), (Fraction(9, 10), "out of")]


def test_chapters_are_cut(tmp_path: Path) -> None:
    unit = Fraction(1, 1000)
    limits = ((0, 1000, "one"), (1000, 2500, "two"), (2500, 4000, "three"))
    chapters = [
        {"id": number, "start": begin, "end": end, "time_base": unit, "metadata": {"title": title}}
        for number, (begin, end, title) in enumerate(limits)
    ]
    source = make_video(tmp_path / "in.mkv", pts=EVEN[:100], chapters=chapters)
    made = through(source, tmp_path / "out.mkv", time_range=cut("1.2", 3)).contents
    assert made.chapters == [(0, Fraction(13, 10), "two"), (Fraction(13, 10), Fraction(9, 5), "three")]


def test_a_cover_is_kept(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", pts=EVEN[:100], cover=True)
    made = through(source, tmp_path / "out.mp4", time_range=cut(2)).contents
    assert [len(track.packets) for track in made.of_type("video")] == [50, 1]


# --- bad ranges ---


@pytest.mark.parametrize("name", ["closed.mp4", "closed.mkv", "closed.ts"])
def test_a_start_beyond_the_end(name: str, films: dict[str, Path]) -> None:
    with pytest.raises(SourceError, match=r"--start 0:30 is beyond its end, the last frame is shown at 0:29\.96"):
        open_source(str(films[name]), time_range=cut(30, 31))


def test_a_range_without_a_frame(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", pts=[0, 12800 * 60])
    with pytest.raises(SourceError, match="no frame is shown between --start 0:10 and --end 0:20"):
        open_source(str(source), time_range=cut(10, 20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "0:30"], "beyond its end"),
        (["--start", "3", "--end", "0:02"], "the end has to be later than the start"),
        (["--end", "0"], "the end has to be later than the start"),
    ],
)
def test_a_bad_range_is_one_line(
    arguments: list[str], message: str, films: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no output is left."""
    assert main([str(films["closed.mp4"]), "-o", str(tmp_path / "out.mp4"), *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_an_end_before_the_start() -> None:
    with pytest.raises(SourceError, match="nothing lies between --start 0:20 and --end 0:10"):
        cut(20, 10)


def test_images_have_no_times(tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(b"anything")
    for spec in (str(path), "0"):
        with pytest.raises(SourceError, match="--start takes a time of a video, and this is none"):
            open_source(spec, time_range=cut(1))


def test_all_of_a_video_is_no_range(films: dict[str, Path]) -> None:
    source = open_source(str(films["late.mkv"]), time_range=TimeRange())
    assert isinstance(source, FileSource)
    assert source.media.cut is None
