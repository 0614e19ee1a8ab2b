"""One frame, source and result side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.run import main
from engine.samples import SAMPLE
from engine.video import window
from tests.engine.video.test_window import Screen
from tests.media import make_video, read

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(SAMPLE.read_bytes())
    return path


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_a_preview_shows_source_and_result(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The frame of that time at the left, its translation at the right."""
    assert main([str(clip), "--preview", "0:02", "--quiet"]) == 0
    written = tmp_path / "clip_vermilion.preview.png"
    assert sorted(tmp_path.iterdir()) == [clip, written]
    picture = cv2.imread(str(written))
    assert picture is not None
    assert picture.shape == (360, 1280, 3)
    source = read(clip).image(48).astype(int)
    assert np.abs(picture[:, :640] - source).mean() < 2
    assert np.abs(picture[:, 640:] - source).mean() > 8
    assert main([str(clip), "--preview", "0:02", "--quiet"]) == 0  # what was written before stays
    assert (tmp_path / "clip_vermilion.preview-2.png").exists()


@pytest.mark.parametrize(
    ("output", "written"), [("out.mp4", "out.preview.png"), ("look.png", "look.png"), ("to/", "to/clip_v.preview.png")]
)
def test_a_preview_lies_beside_the_output(output: str, written: str, clip: Path, tmp_path: Path) -> None:
    expected = tmp_path / written.replace("_v.", "_vermilion.")
    report = tmp_path / "report.json"
    assert main([str(clip), "-o", f"{tmp_path}/{output}", "--preview", "1", "--quiet", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["results"][0]["output"] == str(expected)
    assert expected.is_file()


def test_halves_instead_of_both(clip: Path, tmp_path: Path) -> None:
    assert main([str(clip), "-o", str(tmp_path / "out.png"), "--preview", "1", "--compare", "split", "--quiet"]) == 0
    picture = cv2.imread(str(tmp_path / "out.png"))
    assert picture is not None
    assert picture.shape == (360, 640, 3)


def test_a_preview_is_shown_until_a_key(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch)

    def wait_key(delay_ms: int) -> int:
        screen.delays_ms.append(delay_ms)
        return ord(" ") if len(screen.delays_ms) == 5 else -1

    monkeypatch.setattr(window.cv2, "waitKey", wait_key)
    assert main([str(clip), "--preview", "1", "--show", "--quiet"]) == 0
    assert screen.shown == 1
    assert screen.destroyed
    assert len(screen.delays_ms) == 6  # the last one closes it
    assert list(tmp_path.iterdir()) == [clip]


def test_the_second_preview_needs_no_torch(tmp_path: Path) -> None:
    clip = make_video(tmp_path / "clip.mp4", pts=[512 * i for i in range(50)], size=(160, 96))
    code = "import sys; from engine.run import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(clip), "--preview", "1", "--quiet", "--precision", "fp32"]
    first, second = (
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()[-1]
        for _ in range(2)
    )
    assert (first, second) == ("True", "False")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preview", "6"], "--preview 0:06 is beyond its end"),
        (["--preview", "1", "--start", "0"], "give it without --start and --end"),
        (["--preview", "1", "--end", "5"], "give it without --start and --end"),
    ],
)
def test_a_bad_time_is_one_line(
    arguments: list[str], message: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(clip), *arguments]) == 1
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == [clip]


def test_an_image_has_no_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "in.png"
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    assert main([str(image), "--preview", "1"]) == 1
    assert "--preview takes a time of a video" in error_line(capsys)
