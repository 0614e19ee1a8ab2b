"""`--target-fps` and `--skip-similar` from the command line: what they do to an output, and how they fail."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from engine import save_generator
from engine.generators import build
from engine.generators.resnet import ResNetConfig
from engine.run import main
from engine.samples import SAMPLE
from engine.switching import StyleSwitcher
from engine.video import live_source, window
from engine.window_controls import WindowControls
from tests.media import make_video, read

WIDTH, HEIGHT = 192, 128


@pytest.fixture(scope="module")
def tiny_style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("style") / "tiny.safetensors"
    save_generator(build(ResNetConfig(width=4, blocks=1)), path, metadata={})
    return path


def picture(x: int) -> np.ndarray:
    """Slopes, and a square of 6x6 pixels at x."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([columns, rows, 255 - columns], axis=-1).astype(np.uint8)
    image[60:66, x : x + 6] = 255
    return image


class Screen:
    """Takes the place of OpenCV's windows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        monkeypatch.setattr(window, "_check_display", lambda: None)
        for name, answer in {"namedWindow": None, "resizeWindow": None, "destroyWindow": None, "waitKey": -1}.items():
            monkeypatch.setattr(cv2, name, lambda *_, answer=answer: answer)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
        monkeypatch.setattr(cv2, "imshow", self.imshow)
        self.camera: Camera | None = None  # that ends after some frames

    def imshow(self, title: str, image: np.ndarray) -> None:
        self.shapes.append(image.shape)
        if self.camera is not None and len(self.shapes) >= 30:
            self.camera.count = self.camera.reads


class Camera:
    """Stands in for `cv2.VideoCapture`: pictures whose square moves now and then."""

    def __init__(self, count: int, still_frames: int) -> None:
        self.count, self.reads, self._still_frames = count, 0, still_frames
        self._wait = threading.Event()

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.reads >= self.count:
            return False, None
        self._wait.wait(0.005)
        self.reads += 1
        return True, picture(self.reads // self._still_frames % 20 * 8)

    def get(self, which: int) -> float:
        return 100.0 if which == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        return None


def summary_of(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    report = tmp_path / "summary.json"
    assert main([*arguments, "--json", str(report), "--quiet"]) == 0
    (summary,) = json.loads(report.read_text())["results"]
    return summary


def test_a_still_film_is_translated_where_something_moves(tmp_path: Path, tiny_style: Path) -> None:
    """Every frame is there at its time; still ones repeat the one before to the bit."""
    places = [8] * 6 + [16] * 5 + [24, 32, 40] + [40] * 4
    frames = [av.VideoFrame.from_ndarray(picture(x), format="bgr24").reformat(format="yuv420p") for x in places]
    film = make_video(tmp_path / "film.mkv", frames=frames, pts=[512 * n for n in range(len(frames))], codec="ffv1")
    arguments = [str(film), "--style", str(tiny_style), "--codec", "ffv1", "-y"]
    whole, skipping = tmp_path / "whole.mkv", tmp_path / "skipping.mkv"
    summary_of(tmp_path, *arguments, "-o", str(whole))
    summary = summary_of(tmp_path, *arguments, "-o", str(skipping), "--skip-similar")
    assert (summary["frames"], summary["received"], summary["shown"]) == (18, 18, 5)
    assert (summary["skipped"], summary["dropped"]) == (13, 0)
    expected, got = read(whole), read(skipping)
    assert got.times == expected.times
    for number, (one, other) in enumerate(zip(got.frames, expected.frames, strict=True)):
        assert np.array_equal(one.to_ndarray(), other.to_ndarray()), number


@pytest.mark.parametrize("options", [[], ["--skip-similar"], ["--skip-similar", "--target-fps", "2"]])
def test_every_frame_of_a_camera_is_shown_dropped_or_skipped(
    options: list[str], tmp_path: Path, tiny_style: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, camera = Screen(monkeypatch), Camera(10**6, still_frames=10)
    screen.camera = camera
    monkeypatch.setattr(live_source, "_open_capture", lambda *_: camera)
    summary = summary_of(
        tmp_path, "0", "--show", "--reconnect", "0", "--style", str(tiny_style), "--backend", "eager", *options
    )
    assert summary["received"] == camera.reads - 1  # the first told the size
    assert summary["received"] == summary["shown"] + summary["dropped"] + summary["skipped"]
    assert (summary["skipped"] > 0) == ("--skip-similar" in options)
    assert summary["frames"] == len(screen.shapes) == summary["shown"] + summary["skipped"]
    assert (summary["internal_size"] is not None) == ("--target-fps" in options)


def test_the_window_and_the_summary_tell_the_size_that_holds_the_rate(
    tmp_path: Path, tiny_style: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1000 frames a second can't be held, so frames are made as small as may be; what is shown keeps its size."""
    screen, camera = Screen(monkeypatch), Camera(10**6, still_frames=1)
    monkeypatch.setattr(live_source, "_open_capture", lambda *_: camera)
    said: list[str] = []
    describe = WindowControls.describe

    def describe_and_stop(controls: WindowControls) -> str:
        said.append(describe(controls))
        if " at 64x64" in said[-1] or len(said) > 5000:
            camera.count = camera.reads
        return said[-1]

    monkeypatch.setattr(WindowControls, "describe", describe_and_stop)
    arguments = [
        "0",
        "--show",
        "--reconnect",
        "0",
        "--style",
        str(tiny_style),
        "--backend",
        "eager",
        "--target-fps",
        "1000",
    ]
    assert main(arguments) == 0
    assert said[-1].endswith("at 64x64")
    assert set(screen.shapes) == {(HEIGHT, WIDTH, 3)}
    assert "at last translated at 64x64" in capsys.readouterr().err


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    return line


@pytest.mark.parametrize("value", ["0", "-5", "0.5", "1001", "fast", "", "nan", "inf"])
def test_a_rate_that_is_none(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["0", "--show", f"--target-fps={value}"])
    assert ended.value.code == 2
    assert f"--target-fps: {value!r} is not a number of frames per second from 1 to 1000" in error_line(capsys)


@pytest.mark.parametrize("options", [[], ["-o", "out.mp4", "--show"], ["--benchmark"]])
def test_a_file_that_is_written_does_not_depend_on_the_machine(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(SAMPLE), "--target-fps", "30", *options]) == 1
    assert "--target-fps is for cameras, live streams and --show without -o" in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--target-fps", "30"], ["--skip-similar"]])
def test_a_cluster_translates_every_frame(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SAMPLE), "--cluster", "auto", *options]) == 1
    assert "--cluster translates every frame as it is" in error_line(capsys)


def test_the_controls_name_the_size_only_where_it_is_smaller(tiny_style: Path) -> None:
    from engine.translator import Translator

    switcher = StyleSwitcher([str(tiny_style)], lambda style: Translator(style, device="cpu", backend="eager"))
    controls = WindowControls(1.0, None, switcher, None)
    switcher(picture(8))
    assert controls.describe().startswith("tiny  eager ")
    assert " at " not in controls.describe()
