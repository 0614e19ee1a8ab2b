"""A worker of a cluster: makes parts of videos, with a generator that stays loaded and a source that stays open."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engine
from engine.allocator import keep_freed_memory
from engine.compose import composer
from engine.errors import BackendError, CheckpointError, SourceError
from engine.files import sha256
from engine.jobs import JobRunner
from engine.part_files import MadePart
from engine.parts import identity_of
from engine.stop import StopRequest
from engine.styles import locate_generator
from engine.video import FileSource
from engine.video.base import Frame, Source, SourceInfo
from engine.video.frame_index import FrameIndex
from engine.video.part_sink import PartSink

if TYPE_CHECKING:
    from ray import ObjectRef


@dataclasses.dataclass(frozen=True)
class Order:
    """A video whose parts are to be made.

    Attributes:
        number: tells orders of one driver apart.
        options: of the command line, the precision being decided.
        source: the video's path.
        source_identity: what `identity_of` says of it.
        checkpoint_sha256: of the style's file.
        output: whose parts they are.
        index: of the source's frames.
        content: the source's bytes, for workers that can't read it; None if it is too large to be sent.
    """

    number: int
    options: argparse.Namespace
    source: str
    source_identity: str
    checkpoint_sha256: str
    output: Path
    index: FrameIndex
    content: ObjectRef | None


def versions() -> dict[str, str]:
    """What has to be the same everywhere, so that parts go together."""
    import av

    return {"StreamGAN": engine.__version__, "PyAV": av.__version__}


class Worker:
    """Makes parts, one at a time."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._runner: JobRunner | None = None
        self._options: argparse.Namespace | None = None
        self._opened: _OpenOrder | None = None

    def greet(self, wanted: dict[str, str]) -> None:
        """Raises BackendError if this worker's versions are not those."""
        for name, version in versions().items():
            if version != wanted.get(name):
                raise BackendError(f"it has {name} {version}, not {wanted.get(name)}: install the same version")

    def make(self, order: Order, first: int, end: int) -> MadePart:
        """Makes the part with the frames from `first` to before `end`.

        Raises:
            IrregularError: the source's frames are not those of the order's index.
            EngineError: this worker can't do it.
        """
        try:
            if self._opened is None or self._opened.order.number != order.number or not self._opened.reaches(first):
                self._close()
                self._opened = self._open(order)
            return self._opened.make(first, end)
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.source.close()
            self._opened = None

    def _open(self, order: Order) -> _OpenOrder:
        checkpoint = locate_generator(order.options.style[0])
        if not checkpoint.is_file():
            raise CheckpointError(f"the checkpoint {checkpoint} is not there: put it where all machines see it")
        if sha256(checkpoint) != order.checkpoint_sha256:
            raise CheckpointError(f"the checkpoint {checkpoint} is another one than the driver's")
        if self._runner is None or self._options != order.options:
            self._options = order.options
            self._runner = JobRunner(order.options, StopRequest(), many=False)
        return _OpenOrder(order, self._runner)


class _OpenOrder:
    """A source and an encoder for the parts of one order."""

    def __init__(self, order: Order, runner: JobRunner) -> None:
        self.order = order
        self.source = _open_source(order, runner)
        options = order.options
        self._translator = runner.translator_for(self.source.info)
        self._sink = PartSink(order.output, self.source.info, self.source.media, crf=options.crf, codec=options.codec)
        self._compose = composer(options.strength, options.compare)
        self._batch: int | None = options.batch
        self._end = 0

    def reaches(self, first: int) -> bool:
        """Whether a frame can be read still."""
        return bool(self.order.index.keyframes) or first >= self._end

    def make(self, first: int, end: int) -> MadePart:
        from engine.pipeline import Pipeline

        self._end = end
        self._sink.begin(self.order.index.timestamps[:first])
        frames = _Frames(self.source, self.order.index, first, end)
        pipeline = Pipeline(frames, self._translator, self._sink, batch=self._batch, compose=self._compose)
        result = pipeline.run()
        if result.engine is not None and not result.engine.is_stand_in:
            self._batch = result.batch
        assert self._sink.made is not None
        return dataclasses.replace(self._sink.made, has_notes=bool(self.source.warnings))


class _Frames(Source):
    """Some frames of a source, which stays open."""

    def __init__(self, source: FileSource, index: FrameIndex, first: int, end: int) -> None:
        self.info: SourceInfo = source.info
        self._frames = source.read(index, first, end)

    def __iter__(self) -> Iterator[Frame]:
        return self._frames

    def close(self) -> None:
        return None


def _open_source(order: Order, runner: JobRunner) -> FileSource:
    """Opens the order's source, or a copy of what was sent if this machine can't read it."""
    path = Path(order.source)
    try:
        is_there = identity_of(path) == order.source_identity
    except OSError:
        is_there = False
    if is_there:
        return _as_file(runner.open_source(str(path)))
    if order.content is None:
        raise SourceError(f"{path} can't be read there, or is another file: put it where all machines see it")
    import ray

    with tempfile.TemporaryDirectory() as folder:  # an open file stays readable when its name is gone
        copy = Path(folder) / path.name
        copy.write_bytes(ray.get(order.content))
        return _as_file(runner.open_source(str(copy)))


def _as_file(source: Any) -> FileSource:
    if not isinstance(source, FileSource):
        raise SourceError(f"{source.info.name}: is no video file")
    return source
