"""Sound that a container can't hold is converted, in sync and with its channels; what it holds is copied."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import pytest

from engine.errors import SinkError
from engine.video.sound import sound_codec_for
from tests.engine.video.sync import apart_ms, beep_times, make_clip, samples_of
from tests.engine.video.through import Result, through
from tests.media import Audio, make_video, read
from tests.tolerances import SYNC_MS

# What cameras, discs and old software write.
BLURAY = {"suffix": ".m2ts", "sound": "pcm_bluray", "container": "mpegts", "options": {"mpegts_m2ts_mode": "1"}}
DVD = {"suffix": ".vob", "sound": "pcm_dvd", "video": "mpeg2video", "container": "vob"}
LATM = {"suffix": ".ts", "sound": "aac", "container": "mpegts", "options": {"mpegts_flags": "+latm"}}
ADPCM = {"suffix": ".avi", "sound": "adpcm_ms", "video": "mpeg4"}
WMA = {"suffix": ".wmv", "sound": "wmav2", "video": "wmv2", "container": "asf"}
AAC = {"suffix": ".mp4", "sound": "aac"}
PCM_AVI = {"suffix": ".avi", "sound": "pcm_s16le", "video": "mpeg4"}


def clip(folder: Path, kind: dict, **options: object) -> Path:
    return make_clip(
        folder / f"in{kind['suffix']}",
        sound=kind["sound"],
        video=kind.get("video", "libx264"),
        container=kind.get("container"),
        container_options=kind.get("options"),
        **options,
    )


def sound_codec(result: Result) -> str:
    (track,) = result.contents.of_type("audio")
    return track.codec


@pytest.mark.parametrize(
    ("kind", "output", "codec", "note"),
    [
        (BLURAY, ".mp4", "flac", "FLAC"),
        (BLURAY, ".mov", "pcm_s16le", "PCM"),
        (BLURAY, ".mkv", "flac", "FLAC"),
        (BLURAY, ".webm", "opus", "Opus"),
        (BLURAY, ".ts", "aac", "AAC"),
        (DVD, ".mp4", "flac", "FLAC"),
        (DVD, ".mkv", "flac", "FLAC"),
        (LATM, ".mp4", "aac", "AAC"),
        (LATM, ".mkv", "aac", "AAC"),
        (ADPCM, ".mp4", "aac", "AAC"),
        (ADPCM, ".mov", "aac", "AAC"),
        (WMA, ".mp4", "aac", "AAC"),
        (AAC, ".webm", "opus", "Opus"),
        (PCM_AVI, ".mp4", "flac", "FLAC"),
    ],
)
def test_converted_in_sync_with_one_note(tmp_path: Path, kind: dict, output: str, codec: str, note: str) -> None:
    source = clip(tmp_path, kind)
    expected = len(beep_times(source))
    result = through(source, tmp_path / f"out{output}")
    assert sound_codec(result) == codec
    notes = [line for line in result.warnings if "sound track" in line]
    assert len(notes) == 1
    assert f"is converted to {note}: " in notes[0]
    apart = apart_ms(result.path)
    assert len(apart) == expected >= 3
    assert np.abs(apart).max() < SYNC_MS


@pytest.mark.parametrize(
    ("kind", "output"),
    [(ADPCM, ".mkv"), (WMA, ".mkv"), (WMA, ".wmv"), (LATM, ".ts"), (PCM_AVI, ".mkv"), (PCM_AVI, ".mov"), (AAC, ".mkv")],
)
def test_copied_where_the_container_holds_it(tmp_path: Path, kind: dict, output: str) -> None:
    source = clip(tmp_path, kind)
    result = through(source, tmp_path / f"out{output}")
    assert [line for line in result.warnings if "sound" in line or "packets" in line] == []
    before, after = read(source).of_type("audio")[0], result.contents.of_type("audio")[0]
    assert after.codec == before.codec
    assert b"".join(after.payloads) == b"".join(before.payloads)


def test_a_copy_that_would_play_at_another_speed_is_not_made(tmp_path: Path) -> None:
    """FFmpeg's AVI muxer takes the speed of ADPCM from its bit rate, which its encoder doesn't tell."""
    source = clip(tmp_path, ADPCM)
    result = through(source, tmp_path / "out.avi")
    assert sound_codec(result) in ("mp3", "mp3float", "adpcm_ms")
    assert np.abs(np.diff(beep_times(result.path)) - 1).max() < 0.04


def test_lossless_stays_lossless(tmp_path: Path) -> None:
    source = clip(tmp_path, BLURAY, sample_format="s16")
    _, before, _ = samples_of(source)
    for suffix in (".mp4", ".mkv", ".mov"):
        _, after, _ = samples_of(through(source, tmp_path / f"out{suffix}").path)
        np.testing.assert_array_equal(after[: len(before)], before)


@pytest.mark.parametrize(("layout", "count"), [("mono", 1), ("5.1(side)", 6), ("7.1", 8)])
@pytest.mark.parametrize("output", [".mp4", ".mkv", ".webm"])
def test_channels_are_kept(tmp_path: Path, layout: str, count: int, output: str) -> None:
    source = clip(tmp_path, BLURAY, layout=layout)
    assert samples_of(through(source, tmp_path / f"out{output}").path)[2] == count


@pytest.mark.parametrize("output", [".webm", ".mp4"])
def test_other_sample_rates(tmp_path: Path, output: str) -> None:
    """Opus knows only some rates."""
    source = clip(tmp_path, PCM_AVI, rate=44100)
    assert np.abs(apart_ms(through(source, tmp_path / f"out{output}").path)).max() < SYNC_MS


@pytest.mark.parametrize("kind", [BLURAY, LATM])
@pytest.mark.parametrize("runs", [((0, 1.5), (2.8, 4)), ((1.8, 4),), ((0, 1.1), (1.13, 4))])
def test_gaps_and_late_starts_stay_in_sync(tmp_path: Path, kind: dict, runs: tuple) -> None:
    source = clip(tmp_path, kind, runs=runs)
    result = through(source, tmp_path / "out.mp4")
    apart = apart_ms(result.path)
    assert len(apart) == len(beep_times(source))
    assert np.abs(apart).max() < SYNC_MS


def test_audio_copy_is_an_error_where_a_track_cannot_be_copied(tmp_path: Path) -> None:
    source = clip(tmp_path, LATM)
    with pytest.raises(SinkError, match=r"aac_latm.*can't be copied.*--audio convert") as caught:
        through(source, tmp_path / "out.mp4", audio="copy")
    assert "\n" not in str(caught.value)
    assert through(clip(tmp_path, AAC), tmp_path / "copy.mp4", audio="copy").contents.of_type("audio")


def test_audio_copy_takes_what_few_players_know(tmp_path: Path) -> None:
    source = clip(tmp_path, {"suffix": ".mov", "sound": "pcm_s16le"})
    assert sound_codec(through(source, tmp_path / "lossless.mp4")) == "flac"
    result = through(source, tmp_path / "out.mp4", audio="copy")
    assert sound_codec(result) == "pcm_s16le"


def test_audio_none(tmp_path: Path) -> None:
    result = through(clip(tmp_path, AAC), tmp_path / "out.mp4", audio="none")
    assert [track.type for track in result.contents.tracks] == ["video"]
    assert result.warnings == []


def test_a_container_without_sound_says_so(tmp_path: Path) -> None:
    result = through(clip(tmp_path, AAC), tmp_path / "out.gif")
    assert [line for line in result.warnings if "sound track 1 (aac" in line and "left out" in line]


def test_sound_that_begins_far_into_a_transport_stream(tmp_path: Path) -> None:
    """FFmpeg looks for the sound in the first seconds only, and then knows nothing of it."""
    source = clip(tmp_path, {**LATM, "options": {}}, seconds=12, runs=((9.5, 12),))
    result = through(source, tmp_path / "out.mp4")
    assert not [line for line in result.warnings if "left out" in line]
    assert len(apart_ms(result.path)) == 2
    assert np.abs(apart_ms(result.path)).max() < SYNC_MS


def test_duplicate_times_are_moved_by_a_tick(tmp_path: Path) -> None:
    """All packets come along, each at least a tick after the one before."""
    first = make_video(tmp_path / "first.mkv", audio=(Audio(),))
    path = tmp_path / "in.mkv"
    with av.open(str(first)) as source, av.open(str(path), "w") as output:
        streams = {stream.index: output.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        count = last = 0
        for packet in source.demux():
            if not packet.size:
                continue
            if packet.stream.type == "audio":
                count += 1
                if count % 5 == 0:  # Matroska lets times stand still
                    packet.pts = packet.dts = last
                last = packet.dts
            packet.stream = streams[packet.stream.index]
            output.mux_one(packet)
    result = through(path, tmp_path / "out.mp4")
    before_track, after_track = read(path).of_type("audio")[0], result.contents.of_type("audio")[0]
    assert after_track.hashes == before_track.hashes
    stamps = [dts for _, dts in after_track.times]
    assert all(b > a for a, b in itertools.pairwise(stamps))


def test_encoder_by_container(tmp_path: Path) -> None:
    with av.open(str(clip(tmp_path, BLURAY))) as source:
        (track,) = source.streams.audio
        found = {name: sound_codec_for(track, name) for name in ("mp4", "mov", "avi", "webm", "asf", "flv", "gif")}
    assert found == {
        "mp4": "flac",
        "mov": "pcm_s16le",
        "avi": "pcm_s16le",
        "webm": "libopus",
        "asf": "wmav2",
        "flv": "aac",
        "gif": None,
    }


def test_a_jump_of_days_is_not_filled_with_silence(tmp_path: Path) -> None:
    """A damaged time of a packet; hours of silence would take hours to encode."""
    with av.open(str(clip(tmp_path, AAC, seconds=2))) as source, av.open(str(tmp_path / "jump.mkv"), "w") as output:
        copies = {stream.index: output.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if not packet.size:
                continue
            if packet.stream.type == "audio" and packet.pts * packet.time_base > 1:
                packet.pts += int(2 * 86400 / packet.time_base)
                packet.dts = packet.pts
            packet.stream = copies[packet.stream.index]
            output.mux(packet)
    result = through(tmp_path / "jump.mkv", tmp_path / "out.webm")
    (track,) = result.contents.of_type("audio")
    assert track.codec == "opus"
    assert 90 < len(track.packets) < 130
