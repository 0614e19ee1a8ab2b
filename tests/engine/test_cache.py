"""The cache of engines: keys, atomic writing, damage, races, the limit, and who may write to it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from engine.cache import EngineCache, Entry, default_folder, main
from engine.errors import BackendError

OF = {"backend": "aoti", "precision": "bf16", "size": "64x48", "generator": "ab" * 32, "architecture": "ResNet"}
BY = {"torch": "2.13.0", "device": "some processor"}


def write(content: bytes = b"machine code") -> Any:
    def write_files(path: Path) -> dict[str, Any]:
        path.write_bytes(content)
        path.with_suffix(".bin").write_bytes(b"weights")
        return {"layers": 3}

    return write_files


def added(cache: EngineCache, content: bytes = b"machine code", **changes: str) -> Entry:
    return cache.add({**OF, **changes}, BY, "engine.pt2", write(content))


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_what_was_added_is_found(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.find(OF, BY) is None
    assert not cache.has(OF, BY)
    added(cache)
    found = cache.find(dict(reversed(OF.items())), BY)
    assert found is not None
    assert (found.folder / found.main).read_bytes() == b"machine code"
    assert set(found.files) == {"engine.pt2", "engine.bin"}
    assert (found.of, found.made_by, found.facts) == (OF, BY, {"layers": 3})
    assert found.size_bytes == len(b"machine codeweights")
    assert cache.has(OF, BY)
    assert not caplog.records


@pytest.mark.parametrize("field", OF)
def test_another_key_is_another_engine(cache: EngineCache, field: str) -> None:
    added(cache)
    assert cache.find({**OF, field: "other"}, BY) is None


def test_another_version_is_told(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    added(cache)
    assert cache.find(OF, {**BY, "torch": "2.14.0"}) is None
    assert caplog.messages == ["the cached aoti engine was made by torch 2.13.0: it is built again"]


def test_the_folder_is_for_its_owner_alone(cache: EngineCache) -> None:
    added(cache)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    cache.folder.chmod(0o777)
    assert cache.find(OF, BY) is not None
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_a_folder_of_someone_else_is_not_used(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    added(cache)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert cache.find(OF, BY) is None
    with pytest.raises(BackendError, match="belongs to another user"):
        added(cache)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "empty description", "foreign description"])
def test_damage_is_told_and_removed(cache: EngineCache, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    entry = added(cache)
    main_file, description = entry.folder / entry.main, entry.folder / "entry.json"
    if damage == "truncated":
        main_file.write_bytes(b"machine")
    elif damage == "changed":
        main_file.write_bytes(b"machine c0de")
    elif damage == "missing":
        (entry.folder / "engine.bin").unlink()
    elif damage == "empty description":
        description.write_text("")
    else:
        description.write_text(json.dumps({"format": 1, "files": {"../../x": "0"}, "main": "../../x"}))
    assert cache.find(OF, BY) is None
    assert len(caplog.messages) == 1
    assert "the cached aoti engine is built again" in caplog.text
    assert not entry.folder.exists()
    added(cache)
    assert cache.find(OF, BY) is not None


def test_a_full_disk_leaves_nothing(cache: EngineCache) -> None:
    def fill(path: Path) -> dict[str, Any]:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BackendError, match=r"can't be kept in .*: No space left on device"):
        cache.add(OF, BY, "engine.pt2", fill)
    assert list(cache.folder.iterdir()) == []
    assert cache.find(OF, BY) is None


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = EngineCache(tmp_path / "file" / "engines")
    with pytest.raises(BackendError, match="the engine can't be kept in"):
        added(cache)
    cache.keep_note(OF, BY, 1)
    assert cache.note(OF, BY) is None


def test_the_first_of_two_builds_stays(cache: EngineCache) -> None:
    def slow(path: Path) -> dict[str, Any]:
        added(cache, b"the first")
        return dict(write(b"the second")(path))

    entry = cache.add(OF, BY, "engine.pt2", slow)
    assert (entry.folder / entry.main).read_bytes() == b"the first"
    assert len(list(cache.folder.iterdir())) == 1


def test_processes_that_build_at_once_leave_whole_engines(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    builders = [context.Process(target=_build_many, args=(tmp_path / "engines", number)) for number in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    cache = EngineCache(tmp_path / "engines")
    found = cache.find(OF, BY)
    assert found is not None
    held = (found.folder / found.main).read_bytes()
    assert held == held[:1] * 100_000
    assert len(list(cache.folder.iterdir())) == 1


def _build_many(folder: Path, number: int) -> None:
    for _ in range(20):
        entry = EngineCache(folder).add(OF, BY, "engine.pt2", write(bytes([number]) * 100_000))
        held = (entry.folder / entry.main).read_bytes()
        assert held == held[:1] * 100_000


def test_what_a_killed_build_left_is_removed_in_time(cache: EngineCache) -> None:
    added(cache)
    old, new = cache.folder / "0123.abc.part", cache.folder / "4567.abc.part"
    for part in (old, new):
        part.mkdir()
        (part / "engine.pt2").write_bytes(b"half")
    os.utime(old, (time.time() - 86400,) * 2)
    assert len(cache.entries()) == 1
    added(cache, size="1x1")
    assert not old.exists()
    assert new.exists()


def test_the_engine_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines", limit_bytes=2500)
    for place, size in enumerate(("1x1", "2x2")):
        entry = added(cache, bytes(1000), size=size)
        os.utime(entry.folder / "entry.json", (1000 + place, 1000 + place))
    assert cache.find({**OF, "size": "1x1"}, BY) is not None  # which is a use
    added(cache, bytes(1000), size="3x3")
    assert {entry.of["size"] for entry in cache.entries()} == {"1x1", "3x3"}
    added(cache, bytes(5000), size="4x4")  # larger than the limit: kept as long as it is the newest
    assert {entry.of["size"] for entry in cache.entries()} == {"4x4"}


def test_notes(cache: EngineCache) -> None:
    assert cache.note(OF, BY) is None
    cache.keep_note(OF, BY, {"backend": "fused"})
    assert cache.note(OF, BY) == {"backend": "fused"}
    assert cache.note({**OF, "size": "other"}, BY) is None
    next(cache.folder.glob("*.json")).write_text("{")
    assert cache.note(OF, BY) is None


def test_the_command_lists_and_clears(engine_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert default_folder() == engine_cache
    assert main(["list"]) == 0
    assert "0 engine(s), 0.0 MiB of at most 4 GiB" in capsys.readouterr().out
    added(EngineCache())
    EngineCache().keep_note(OF, BY, 1)
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "aoti  bf16  64x48  ResNet  weights abababababab" in listed
    assert "1 engine(s)" in listed
    assert main(["clear"]) == 0
    assert "1 engine(s) removed" in capsys.readouterr().out
    assert list(engine_cache.iterdir()) == []


@pytest.mark.parametrize("limit", ["much", "-1", "nan"])
def test_a_limit_that_is_none_is_one_line(
    limit: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMGAN_CACHE_GIB", limit)
    assert main(["list"]) == 1
    assert "a number of GiB is accepted" in capsys.readouterr().err
