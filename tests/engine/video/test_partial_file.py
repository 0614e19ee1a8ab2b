"""Unfinished outputs have names of their own."""

from __future__ import annotations

from pathlib import Path

from engine.video.partial_file import PartialFile


def test_a_partial_file_is_never_replaced_by_a_shorter_one(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        file = PartialFile(tmp_path / "out.mp4", overwrite=False)
        file.part.write_bytes(b"x")
        names.append(file.keep_partial().name)
    assert names == ["out.partial.mp4", "out.partial-2.mp4"]


def test_a_name_taken_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    file = PartialFile(tmp_path / "out.mp4", overwrite=False)
    file.part.write_bytes(b"mine")
    (tmp_path / "out.mp4").write_bytes(b"another's")
    assert file.complete() == tmp_path / "out-2.mp4"
    assert (tmp_path / "out.mp4").read_bytes() == b"another's"
