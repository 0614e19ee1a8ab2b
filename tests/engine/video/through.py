"""Sends a source through to a sink untouched."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from engine.video import Sink, Source, TimeRange, open_sink, open_source
from tests.media import Contents, read


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out."""

    path: Path
    source: Source
    sink: Sink
    frames: int

    @property
    def contents(self) -> Contents:
        return read(self.path)

    @property
    def warnings(self) -> list[str]:
        return [*self.source.warnings, *self.sink.warnings]


def through(spec: Path | str, output: Path, *, time_range: TimeRange | None = None, **options: Any) -> Result:
    """Copies every frame of `spec`, or of a range of it, to `output` and finishes it."""
    source = open_source(str(spec), time_range=time_range)
    sink = open_sink(str(output), source, **options)
    frames = 0
    for frame in source:
        sink.write(frame)
        frames += 1
    path = sink.finish()
    assert path == output
    return Result(output, source, sink, frames)
