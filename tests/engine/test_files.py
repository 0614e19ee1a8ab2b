"""Files are complete under their name, or not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engine.files import PART, sha256, written_beside


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    with written_beside(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == tmp_path
        assert part.name.startswith(".")
        assert part.suffix == PART
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def write_half() -> None:
        with written_beside(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_of_a_file_of_several_blocks(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"0123456789abcdef" * (3 << 16))
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
