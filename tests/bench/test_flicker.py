"""`python -m bench flicker`: motion that is known is the frames' motion, and scores say what they are said to say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bench import flicker_clips, results
from bench.__main__ import main
from bench.flicker_clips import MOTIONS, Clip, filmed, read_frames, rendered, through_h264
from bench.flicker_methods import METHODS, average, ffmpeg, score
from engine.samples import SAMPLE

SIZE = (160, 96)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    frame = read_frames(SAMPLE, size=(640, 360), frame_count=1, start_seconds=4.0)[0]
    return cv2.GaussianBlur(frame, (0, 0), 2)


def still(frames: list[np.ndarray]) -> Clip:
    """A clip without motion."""
    height, width = frames[0].shape[:2]
    count = len(frames) - 1
    return Clip(
        "still", frames, [np.zeros((height, width, 2), np.float32)] * count, [np.ones((height, width), bool)] * count
    )


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_known_motion_is_that_of_the_frames(
    photo: np.ndarray, motion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flicker_clips, "NOISE", 0.0)
    monkeypatch.setattr(flicker_clips, "through_h264", list)
    clip = rendered(photo, motion, size=SIZE, frame_count=6, other=photo[::-1])
    without = still(clip.frames)
    moving = score(clip, clip.frames, clip.frames).warping_error
    assert moving < 1.5
    assert moving < 0.2 * score(without, without.frames, without.frames).warping_error
    assert all(0.9 < visible.mean() <= 1 for visible in clip.visible)


def test_what_an_object_covers_is_left_out(photo: np.ndarray) -> None:
    clip = rendered(photo, "object", size=SIZE, frame_count=4, other=photo[::-1])
    pan = rendered(photo, "pan", size=SIZE, frame_count=4)
    hidden = pan.visible[2] & ~clip.visible[2]
    assert 20 < hidden.sum() < 0.1 * hidden.size


def test_rendered_clips_are_noisy_and_compressed(photo: np.ndarray) -> None:
    frames = [photo[:96, :160]] * 3
    decoded = through_h264(frames)
    assert len(decoded) == 3
    assert decoded[0].shape == (96, 160, 3)
    assert 0 < np.abs(decoded[1].astype(int) - frames[1]).mean() < 10


def test_nothing_is_visible_across_a_cut(tmp_path: Path, photo: np.ndarray) -> None:
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (640, 360))
    for frame in (photo, photo, 255 - photo[::-1], 255 - photo[::-1]):
        writer.write(frame)
    writer.release()
    clip = filmed(path, size=SIZE, frame_count=4)
    assert [visible.mean() > 0.9 for visible in clip.visible] == [True, False, True]


def test_scores() -> None:
    random = np.random.default_rng(0)
    frames = [random.integers(100, 140, (64, 96, 3), np.uint8) for _ in range(4)]
    clip = still(frames)
    plain = score(clip, frames, frames)
    assert plain.warping_error == pytest.approx(2 * (40**2 - 1) / 12, rel=0.05)  # twice the variance
    assert (plain.least_psnr_db, plain.sharpness) == (99.0, 1.0)
    blurred = [cv2.blur(frame, (3, 3)) for frame in frames]
    calm = score(clip, blurred, frames)
    assert calm.warping_error < 0.2 * plain.warping_error
    assert calm.sharpness < 0.5
    assert calm.least_psnr_db < 30


def test_methods_keep_the_frames_in_step() -> None:
    """A median or an average of frames of one step each is that frame, but for its first and last ones."""
    frames = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(8)]
    clip = still(frames)
    for name, method in METHODS.items():
        shown = method(clip, frames)
        assert len(shown) == 8, name
        assert shown[0].shape == (32, 32, 3), name
    assert [int(frame[0, 0, 0]) for frame in ffmpeg("tmedian", "radius=1", around=1)(clip, frames)][1:-1] == [
        *range(20, 140, 20)
    ]
    assert int(average(0.5)(clip, frames)[1][0, 0, 0]) == 10


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    texture = np.random.default_rng(0).integers(0, 30, (*SIZE[::-1], 3), np.uint8)
    monkeypatch.setattr("bench.flicker.Translator", lambda _: lambda frame: cv2.add(frame, texture))
    monkeypatch.setattr("bench.flicker._SPEED_SIZES", ((64, 48),))
    monkeypatch.setattr("bench.flicker._SAMPLE_SECONDS", (4.0,))
    file, picture = tmp_path / "flicker.json", tmp_path / "flicker.jpg"
    options = ["--frames", "4", "--size", "160x96", "--json", str(file), "--picture", str(picture)]
    assert main(["flicker", *options]) == 0
    found = results.read(file)
    assert found.groups == [
        *(f"vermilion, {motion} over the sample at 4 s" for motion in MOTIONS),
        "vermilion, sample",
        "64x48",
    ]
    rows = {row.contender: row.facts for row in found.group(found.groups[0])}
    assert rows.keys() == METHODS.keys()
    assert rows["--steady 1"]["change_percent"] < rows["--steady 0.5"]["change_percent"] < 0
    assert len(found.group("64x48")[0].seconds) == 40
    assert "--steady 1" in capsys.readouterr().out
    assert cv2.imread(str(picture)) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "1"], "--frames: at least 2"),
        (["--photos", "no.jpg"], "no.jpg: it can't be read as a picture"),
        (["--photos", "--clips", "a.mp4@x"], ""),
    ],
)
def test_bad_input_is_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not message:
        with pytest.raises(SystemExit):
            main(["flicker", *options])
        return
    assert main(["flicker", *options]) == 1
    assert message in capsys.readouterr().err
