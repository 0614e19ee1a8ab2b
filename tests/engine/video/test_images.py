"""Images in and out: names, order, orientation, transparency, damaged ones."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.errors import SinkError, SourceError
from engine.video import Frame, ImageFolderSink, ImageSource, open_sink, open_source
from tests.engine.video.through import through
from tests.media import moving_picture, read


def save(path: Path, image: np.ndarray) -> Path:
    """Writes an image under any name, Unicode too."""
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def with_exif_orientation(path: Path, orientation: int) -> Path:
    """Puts an EXIF segment with an orientation into a JPEG."""
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif", ".jpg"])
def test_one_image(tmp_path: Path, suffix: str) -> None:
    picture = moving_picture(0, 63, 47)
    result = through(save(tmp_path / f"Fürst 文{suffix}", picture), tmp_path / "out.png")
    assert result.frames == 1
    image = cv2.imread(str(result.path))
    assert np.abs(image.astype(int) - picture).mean() < 4
    assert result.source.info.frame_count == 1
    assert result.warnings == []


def test_one_pixel(tmp_path: Path) -> None:
    result = through(save(tmp_path / "in.png", np.full((1, 1, 3), 77, np.uint8)), tmp_path / "out.png")
    assert cv2.imread(str(result.path)).tolist() == [[[77, 77, 77]]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_written_suffixes(tmp_path: Path, suffix: str) -> None:
    picture = moving_picture(0, 64, 48)
    result = through(save(tmp_path / "in.png", picture), tmp_path / f"out{suffix}")
    assert np.abs(cv2.imread(str(result.path)).astype(int) - picture).mean() < 6


def test_exif_orientation(tmp_path: Path) -> None:
    path = with_exif_orientation(save(tmp_path / "in.jpg", moving_picture(0, 64, 32)), 6)
    (frame,) = open_source(str(path))
    assert frame.image.shape == (64, 32, 3)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    (frame,) = open_source(str(save(tmp_path / "in.png", np.full((8, 8, 3), 32896, np.uint16))))
    assert frame.image.dtype == np.uint8
    assert np.abs(frame.image.astype(int) - 128).max() <= 1


def test_transparency_is_dropped_with_a_warning(tmp_path: Path) -> None:
    source = open_source(str(save(tmp_path / "in.png", np.full((8, 8, 4), 100, np.uint8))))
    (frame,) = source
    assert frame.image.shape == (8, 8, 3)
    assert any("transparency" in line for line in source.warnings)


def test_grey(tmp_path: Path) -> None:
    (frame,) = open_source(str(save(tmp_path / "in.png", np.full((8, 8), 100, np.uint8))))
    assert frame.image.shape == (8, 8, 3)


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"no image", "not an image")])
def test_unreadable(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=reason) as caught:
        open_source(str(path))
    assert str(path) in str(caught.value)


def test_sequence_in_natural_order_keeps_names_and_skips_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in (10, 9, 1, 2):
        save(folder / f"shot_{index}.png", np.full((16, 16, 3), index, np.uint8))
    (folder / "shot_5.png").write_bytes(b"broken")
    (folder / "readme.txt").write_text("x")
    result = through(folder, tmp_path / "out")
    assert result.frames == 4
    assert sorted(p.name for p in result.path.iterdir()) == ["shot_1.png", "shot_10.png", "shot_2.png", "shot_9.png"]
    assert [frame.name for frame in open_source(str(folder))] == [f"shot_{i}.png" for i in (1, 2, 9, 10)]
    (line,) = result.source.warnings
    assert line.startswith("skipped: ")
    assert "shot_5.png" in line
    assert result.source.missing == 1


def test_all_damaged(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"broken")
    with pytest.raises(SourceError, match="none of 3"):
        open_source(str(tmp_path))


def test_glob(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b1.png"):
        save(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    assert [frame.name for frame in open_source(str(tmp_path / "a*.png"))] == ["a1.png", "a2.png"]


def test_formats_that_are_not_written_become_png(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(2):
        save(folder / f"{index}.bmp", np.zeros((8, 8, 3), np.uint8))
    assert sorted(p.name for p in through(folder, tmp_path / "out").path.iterdir()) == ["0.png", "1.png"]


def test_video_to_pattern_and_back(tmp_path: Path) -> None:
    frames = [Frame(moving_picture(i, 64, 48)) for i in range(3)]
    for index, frame in enumerate(frames):
        save(tmp_path / f"{index}.png", frame.image)
    video = through(tmp_path, tmp_path / "out.mp4")
    assert len(read(video.path).frames) == 3
    source = open_source(str(video.path))
    (tmp_path / "frames").mkdir()
    sink = open_sink(str(tmp_path / "frames" / "f_%03d.jpg"), source)
    for frame in source:
        sink.write(frame)
    assert sink.finish() == tmp_path / "frames"
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == ["f_001.jpg", "f_002.jpg", "f_003.jpg"]


def test_refusals(tmp_path: Path) -> None:
    source = ImageSource("x", [save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8)), tmp_path / "a.png"])
    for output, reason in (
        ("out.png", "one image"),
        ("a.png", "input itself"),
        (".", "input itself"),
        ("o.bmp", r"\.png"),
    ):
        with pytest.raises(SinkError, match=reason):
            open_sink(str(tmp_path / output), source, overwrite=True)


def test_existing_image_is_kept(tmp_path: Path) -> None:
    source = open_source(str(save(tmp_path / "in.png", np.zeros((8, 8, 3), np.uint8))))
    (tmp_path / "out.png").write_bytes(b"precious")
    with pytest.raises(SinkError, match="exists"):
        open_sink(str(tmp_path / "out.png"), source)


def test_no_two_images_are_written_to_one_file(tmp_path: Path) -> None:
    names = ["a.bmp", "a.png", "a.jpg", "a.tif", "a.webp", "b.bmp", "b.tif"]
    (tmp_path / "in").mkdir()
    for value, name in enumerate(names):
        cv2.imwrite(str(tmp_path / "in" / name), np.full((16, 16, 3), value, np.uint8))
    source = ImageSource("in", [tmp_path / "in" / name for name in names])
    sink = ImageFolderSink(tmp_path / "out")
    for frame in source:
        sink.write(frame)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("a.bmp.png", "a.png", "a.jpg", "a.tif.png", "a.webp", "b.png", "b.tif.png")
    }


def test_an_image_that_cannot_be_written_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    sink = ImageFolderSink(tmp_path)
    for name, width in (("folder.png", 8), ("wide.webp", 16384), ("good.png", 8)):
        sink.write(Frame(image=np.zeros((8, width, 3), np.uint8), name=name))
    assert (tmp_path / "good.png").is_file()
    assert sink.finish() == tmp_path
    assert sink.missing == 2
    assert "folder.png" in sink.warnings[0]
    assert "wide.webp" in sink.warnings[1]
