"""What is remembered and is damaged, changed or out of reach is made anew, and nothing wrong is shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.cache import EngineCache
from engine.choosing import remembered
from engine.choosing.request import Request
from engine.errors import CheckpointError, EngineError, FrameSizeError
from engine.files import sha256
from tests.engine.choosing.runs import SIZE, Run, frame, loads, saved


def test_another_checkpoint_under_the_same_name(style: Path) -> None:
    expected = Run(style)(frame())
    saved(style, seed=1)
    second = Run(style)
    assert second.loads == 1
    assert not np.array_equal(second(frame()), expected)


def test_a_checkpoint_that_changes_while_it_is_loaded_is_not_kept(style: Path) -> None:
    first = Run(style)
    saved(style, seed=1)
    first(frame())
    assert EngineCache().entries() == []


def test_other_kernels_prove_anew(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(style)(frame())
    monkeypatch.setattr(remembered, "kernel_facts", lambda: {"kernels": "others", "isa": "scalar"})
    assert loads(style) == 1


def test_damaged_weights_are_made_anew(style: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = Run(style)(frame())
    (entry,) = EngineCache().entries()
    content = bytearray((entry.folder / entry.main).read_bytes())
    content[-1] ^= 1
    (entry.folder / entry.main).write_bytes(content)
    second = Run(style)
    np.testing.assert_array_equal(second(frame()), expected)
    assert second.loads == 1
    assert "the cached fused engine is built again" in caplog.text
    assert loads(style) == 0


def engine_note() -> Path:
    """The one note of an engine; beside it lies one of the generator's scale."""
    (note,) = (path for path in EngineCache().folder.glob("*.json") if isinstance(json.loads(path.read_text()), dict))
    return note


@pytest.mark.parametrize(
    "damage",
    [
        {"runner": {}},
        {"runner": {"weights": "x"}},
        {"runner": 1},
        {"reference": 1},
        {"precision": None},
        {"threads": "x"},
        {"frame_ms": "x"},
        {"versions": None},
    ],
)
def test_a_damaged_note(style: Path, damage: dict[str, object]) -> None:
    Run(style)(frame())
    note = engine_note()
    note.write_text(json.dumps({**json.loads(note.read_text()), **damage}))
    assert loads(style) == 1


def test_a_cache_that_cant_be_written_to(style: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMGAN_CACHE", str(tmp_path / "file" / "cache"))
    Run(style)(frame())
    assert Run(style)(frame()).shape == (*SIZE, 3)


@pytest.mark.parametrize("error", [ImportError("not built"), ValueError("STREAMGAN_ISA is 'mmx'")])
def test_kernels_that_cant_be_used_are_no_error_here(
    style: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As where nothing has been built, and eager runs."""

    def build() -> dict[str, str]:
        raise error

    monkeypatch.setattr(remembered, "kernel_facts", build)
    for backend in ("fused", "eager"):
        first = Run(style, backend=backend)
        assert first(frame()).shape == (*SIZE, 3)
        assert first.loads == 1
    assert EngineCache().entries() == []


def test_no_memory_is_told(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(style)(frame())
    monkeypatch.setattr(remembered.memory, "available_bytes", lambda device: 1000)
    with pytest.raises(FrameSizeError, match="use smaller frames"):
        Run(style)(frame())


def test_no_such_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Run(tmp_path / "none.pth")


def test_what_is_no_frame(style: Path) -> None:
    Run(style)(frame())
    with pytest.raises(EngineError, match="uint8"):
        Run(style).translator(np.zeros((4, 4, 3)))


def test_weights_that_were_packed_otherwise_are_kept_apart(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by another version of the packing: no program runs on weights that it was not written for."""
    Run(style)(frame())
    note = engine_note()
    values = json.loads(note.read_text())
    values["runner"]["weights"] = "0" * 64
    note.write_text(json.dumps(values))
    second = Run(style)
    second(frame())
    assert second.loads == 1
    assert loads(style) == 0


def test_other_weights_in_the_place_of_those_that_were_proven(style: Path) -> None:
    """Their own sums are right: another form of the file, say."""
    Run(style)(frame())
    cache, request = EngineCache(), Request(style, precision="fp32")
    found = remembered.start(cache, request, SIZE)
    assert found is not None
    (entry,) = cache.entries()
    path = entry.folder / entry.main
    sums = entry.folder / "entry.json"
    before = sha256(path)
    path.write_bytes(b"header" + path.read_bytes())
    assert before in sums.read_text()
    sums.write_text(sums.read_text().replace(before, sha256(path)))
    assert cache.entries()[0].files[entry.main] == sha256(path)
    assert remembered.start(cache, request, SIZE) is None
