"""Rotated and mirrored files arrive upright, and leave without a display matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.video import open_source
from engine.video.orientation import Orientation, orientation_of
from tests.engine.video.through import through
from tests.media import make_video, read

CORNERS = np.array([[10, 80], [150, 230]], np.uint8)  # top left, top right; bottom left, bottom right


def corners_frame(width: int = 64, height: int = 32) -> np.ndarray:
    grey = CORNERS.repeat(height // 2, 0).repeat(width // 2, 1)
    return np.repeat(grey[..., None], 3, -1)


def corners_of(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return image[height // 4 :: height // 2, width // 4 :: width // 2].mean(-1)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(("horizontal", "vertical"), [(False, False), (True, False), (False, True)])
def test_upright(tmp_path: Path, degrees: int, horizontal: bool, vertical: bool) -> None:
    import av

    frame = av.VideoFrame.from_ndarray(corners_frame(), "bgr24").reformat(format="yuv420p")
    source = make_video(
        tmp_path / "in.mp4", pts=[0, 512], size=(64, 32), frames=[frame], rotation=(degrees, horizontal, vertical)
    )
    # PyAV's angle is counter-clockwise, as numpy's; it mirrors after the rotation.
    expected = np.rot90(CORNERS, degrees // 90)
    expected = expected[:, ::-1] if horizontal else expected
    expected = expected[::-1] if vertical else expected
    opened = open_source(str(source))
    (first, *_) = opened
    assert np.abs(corners_of(first.image) - expected).max() < 6
    assert first.image.shape[:2] == (opened.info.height, opened.info.width)
    assert first.image.flags.c_contiguous
    contents = through(source, tmp_path / "out.mp4").contents
    assert contents.size == ((32, 64) if degrees % 180 else (64, 32))
    assert contents.frames[0].rotation == 0
    assert "DISPLAYMATRIX" not in {side.type.name for side in contents.frames[0].side_data}
    assert np.abs(corners_of(contents.image()) - expected).max() < 6


def test_agrees_with_ffmpegs_own_angle(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", rotation=(90, False, False))
    assert read(source).frames[0].rotation == 90


def test_an_odd_angle_is_left_out_with_a_warning(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mp4", rotation=(30, False, False))
    result = through(source, tmp_path / "out.mp4")
    assert result.contents.size == (64, 48)
    assert any("rotation" in line for line in result.warnings)


def test_identity_matrix() -> None:
    identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], np.int32)
    assert orientation_of(identity.tobytes()) == Orientation()
