"""Sound that the output's container can't hold as it is: copied where it can be, else converted with a note."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from engine.run import main
from engine.video import default_output
from tests.engine.video.cases.measures import measure, samples_of
from tests.engine.video.cases.media import AAC, H264, clip, ffmpeg, needs_ffmpeg
from tests.engine.video.through import through

Made = Callable[[str], Path]
LOSSLESS = {"flac", "alac", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le"}

pytestmark = needs_ffmpeg


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("name", ["pcm.m2ts", "pcm.vob"])
def test_pcm_stays_lossless(name: str, suffix: str, made: Made, tmp_path: Path) -> None:
    source = made(name)
    before = measure(source)
    result = through(source, tmp_path / f"out{suffix}")
    after = measure(result.path)
    after.assert_in_sync(flashes=3)
    assert after.sound in LOSSLESS | {before.sound}
    if after.sound != before.sound:
        assert any(after.sound.partition("_")[0] in line.lower() for line in result.warnings), result.warnings
    ours, theirs = samples_of(result.path), samples_of(source)
    assert ours.shape[0] == theirs.shape[0]
    assert abs(ours.shape[1] - theirs.shape[1]) < 1024
    count = min(ours.shape[1], theirs.shape[1])
    assert np.array_equal(ours[:, :count], theirs[:, :count])


@pytest.mark.parametrize(
    ("name", "suffix", "codec"),
    [
        ("latm.ts", ".mp4", "aac"),
        ("adpcm.avi", ".mp4", "aac"),
        ("wma.wmv", ".mp4", "aac"),
        ("clip.mp4", ".webm", "opus"),
        ("adpcm.avi", ".webm", "opus"),
        ("pcm.m2ts", ".webm", "opus"),
    ],
)
def test_what_the_container_does_not_hold_is_converted(
    name: str, suffix: str, codec: str, made: Made, tmp_path: Path
) -> None:
    before = measure(made(name))
    result = through(made(name), tmp_path / f"out{suffix}")
    after = measure(result.path)
    assert after.sound == codec
    assert len(after.times) == len(before.times)
    after.assert_in_sync(flashes=3, beeps=len(before.beeps))
    notes = [line for line in result.warnings if codec in line.lower()]
    assert len(notes) == 1, result.warnings
    ours, theirs = samples_of(result.path), samples_of(made(name))
    assert ours.shape[0] == theirs.shape[0]
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.3)


@pytest.mark.parametrize("suffix", [".avi", ".wmv", ".flv", ".ts", ".mkv"])
@pytest.mark.parametrize("name", ["clip.mp4", "wma.wmv", "pcm.m2ts"])
def test_what_is_copied_stays_with_the_picture(name: str, suffix: str, made: Made, tmp_path: Path) -> None:
    """The first packet of AAC lies before zero, where AVI and ASF have no place."""
    source = made(name)
    before = measure(source)
    after = measure(through(source, tmp_path / f"out{suffix}").path)
    assert len(after.times) == len(before.times)
    steps = [round(1000 * (later - earlier)) for earlier, later in itertools.pairwise(after.times)]
    assert set(steps[1:]) == {40}
    assert steps[0] == 40 or (suffix, name) == (".avi", "wma.wmv")  # AVI puts the first picture to zero
    lost = after.sound == "wmav2" and before.sound != "wmav2"  # FFmpeg's encoder has no first 43 ms
    after.assert_in_sync(flashes=3, beeps=len(before.beeps) - lost)


@pytest.mark.parametrize("suffix", [".avi", ".wmv", ".mp4"])
@pytest.mark.parametrize(
    ("made_by", "beeps"),
    [
        (["-af", "atrim=start=1.3", "-c:a", "aac"], 2),
        (["-af", "atrim=start=1.3", "-c:a", "pcm_s16le"], 2),
        (["-af", "aselect='not(between(t,1.2,1.5))'", "-fps_mode", "passthrough", "-c:a", "aac"], 4),
    ],
    ids=["late", "late PCM", "with a gap"],
)
def test_sound_keeps_its_place_where_it_is_late_or_has_a_gap(
    made_by: list[str], beeps: int, suffix: str, tmp_path: Path
) -> None:
    """AVI has no times for it."""
    whole = clip(tmp_path / "whole.mp4", 4, *H264, *AAC)
    source = tmp_path / "in.mkv"
    ffmpeg("-i", whole, "-c:v", "copy", *made_by, source)
    result = through(source, tmp_path / f"out{suffix}")
    after = measure(result.path)
    assert [abs(late) < 0.041 for late in after.sync_seconds] == [True] * len(after.sync_seconds)
    assert len(after.sync_seconds) >= beeps
    if suffix == ".avi":
        assert any("avi keeps no times of sound" in line for line in result.warnings)


@pytest.mark.parametrize("name", ["adpcm.avi", "wma.wmv"])
def test_matroska_holds_it_all(name: str, made: Made, tmp_path: Path) -> None:
    before = measure(made(name))
    result = through(made(name), tmp_path / "out.mkv")
    after = measure(result.path)
    assert (after.sound, after.sound_packets) == (before.sound, before.sound_packets)
    after.assert_in_sync(flashes=3, beeps=len(before.beeps))
    assert not [line for line in result.warnings if "can't hold" in line or "damaged" in line]


def test_the_channel_layout_is_kept(made: Made, tmp_path: Path) -> None:
    result = through(made("surround.mp4"), tmp_path / "out.webm")
    with av.open(str(result.path)) as container:
        (stream,) = container.streams.audio
        assert (stream.codec_context.name, stream.layout.nb_channels) == ("opus", 6)
    measure(result.path).assert_in_sync(flashes=3)


@pytest.mark.parametrize(
    ("arguments", "codec"), [(["--audio", "none"], ""), (["--audio", "convert"], "aac"), (["--audio", "copy"], "aac")]
)
def test_the_option(arguments: list[str], codec: str, made: Made, identity_style: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    options = ["--style", str(identity_style), "--backend", "eager", "--precision", "fp32", "--quiet"]
    assert main([str(made("clip.mp4")), "-o", str(output), *options, *arguments]) == 0
    film = measure(output)
    assert film.sound == codec
    assert len(film.times) == 75
    if codec:
        film.assert_in_sync(flashes=3)


def test_copy_refuses_what_can_not_be_copied_or_names_it(made: Made, identity_style: Path, tmp_path: Path) -> None:
    """Never a silent film with status 0."""
    arguments = [str(made("adpcm.avi")), "-o", str(tmp_path / "out.mp4"), "--style", str(identity_style)]
    program = [sys.executable, "-m", "engine.run", *arguments, "--audio", "copy"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "adpcm" in done.stderr


# --- phones ---


@pytest.mark.parametrize("name", ["phone.mp4", "phone.mov", "action_camera.mp4"])
def test_a_phones_film_becomes_one_that_phones_play(name: str, made: Made, tmp_path: Path) -> None:
    source = made(name)
    suffix = source.suffix
    before = measure(source)
    assert default_output(str(source), "style").suffix == suffix
    result = through(source, tmp_path / f"out{suffix}")
    after = measure(result.path)
    assert after.times == before.times
    assert (after.sound, after.sound_packets) == ("aac", before.sound_packets)
    with av.open(str(result.path)) as container:
        for stream in container.streams:
            assert stream.codec_context is not None or stream.type == "data", stream
        assert len(container.streams.audio) == 1
    left_out = [line for line in result.warnings if "left out" in line or "can't" in line]
    assert len(left_out) == 1, result.warnings


def test_a_camcorders_tape(tmp_path: Path) -> None:
    source = tmp_path / "tape.dv"
    picture = "testsrc2=s=720x576:r=25:d=1,setsar=16/15"
    beep = ["-f", "lavfi", "-i", "sine=frequency=1000:sample_rate=48000:d=1", "-ac", "2", "-c:a", "pcm_s16le"]
    ffmpeg("-f", "lavfi", "-i", picture, *beep, "-c:v", "dvvideo", "-pix_fmt", "yuv420p", source)
    before = measure(source)
    result = through(source, tmp_path / "out.mp4")
    after = measure(result.path)
    assert len(after.times) == len(before.times) == 25
    assert after.sound in LOSSLESS
    ours, theirs = samples_of(result.path), samples_of(source)
    count = min(ours.shape[1], theirs.shape[1])
    assert count > 47_000
    assert np.array_equal(ours[:, :count], theirs[:, :count])


def test_a_tape_without_sound(tmp_path: Path) -> None:
    source = tmp_path / "tape.dv"
    picture = "testsrc2=s=720x576:r=25:d=0.4,setsar=16/15"
    ffmpeg("-f", "lavfi", "-i", picture, "-c:v", "dvvideo", "-pix_fmt", "yuv420p", source)
    assert len(measure(through(source, tmp_path / "out.mp4").path).times) == 10
