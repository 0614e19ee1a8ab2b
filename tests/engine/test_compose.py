"""Blending with the source, and comparing with it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.compose import Compose, composer
from engine.run import main
from engine.samples import SAMPLE
from tests.media import make_video, read

SOURCE = np.full((4, 6, 3), 100, np.uint8)
TRANSLATED = np.full((4, 6, 3), 200, np.uint8)
START = Fraction(0)


def made(strength: float = 1.0, compare: str | None = None) -> Compose:
    compose = composer(strength, compare)
    assert compose is not None
    return compose


def test_nothing_is_composed_by_default() -> None:
    assert composer() is None


@pytest.mark.parametrize(("strength", "value"), [(0.0, 100), (0.25, 125), (0.5, 150)])
def test_strength_is_the_share_of_the_translation(strength: float, value: int) -> None:
    assert np.all(made(strength)(SOURCE, TRANSLATED, START) == value)


def test_halves_beside_a_line() -> None:
    picture = made(compare="split")(SOURCE, TRANSLATED, START)
    assert picture[0, :, 0].tolist() == [100, 100, 100, 235, 200, 200]
    assert np.all(TRANSLATED == 200)  # what the translator gave is not written to


def test_both_beside_each_other() -> None:
    picture = made(0.5, "side")(SOURCE, TRANSLATED, START)
    assert picture.shape == (4, 12, 3)
    assert picture[0, :, 0].tolist() == [100] * 6 + [150] * 6


def test_two_seconds_of_each() -> None:
    compose = made(compare="toggle")
    seconds = [Fraction(0), Fraction(199, 100), Fraction(2), Fraction(399, 100), Fraction(4)]
    assert [compose(SOURCE, TRANSLATED, at)[0, 0, 0] for at in seconds] == [100, 100, 200, 200, 100]


def test_a_smaller_source_is_enlarged() -> None:
    small = np.zeros((16, 24, 3), np.uint8)
    small[:, 12:] = 255
    picture = made(0.0)(small, np.zeros((64, 96, 3), np.uint8), START)
    assert np.array_equal(picture, cv2.resize(small, (96, 64), interpolation=cv2.INTER_CUBIC))


def test_a_comparison_from_the_command_line(tmp_path: Path) -> None:
    """The left half of each frame is the sample's, but for the encoder; the right half is not."""
    output = tmp_path / "split.mkv"
    assert main([str(SAMPLE), "-o", str(output), "--compare", "split", "--frames", "3", "--codec", "ffv1"]) == 0
    for frame, source in zip(read(output).frames, read(SAMPLE).frames, strict=False):
        difference = np.abs(frame.to_ndarray(format="bgr24").astype(int) - source.to_ndarray(format="bgr24"))
        half = difference.shape[1] // 2
        assert difference[:, : half - 4].mean() < 2
        assert difference[:, half + 4 :].mean() > 8


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "half"])
def test_a_strength_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["clip.mp4", f"--strength={text}"])
    assert "is not a number from 0 to 1" in capsys.readouterr().err


def test_what_is_there_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder whose translation was interrupted goes on with what is missing."""
    films, results = tmp_path / "films", tmp_path / "results"
    films.mkdir(), results.mkdir()
    for name in ("a", "b"):
        make_video(films / f"{name}.mp4")
    (results / "a_vermilion.mp4").write_bytes(b"done before")
    assert main([str(films), "-o", str(results), "--skip-existing", "--quiet"]) == 0
    assert sorted(path.name for path in results.iterdir()) == ["a_vermilion.mp4", "b_vermilion.mp4"]
    assert (results / "a_vermilion.mp4").read_bytes() == b"done before"
    assert len(read(results / "b_vermilion.mp4").frames) == 10
