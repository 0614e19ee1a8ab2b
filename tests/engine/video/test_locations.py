"""What the user's words for a source mean."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import engine
import engine.video.locations as specs
from engine.errors import SourceError
from engine.video import default_output, expand, open_source


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    for name in ("b10.mp4", "b9.MP4", "c.mkv", "x.png", "y.jpg", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_expand(mixed: Path) -> None:
    assert expand(str(mixed)) == [str(mixed / "b9.MP4"), str(mixed / "b10.mp4"), str(mixed / "c.mkv"), str(mixed)]
    assert expand(str(mixed / "*.mp4")) == [str(mixed / "b10.mp4")]
    assert expand(str(mixed / "*.png")) == [str(mixed / "*.png")]


@pytest.mark.parametrize("spec", ["0", "clip.mp4", "rtsp://camera/1", "https://a.b/c.mp4?x=*", "/dev/video3"])
def test_single_jobs(spec: str) -> None:
    assert expand(spec) == [spec]


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    path = tmp_path / "what [1080p]?.mp4"
    path.write_bytes(b"x")
    assert expand(str(path)) == [str(path)]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no video and no image"):
        expand(str(tmp_path))
    with pytest.raises(SourceError, match="matches no video"):
        expand(str(tmp_path / "*.mp4"))


def test_several_videos_are_several_jobs(mixed: Path) -> None:
    (mixed / "x.png").unlink()
    (mixed / "y.jpg").unlink()
    with pytest.raises(SourceError, match="3 videos"):
        open_source(str(mixed))


def test_natural_order() -> None:
    names = ["f10.png", "F9.png", "f1.png", "f01b.png", "a.png", "10.png", "9.png"]
    ordered = sorted(map(Path, names), key=specs.natural_key)
    assert [path.name for path in ordered] == ["9.png", "10.png", "a.png", "f1.png", "f01b.png", "F9.png", "f10.png"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("0", "webcam0_mosaic.mp4"),
        ("/dev/video2", "webcam2_mosaic.mp4"),
        ("photos/cat.jpg", "photos/cat_mosaic.jpg"),
        ("photos/cat.JPG", "photos/cat_mosaic.JPG"),
        ("photos/cat.tif", "photos/cat_mosaic.png"),
    ],
)
def test_default_output(spec: str, expected: str) -> None:
    assert default_output(spec, "mosaic") == Path(expected)


def test_default_output_of_folders_and_globs(mixed: Path) -> None:
    assert default_output(str(mixed), "s") == mixed.parent / f"{mixed.name}_s"
    assert default_output(str(mixed / "*.png"), "s") == mixed.parent / f"{mixed.name}_s"


def test_importing_needs_no_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "av" or name.startswith("engine.video")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(engine, "video", engine.video)  # the import below replaces it
    assert importlib.import_module("engine.video").expand("0") == ["0"]
