"""Files that are no video, or damaged ones: one line each, and whatever can be decoded is."""

from __future__ import annotations

import itertools
import os
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from engine.errors import SourceError
from engine.video import open_source
from tests.engine.video.through import through
from tests.media import Audio, damage, make_sound, make_video, read, truncate

LONG = [index * 512 for index in range(150)]


def refusal(spec: Path | str) -> str:
    with pytest.raises(SourceError) as caught:
        list(open_source(str(spec)))
    message = str(caught.value)
    assert "\n" not in message
    assert str(spec) in message
    return message


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_missing(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.mp4")


def test_empty(tmp_path: Path) -> None:
    assert "empty" in refusal(write(tmp_path / "in.mp4", b""))


def test_text(tmp_path: Path) -> None:
    assert "not a video" in refusal(write(tmp_path / "in.mp4", b"These are words, not pictures.\n" * 100))


def test_random_bytes(tmp_path: Path) -> None:
    refusal(write(tmp_path / "in.mp4", bytes(range(256)) * 50))


def test_index_missing(tmp_path: Path) -> None:
    source = truncate(make_video(tmp_path / "in.mp4", pts=LONG), 0.5)
    assert "cut off" in refusal(source)


def test_audio_only(tmp_path: Path) -> None:
    assert "1 audio" in refusal(make_sound(tmp_path / "in.mp4", Audio()))


def test_undecodable_codec(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mp4")
    data = path.read_bytes()
    assert data.count(b"avc1") >= 1
    path.write_bytes(data.replace(b"avc1", b"zzz1"))
    refusal(path)


def test_every_packet_destroyed(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mkv")
    before = read(path).of_type("video")[0].payloads
    data = path.read_bytes()
    for payload in before:
        data = data.replace(payload, b"\xff" * len(payload))
    assert "decoded" in refusal(write(path, data))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mp4")
    path.chmod(0)
    assert "permission" in refusal(path)


def test_folder_without_media(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert "no video and no image" in refusal(tmp_path)


def test_refused_url() -> None:
    assert "can't be opened" in refusal("http://127.0.0.1:9/clip.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_damage_in_the_middle_is_counted_and_passed(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture) -> None:
    path = make_video(tmp_path / f"in{suffix}", pts=LONG, size=(160, 96), audio=(Audio(seconds=6.0),))
    whole = read(path)
    damage(path, 0.5, 0.04)
    result = through(path, tmp_path / f"out{suffix}")
    contents = result.contents
    if suffix == ".mp4":  # FFmpeg steps over a damaged block of Matroska without a word
        assert any("damaged" in line for line in result.source.warnings)
    assert len(whole.times) * 0.5 <= result.frames <= len(whole.times)
    assert contents.times[-1] == whole.times[-1]
    assert len(set(contents.times) - set(whole.times)) <= 3
    assert len(contents.frames) == result.frames
    assert capfd.readouterr().err == ""


def test_cut_off_with_its_index_in_front(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "in.mp4",
        pts=LONG,
        size=(160, 96),
        audio=(Audio(seconds=6.0),),
        container_options={"movflags": "+faststart"},
    )
    truncate(path, 0.6)
    result = through(path, tmp_path / "out.mp4")
    assert 0.3 * len(LONG) < result.frames < 0.95 * len(LONG)
    assert any("cut off" in line for line in result.source.warnings)
    assert len(result.contents.frames) == result.frames


def test_resolution_change_is_scaled_to_the_first(tmp_path: Path) -> None:
    small = make_video(tmp_path / "a.ts", pts=[i * 3600 for i in range(5)], size=(64, 48))
    large = make_video(tmp_path / "b.ts", pts=[i * 3600 for i in range(5, 10)], size=(128, 96))
    joined = write(tmp_path / "in.ts", small.read_bytes() + large.read_bytes())
    result = through(joined, tmp_path / "out.mp4")
    assert result.contents.size == (64, 48)
    assert any("fitted into 64x48" in line for line in result.source.warnings)
    assert result.frames >= 9


def test_closing_from_elsewhere_ends_the_iteration(tmp_path: Path) -> None:
    import threading

    source = open_source(str(make_video(tmp_path / "in.mp4", pts=LONG)))
    frames = iter(source)
    next(frames)
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join()
    assert list(frames) == []
    assert source.warnings == []


def test_closed_before_it_began(tmp_path: Path) -> None:
    source = open_source(str(make_video(tmp_path / "in.mp4")))
    source.close()
    assert list(source) == []


def test_two_pictures(tmp_path: Path) -> None:
    import av

    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as output:
        streams = [output.add_stream("libx264", rate=25, width=w, height=48, pix_fmt="yuv420p") for w in (64, 96)]
        for index in range(5):
            for stream in streams:
                frame = av.VideoFrame(stream.width, 48, "yuv420p")
                frame.pts = index
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    result = through(path, tmp_path / "out.mkv")
    assert result.contents.size == (96, 48)
    assert any("2 video streams" in line for line in result.warnings)


def test_without_pyav(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = make_video(tmp_path / "in.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install av" in refusal_without_name(path)


def refusal_without_name(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(str(path))
    return str(caught.value)


def test_a_clock_that_starts_anew_runs_on(tmp_path: Path) -> None:
    parts = [
        make_video(
            tmp_path / f"{name}.ts",
            pts=[(start + i) * 3600 for i in range(25)],
            time_base=Fraction(1, 90000),
            audio=(Audio(start_seconds=start / 25),),
        ).read_bytes()
        for name, start in (("a", 1000), ("b", 0))
    ]
    result = through(write(tmp_path / "in.ts", b"".join(parts)), tmp_path / "out.mp4")
    contents = result.contents
    steps = {later - earlier for earlier, later in itertools.pairwise(contents.times)}
    assert len(contents.frames) >= 48
    assert max(steps) <= Fraction(3, 25)
    (sound,) = contents.of_type("audio")
    assert abs(sound.packets[-1][0] - contents.times[-1]) < 0.2
    assert any("clock" in line for line in result.warnings)
