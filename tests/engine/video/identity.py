"""Sends a source through the whole pipeline, as a run does, with a translator that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.pipeline import Pipeline, Result
from engine.runners.base import RunnerInfo
from engine.video import open_sink, open_source


class Identity:
    """Gives frames back as they are, in a Translator's place; torch isn't imported."""

    uniform_frames = 0
    frames_under_way = 2
    engine: RunnerInfo | None = None

    def engine_for(self, frame: Any) -> RunnerInfo:
        return RunnerInfo("eager", "fp32", frame_ms=1.0)

    def choose_batch(self, frame: Any) -> int:
        return 1

    def submit(self, frames: Any) -> Callable[[], Any]:
        return lambda: frames


def translate(spec: Path | str, output: Path | str, **options: Any) -> Result:
    """Runs `spec` to `output` as `python -m engine.run` does; `options` are those of `open_sink`."""
    source = open_source(str(spec))
    try:
        sink = open_sink(str(output), source, **options)
        return Pipeline(source, Identity(), sink).run()
    finally:
        source.close()
