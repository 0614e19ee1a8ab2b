"""A worker, without a cluster: what it makes, and what it lacks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from engine.cluster import worker as worker_module
from engine.cluster.worker import Order, Worker, versions
from engine.errors import BackendError, CheckpointError, SourceError
from engine.files import sha256
from engine.jobs import JobRunner
from engine.parts import identity_of
from engine.run import build_parser
from engine.video.frame_index import FrameIndex, index_packets

_numbers = itertools.count()


def order(film: Path, style: Path, tmp_path: Path, **changes: object) -> Order:
    options = build_parser().parse_args([str(film), "--style", str(style), "--precision", "fp32", "--cluster", "auto"])
    index = index_packets(str(film), 0)
    assert index is not None
    values = {
        "number": next(_numbers),
        "options": options,
        "source": str(film),
        "source_identity": identity_of(film),
        "checkpoint_sha256": sha256(style),
        "output": tmp_path / "out.mp4",
        "index": index,
        "content": None,
    }
    return Order(**{**values, **changes})  # type: ignore[arg-type]


def test_parts_do_not_depend_on_what_was_made_before(film: Path, style: Path, tmp_path: Path) -> None:
    worker, wanted = Worker(), order(film, style, tmp_path)
    forward = {first: worker.make(wanted, first, first + 20) for first in (0, 20, 60)}
    other = Worker()
    backward = {first: other.make(wanted, first, first + 20) for first in (60, 20, 0)}
    assert forward == backward
    assert [(part.first, part.end, part.picture) for part in forward.values()] == [
        (first, first + 20, (80, 128)) for first in forward
    ]


def test_the_generator_stays_loaded(film: Path, style: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Runner(JobRunner):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            loaded.append(self)
            super().__init__(*arguments, **named)

    monkeypatch.setattr(worker_module, "JobRunner", Runner)
    worker = Worker()
    for wanted in (order(film, style, tmp_path), order(film, style, tmp_path)):
        worker.make(wanted, 0, 5)
        worker.make(wanted, 5, 10)
    assert len(loaded) == 1


def test_a_checkpoint_that_is_not_there(film: Path, style: Path, tmp_path: Path) -> None:
    wanted = order(film, style, tmp_path)
    wanted.options.style = [str(tmp_path / "missing.pth")]
    with pytest.raises(CheckpointError, match=r"missing.pth is not there: put it where all machines see it$"):
        Worker().make(wanted, 0, 5)


def test_another_checkpoint(film: Path, style: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is another one than the driver's"):
        Worker().make(order(film, style, tmp_path, checkpoint_sha256="0"), 0, 5)


@pytest.mark.parametrize("changes", [{"source": "/nowhere/film.mp4"}, {"source_identity": "another"}])
def test_a_source_that_is_not_there(changes: dict[str, str], film: Path, style: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="can't be read there, or is another file"):
        Worker().make(order(film, style, tmp_path, **changes), 0, 5)


def test_another_version() -> None:
    worker = Worker()
    worker.greet(versions())
    with pytest.raises(BackendError, match=r"it has PyAV .*, not 1.0: install the same version"):
        worker.greet({**versions(), "PyAV": "1.0"})


def test_a_worker_goes_on_after_an_error(film: Path, style: Path, tmp_path: Path) -> None:
    worker, wanted = Worker(), order(film, style, tmp_path)
    with pytest.raises(SourceError):
        worker.make(order(film, style, tmp_path, index=FrameIndex([1, 2, 3], [1] * 3, [0])), 0, 3)
    assert worker.make(wanted, 20, 30).end == 30
