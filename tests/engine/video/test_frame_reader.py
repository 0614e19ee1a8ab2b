"""Frames by number equal those that reading from the beginning gives."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import SourceError
from engine.video import Frame
from engine.video.demuxer import Demuxer
from engine.video.file_source import FileSource
from engine.video.frame_index import FrameIndex, IrregularError, index_frames, index_packets
from tests.media import make_video

EVEN = [512 * i for i in range(120)]

COUNTED = ("times that repeat.mkv", "broadcast.ts", "old.avi")
"""Decoding always begins at the first frame of these."""

FILMS: dict[str, dict[str, Any]] = {
    "open groups.mkv": {"options": {"bf": "3", "x264-params": "open-gop=1:keyint=20"}},
    "open groups.mp4": {"options": {"bf": "3", "x264-params": "open-gop=1:keyint=20"}},
    "open groups of HEVC.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=20:open-gop=1:log-level=none"},
    },
    "intra refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=20"}},
    "interlaced.mp4": {"options": {"x264-params": "interlaced=1:keyint=20"}},
    "late.mp4": {"pts": [12800 + pts for pts in EVEN], "options": {"g": "12"}},
    "uneven.mkv": {"pts": [512 * (i + i // 7 * 3) + i % 3 for i in range(120)], "options": {"g": "20"}},
    "times that repeat.mkv": {"pts": [512 * (i + (i % 3) // 2) for i in range(120)], "options": {"g": "20"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "20"}},
    "pictures.mov": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "broadcast.ts": {"options": {"g": "12"}},
    "old.avi": {"codec": "mpeg4", "options": {"g": "12"}},
}


def assert_same(frames: list[Frame], expected: list[Frame]) -> None:
    assert [frame.pts for frame in frames] == [frame.pts for frame in expected]
    for frame, other in zip(frames, expected, strict=True):
        assert np.array_equal(frame.image, other.image)


@pytest.mark.parametrize("name", FILMS)
def test_any_frames_can_be_read(name: str, tmp_path: Path) -> None:
    path = make_video(tmp_path / name, size=(128, 80), **{"pts": EVEN, **FILMS[name]})
    whole = list(FileSource(str(path)))
    index = index_packets(str(path), 0)
    ranges = [(0, 20), (20, 40), (70, 90), (119, 120), (45, 60), (20, 21), (21, 70), (0, 120)]
    if name in COUNTED:
        assert index is None
        index = index_frames(FileSource(str(path)).timestamps())
        ranges = [(0, 20), (20, 40), (50, 60), (61, 120)]
    assert index is not None
    assert index.timestamps == [frame.pts for frame in whole]
    if name not in COUNTED:
        undecoded = FileSource(str(path))
        undecoded.leave_undecoded(index, whole[0].image)
        shown = [(frame.pts, frame.duration) for frame in undecoded]
        assert shown == [(frame.pts, frame.duration) for frame in whole]
    source = FileSource(str(path))
    for first, end in ranges:
        assert_same(list(source.read(index, first, end)), whole[first:end])
    source.close()


def test_frames_cannot_be_read_again_without_key_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "old.avi", pts=EVEN, codec="mpeg4")
    index = index_frames(FileSource(str(path)).timestamps())
    source = FileSource(str(path))
    assert len(list(source.read(index, 0, 50))) == 50
    with pytest.raises(SourceError, match="frame 20 is asked for after frame"):
        list(source.read(index, 20, 30))


def test_decoding_begins_at_the_last_key_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "film.mp4", pts=EVEN, options={"x264-params": "keyint=20:scenecut=0"})
    index = index_packets(str(path), 0)
    assert index is not None
    assert index.keyframes == [0, 20, 40, 60, 80, 100]
    source = FileSource(str(path))
    assert len(list(source.read(index, 0, 20))) == 20
    sought: list[Fraction] = []
    seek = Demuxer.seek
    monkeypatch.setattr(Demuxer, "seek", lambda demuxer, seconds: sought.append(seconds) or seek(demuxer, seconds))
    for first, end in [(20, 40), (40, 50), (90, 95), (95, 100), (60, 61)]:
        list(source.read(index, first, end))
    assert sought == [Fraction(80, 25), Fraction(60, 25)]  # else it reads on


def test_an_index_of_other_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mp4", pts=EVEN, options={"g": "20"})
    index = index_packets(str(path), 0)
    assert index is not None
    wrong = dataclasses.replace(index, timestamps=[pts + (pts > 512 * 50) for pts in index.timestamps])
    source = FileSource(str(path))
    with pytest.raises(IrregularError, match="frame 51 can't be decoded"):
        list(source.read(wrong, 45, 60))
    longer = dataclasses.replace(index, timestamps=[*index.timestamps, 512 * 120])
    with pytest.raises(IrregularError, match="ends before frame 120"):
        list(FileSource(str(path)).read(longer, 110, 121))


def test_parts_end_at_key_frames() -> None:
    """Where there is one between three and five quarters of the length; else after five quarters."""
    index = FrameIndex(list(range(100)), [1] * 100, [0, 5, 9, 14, 31, 60])
    cut = list(index.cut(0, 100, seconds=10.0, time_base=Fraction(1)))
    assert cut == [(0, 9), (9, 22), (22, 31), (31, 44), (44, 57), (57, 70), (70, 83), (83, 96), (96, 100)]
    assert list(index.cut(22, 60, seconds=10.0, time_base=Fraction(1)))[:2] == [(22, 31), (31, 44)]
    assert list(index.cut(99, 100, seconds=10.0, time_base=Fraction(1))) == [(99, 100)]
    still = FrameIndex([0, 1, 500, 501], [1] * 4, [0])
    assert list(still.cut(0, 4, seconds=10.0, time_base=Fraction(1))) == [(0, 2), (2, 4)]
