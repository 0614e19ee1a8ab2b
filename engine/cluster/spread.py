"""Jobs on a cluster: workers make the parts of each, which then runs as ever and takes all packets from them."""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import itertools
import logging
import sys
import time
from pathlib import Path

import numpy as np

from engine.cluster.cluster import Cluster, Task
from engine.cluster.worker import Order
from engine.device import host_image
from engine.errors import ClusterError, EngineError
from engine.files import sha256
from engine.jobs import JobRunner, OpenJob
from engine.part_files import MadePart
from engine.parts import Parts, identity_of
from engine.report import ProgressBar
from engine.styles import DEFAULT_STYLE, locate_generator
from engine.video import FileSource
from engine.video.frame_index import FrameIndex, IrregularError, index_frames, index_packets
from engine.video.locations import output_stem

logger = logging.getLogger("streamgan")

SENT_BYTES = 64 << 20
"""Sources up to this size are sent to workers that can't read them."""

# Seconds between looks at Ctrl-C and at nodes that have come, while workers work.
_STEP_SECONDS = 0.5


class SpreadRunner:
    """Runs jobs as `JobRunner` does, but has their frames translated by the workers of a cluster.

    Args:
        jobs: the sources, in the order in which `run` is called. Later ones are begun where workers would have to wait.

    Raises:
        ClusterError: Ray is not installed, there is no such cluster, or the options don't go with one.
    """

    def __init__(self, options: argparse.Namespace, runner: JobRunner, jobs: list[str]) -> None:
        shows = options.show or options.virtual_camera or options.benchmark
        if options.hwaccel == "cuda" or options.part_seconds == 0 or shows:
            raise ClusterError(
                "--cluster keeps parts: it goes without --hwaccel cuda, --part-seconds 0, --show, --benchmark and "
                "--virtual-camera"
            )
        self._options = options
        self._runner = runner
        self._cluster = Cluster(
            options.cluster, threads=options.threads, use_gpus=not str(options.device).startswith("cpu")
        )
        self._upcoming = collections.deque(jobs)
        self._begun: collections.deque[_SpreadJob | EngineError | None] = collections.deque()
        self._names: list[str] = []  # of those in `_begun`

    def __enter__(self) -> SpreadRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        for begun in self._begun:
            if isinstance(begun, _SpreadJob):
                begun.give_up()
        self._cluster.close()

    def run(self, job: str) -> None:
        """As `JobRunner.run`."""
        if not self._begun:
            self._begin_next()
        begun = self._begun[0]
        try:
            if isinstance(begun, EngineError):
                raise begun
            if begun is not None:
                self._wait_for(begun)
        except EngineError:
            self._forget_first()
            if isinstance(begun, _SpreadJob):
                begun.give_up()
            raise
        self._forget_first()
        if begun is not None:
            begun.spare_decoding()
            self._runner.translate(begun.opened)

    def _forget_first(self) -> None:
        self._begun.popleft()
        self._names.pop(0)

    def _wait_for(self, job: _SpreadJob) -> None:
        start, done_before = time.monotonic(), job.frames_done
        with ProgressBar(job.frame_count, initial=done_before, is_bursty=True, disable=self._options.quiet) as bar:
            while not job.is_complete:
                while self._wants_more() and self._begin_next():
                    pass
                self._cluster.step(_STEP_SECONDS)
                job.check()
                bar.show_count(job.frames_done, f"{self._cluster.worker_count} workers")
        seconds, frames = time.monotonic() - start, job.frames_done - done_before
        if frames and not self._options.quiet:
            rate = f"{frames / seconds:.1f} fps" if seconds else ""
            print(
                f"{frames} frames by {self._cluster.worker_count} workers in {seconds:.1f} s, {rate}", file=sys.stderr
            )

    def _wants_more(self) -> bool:
        """Whether workers would have to wait while the first job is joined."""
        if not self._upcoming or self._cluster.waiting_count > self._cluster.worker_count:
            return False
        return output_stem(self._upcoming[0]).name not in self._names  # those may have the same output

    def _begin_next(self) -> bool:
        job = self._upcoming.popleft()
        self._names.append(output_stem(job).name)
        try:
            opened = self._runner.open(job)
            self._begun.append(_SpreadJob(opened, self._options, self._runner, self._cluster) if opened else None)
        except EngineError as error:  # raised when it is its turn
            self._begun.append(error)
        return True


class _SpreadJob:
    """A job whose parts are being made.

    Attributes:
        opened: the job.
        frame_count: of its output.
        frames_done: frames that are in parts.
    """

    _numbers = itertools.count()

    def __init__(self, opened: OpenJob, options: argparse.Namespace, runner: JobRunner, cluster: Cluster) -> None:
        self.opened = opened
        self._options = options
        self._runner = runner
        self._cluster = cluster
        self._error: EngineError | None = None
        self._tasks: list[Task] = []
        self._image: np.ndarray | None = None  # of the source, one from which an engine can be chosen
        try:
            self._parts = self._parts_of(opened)
            self._all_is_plain = self._parts.frame_count == 0
            self._begin()
        except BaseException:
            self.give_up()
            raise

    @property
    def frames_done(self) -> int:
        return self._parts.frame_count

    @property
    def is_complete(self) -> bool:
        return self.frames_done >= self.frame_count

    def check(self) -> None:
        """Raises what makes the job impossible; begins it again where its frames are not what they seemed to be."""
        error, self._error = self._error, None
        if isinstance(error, IrregularError) and self._index.keyframes:
            logger.warning("%s: it is damaged, so all workers decode it from its beginning", error)
            self._cluster.drop(self._tasks)
            self._parts.drop(is_counted=True)
            self._begin()
        elif error is not None:
            raise error

    def spare_decoding(self) -> None:
        """Lets the job take its frames from the parts without decoding the source, if workers have seen all of it.

        If they have seen something that is to be said of its pictures, that is found and counted again.
        """
        source = self.opened.source
        if self._image is not None and self._index.keyframes and self._all_is_plain:
            assert isinstance(source, FileSource)
            source.leave_undecoded(self._index, self._image)

    def give_up(self) -> None:
        """Closes what is open; parts stay."""
        self._cluster.drop(self._tasks)
        self.opened.sink.abort()
        self.opened.source.close()

    @staticmethod
    def _parts_of(opened: OpenJob) -> Parts:
        if opened.parts is None or not isinstance(opened.source, FileSource):
            raise ClusterError(f"{opened.name}: only video files that become video files are spread over a cluster")
        return opened.parts

    def _begin(self) -> None:
        """Submits the parts that are missing."""
        source = self.opened.source
        assert isinstance(source, FileSource)
        assert source.info.time_base is not None
        self._index = self._indexed(source)
        self.frame_count = min(len(self._index.timestamps), self._options.frames or sys.maxsize)
        missing = self._parts.missing(self.frame_count)
        if not missing:
            return
        orders = self._orders()
        excluded: set[object] = set()
        self._tasks = [
            Task(orders, *part, self._parts_add, self._fail, excluded)
            for gap in missing
            for part in self._index.cut(*gap, seconds=self._parts.seconds, time_base=source.info.time_base)
        ]
        for task in self._tasks:
            self._cluster.submit(task)

    def _indexed(self, source: FileSource) -> FrameIndex:
        index = None if self._parts.is_counted else index_packets(source.info.name, source.media.stream_index)
        if index is not None:
            return index
        with contextlib.closing(self._runner.open_source(self.opened.name)) as again:
            assert isinstance(again, FileSource)
            return index_frames(again.timestamps())

    def _orders(self) -> dict[bool, object]:
        """What workers with and without a GPU are told of the job."""
        source, style = Path(self.opened.name).absolute(), (self._options.style or [DEFAULT_STYLE])[0]
        checkpoint = locate_generator(style)
        options = copy.copy(self._options)
        options.precision = self._precision()
        options.style = [str(checkpoint.absolute()) if Path(style).exists() else style]
        options.device = "cuda"  # Ray shows each worker its own
        on_cpu = copy.copy(options)
        on_cpu.device = "cpu"
        content = None
        if source.stat().st_size <= SENT_BYTES:
            content = self._cluster.put(source.read_bytes())
        assert self.opened.output is not None
        return {
            has_gpu: self._cluster.put(
                Order(
                    next(self._numbers),
                    options if has_gpu else on_cpu,
                    str(source),
                    identity_of(source),
                    sha256(checkpoint),
                    self.opened.output,
                    self._index,
                    content,
                )
            )
            for has_gpu in (False, True)
        }

    def _precision(self) -> str:
        """That of the engine which translates here: all workers take it, each in its own fastest engine."""
        with contextlib.closing(self._runner.open_source(self.opened.name)) as source:
            translator = self._runner.translator_for(source.info)
            for frame in source:
                ran = translator.engine_for(frame.image)
                if not ran.is_stand_in:
                    self._image = host_image(frame.image)
                    self._parts.choose_engine(ran.fingerprint, ran.frame_ms / 1e3)
                    return ran.precision
        return "fp32"

    def _parts_add(self, made: MadePart) -> None:
        self._all_is_plain &= not made.has_notes
        try:
            self._parts.add(made)
        except EngineError as error:
            self._error = error

    def _fail(self, error: EngineError) -> None:
        self._error = error
