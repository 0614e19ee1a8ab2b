"""Decode, translate and encode at the same time: the calling thread translates, two workers feed and drain it.

    source --(decode thread)--> queue --(calling thread)--> translator --> queue --(encode thread)--> sink

The generator runs in the calling thread because that is where it was loaded: OpenMP keeps a pool of workers for every
thread that computes, and with two pools on the same cores each waits for the other (a tenth of the speed, measured).
Queues are short, so memory does not depend on the length of the video, and a live source's latency stays bounded.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from engine import memory
from engine.compose import Compose
from engine.device import host_image
from engine.errors import EngineError, SourceError
from engine.runners.base import RunnerInfo
from engine.steady import Steady
from engine.video.base import Frame, Sink, Source, StopStream

if TYPE_CHECKING:
    from torch import Tensor


# Seconds between looks at the stop event while a thread waits for a neighbour.
_POLL_SECONDS = 0.1

# Frames that may wait between two stages of a file: enough to smooth their times, little enough for memory.
_QUEUE_FRAMES = 4

# Measuring batches costs about 20 frames' time, so it is left out for fewer frames than this.
_LONG_FRAMES = 300

# Latencies are kept of this many frames, the latest.
_LATENCIES = 10_000

# How long to wait at the end for a decoder that hangs in a read, from a network say.
_JOIN_SECONDS = 5.0

_Item = TypeVar("_Item")

# A frame, and the moment (`time.perf_counter()`) from which its latency counts.
_Timed = tuple[Frame, float]


@dataclasses.dataclass
class StageTime:
    """Time that one stage spent working, waits for its neighbours left out."""

    busy_seconds: float = 0.0
    frames: int = 0

    def add(self, seconds: float, frames: int = 1) -> None:
        self.busy_seconds += seconds
        self.frames += frames

    @property
    def ms_per_frame(self) -> float:
        return 1e3 * self.busy_seconds / self.frames if self.frames else 0.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a running pipeline stands."""

    frames: int
    stages: dict[str, StageTime]

    @property
    def slowest_stage(self) -> str:
        return max(self.stages, key=lambda name: self.stages[name].ms_per_frame)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a pipeline did.

    Attributes:
        output: what was written; None if nothing is kept.
        completed: the source was translated to its end; False if it was stopped.
        frames: frames written.
        seconds: from the start of decoding to the closed output, the choice of an engine included.
        steady_fps: frames per second after the first frame, which carries the start-up.
        stage_ms: working time per frame of each stage.
        latency_ms: p50, p95 and p99 of the time from a decoded (live: captured) frame to the written one, last 10,000.
        batch: frames per call of the generator.
        engine: what ran the generator, at last; None if there was no frame.
        peak_memory_bytes: largest resident memory of the process.
        warnings: what the source skipped and the sink could not keep.
    """

    output: Path | None
    completed: bool
    frames: int
    seconds: float
    steady_fps: float
    stage_ms: dict[str, float]
    latency_ms: dict[str, float]
    batch: int
    engine: RunnerInfo | None
    peak_memory_bytes: int
    warnings: list[str]


@dataclasses.dataclass(frozen=True)
class _Submission:
    """Frames that are being translated: what waits for the result, and the seconds that handing them over took."""

    batch: list[_Timed]
    result: Callable[[], np.ndarray | Tensor]
    seconds: float


class _Stopped(Exception):  # noqa: N818 (a request, not an error)
    """Unwinds a worker thread whose pipeline has been stopped."""


class _Channel(Generic[_Item]):
    """A bounded queue between two threads that ends, and that wakes up when the pipeline is stopped."""

    _END = object()

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[object] = queue.Queue(size)
        self._stop = stop

    def put(self, item: _Item | object) -> None:
        while True:
            if self._stop.is_set():
                raise _Stopped
            try:
                return self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def put_all(self, items: Iterable[_Item]) -> None:
        for item in items:
            self.put(item)

    def end(self) -> None:
        self.put(self._END)

    def __iter__(self) -> Iterator[_Item]:
        while True:
            if self._stop.is_set():
                raise _Stopped
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if item is self._END:
                return
            yield item  # type: ignore[misc]


class FrameTranslator(Protocol):
    """What a pipeline needs of `engine.Translator`, which documents it."""

    @property
    def uniform_frames(self) -> int: ...

    @property
    def engine(self) -> RunnerInfo | None: ...

    @property
    def frames_under_way(self) -> int: ...

    def engine_for(self, frame: Any) -> RunnerInfo: ...

    def choose_batch(self, frame: Any) -> int: ...

    def submit(self, frames: Any) -> Callable[[], Any]: ...


class Pipeline:
    """Runs `source` through `translator` into `sink`, once.

    Args:
        batch: frames per call of the generator; None: measured by the translator (short or live sources: 1).
        limit: stop after this many frames; None: at the end of the source.
        on_progress: called from the calling thread after each translated frame.
        steady: steadies the translations, for this run alone; None: they stay as they are.
        compose: makes the picture that is written of a frame and its translation; None: the translation itself.
    """

    def __init__(
        self,
        source: Source,
        translator: FrameTranslator,
        sink: Sink,
        *,
        batch: int | None = None,
        limit: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        steady: Steady | None = None,
        compose: Compose | None = None,
    ) -> None:
        self._source = source
        self._translator = translator
        self._sink = sink
        self._batch = 1 if source.info.live and batch is None else batch
        self._limit = limit
        self._on_progress = on_progress
        self._steady, self._compose = steady, compose
        self._interrupted = threading.Event()
        self._halt = threading.Event()
        self._error: BaseException | None = None
        self._engine: RunnerInfo | None = None
        self._is_preparing = False
        self._is_cut = False
        self._uniform_before = translator.uniform_frames
        self._stages = {name: StageTime() for name in ("decode", "translate", "encode")}
        self._first_written = 0.0
        self._latencies_ms: collections.deque[float] = collections.deque(maxlen=_LATENCIES)

    def stop(self) -> None:
        """Ends the run as soon as the frames under way allow; from any thread or signal handler."""
        self._interrupted.set()
        self._halt.set()

    @property
    def is_starting(self) -> bool:
        """Whether the engine is still being made ready, which may take a minute of compiling."""
        return self._is_preparing or self._stages["translate"].frames == 0

    def run(self) -> Result:
        """Runs to the end of the source or until stopped.

        Raises:
            EngineError: what the source, the translator or the sink raised; what was done so far has been kept, and
                the error's `partial` attribute names it (None: nothing).
        """
        is_live = self._source.info.live
        decoded: _Channel[_Timed] = _Channel(_QUEUE_FRAMES, self._halt)
        translated: _Channel[_Timed] = _Channel(1 if is_live else _QUEUE_FRAMES, self._halt)
        decoder = threading.Thread(target=self._feed, args=(decoded,), name="decode", daemon=True)
        encoder = threading.Thread(target=self._drain, args=(translated,), name="encode", daemon=True)
        # A live source keeps the newest frame itself: translation takes that one, with no queue to age in.
        frames = self._decode() if is_live else decoded
        # A window belongs to the calling thread.
        deliver = self._write if self._sink.needs_calling_thread else translated.put

        start = time.perf_counter()
        try:
            if not is_live:
                decoder.start()
            encoder.start()
            for timed in self._translate(frames):
                deliver(timed)
                self._report_progress()
        except (_Stopped, StopStream):
            pass
        except KeyboardInterrupt:
            self.stop()
        except Exception as error:
            self._error = self._error or error
        with contextlib.suppress(_Stopped):
            translated.end()
        if encoder.ident is not None:
            encoder.join()
        self._halt.set()
        self._source.close()
        if decoder.ident is not None:
            decoder.join(_JOIN_SECONDS)
        self._report_progress()

        interrupted = self._interrupted.is_set()
        if self._error is None and not interrupted and self._stages["encode"].frames == 0:
            self._error = SourceError(f"{self._source.info.name}: no frame could be decoded")
        completed = self._error is None and not interrupted
        output = self._close(completed)
        end = time.perf_counter()

        frame_count = self._stages["encode"].frames
        return Result(
            output=output,
            completed=completed,
            frames=frame_count,
            seconds=end - start,
            steady_fps=(frame_count - 1) / (end - self._first_written) if frame_count > 1 else 0.0,
            stage_ms={name: stage.ms_per_frame for name, stage in self._stages.items()},
            latency_ms={
                f"p{p}": float(np.percentile(self._latencies_ms, p)) for p in (50, 95, 99) if self._latencies_ms
            },
            batch=self._batch or 1,
            engine=self._engine,
            peak_memory_bytes=memory.peak_process_bytes(),
            warnings=[*self._source.warnings, *self._sink.warnings, *self._uniform_note()],
        )

    def _feed(self, decoded: _Channel[_Timed]) -> None:
        """Body of the decode thread. An error ends the frames, so that those before it are still written."""
        try:
            decoded.put_all(self._decode())
        except _Stopped:
            return
        except BaseException as error:  # handed to the calling thread, which raises it
            self._error = self._error or error
        with contextlib.suppress(_Stopped):
            decoded.end()

    def _drain(self, translated: _Channel[_Timed]) -> None:
        """Body of the encode thread. An error or the wish to stop halts the stages before it."""
        try:
            for timed in translated:
                self._write(timed)
        except _Stopped:
            return
        except BaseException as error:
            if not isinstance(error, StopStream):
                self._error = self._error or error
            self._halt.set()

    def _decode(self) -> Iterator[_Timed]:
        """The source's frames up to the limit, each with the moment it was there."""
        frames = iter(self._source)
        for _ in itertools.count() if self._limit is None else range(self._limit):
            start = time.perf_counter()
            frame = next(frames, None)
            if frame is None or self._halt.is_set():
                return
            now = time.perf_counter()
            self._stages["decode"].add(now - start)
            yield frame, frame.captured_seconds or now
        self._is_cut = True
        with contextlib.suppress(EngineError):  # nobody asked for the frame after the limit
            self._is_cut = self._source.info.live or next(frames, None) is not None

    def _translate(self, decoded: Iterable[_Timed]) -> Iterator[_Timed]:
        """Frames translated, in their order. Some frames of a file are worked on while the next one is handed over."""
        under_way: collections.deque[_Submission] = collections.deque()
        error: Exception | None = None
        try:
            for batch, is_kept in self._batches(decoded):
                if is_kept:
                    while under_way:
                        yield from self._finished(under_way.popleft())
                    yield from batch
                    continue
                under_way.append(self._submitted(batch))
                while len(under_way) >= (1 if self._source.info.live else self._translator.frames_under_way):
                    yield from self._finished(under_way.popleft())
        except Exception as raised:  # after the frames before it
            error = raised
        while under_way:
            yield from self._finished(under_way.popleft())
        if error is not None:
            raise error

    def _batches(self, decoded: Iterable[_Timed]) -> Iterator[tuple[list[_Timed], bool]]:
        """As many frames as go into one call of the generator, all of one size and in one place.

        With each batch comes whether the sink has it already.
        """
        waiting: list[_Timed] = []
        for number, (frame, ready) in enumerate(decoded):
            if self._engine is None or self._engine.is_stand_in:
                self._prepare(frame.image)
            is_kept = not self._steady.needs(number, self._sink.keeps) if self._steady else self._sink.keeps(number)
            if waiting and (is_kept or not _go_together(waiting[0][0].image, frame.image)):
                yield waiting, False
                waiting = []
            if is_kept:
                yield [(frame, ready)], True
                continue
            waiting.append((frame, ready))
            if len(waiting) == (self._batch or 1):
                yield waiting, False
                waiting = []
        if waiting:
            yield waiting, False

    def _prepare(self, image: Any) -> None:
        """Chooses engine and batch on this frame, where it tells: on a nearly uniform one an engine only stands in."""
        self._is_preparing = True
        self._engine = self._translator.engine_for(image)
        if self._batch is None and not self._engine.is_stand_in:
            self._batch = self._translator.choose_batch(image) if self._is_long() else 1
        if not self._engine.is_stand_in:
            self._sink.choose_engine(self._engine.fingerprint, self._engine.frame_ms / 1e3)
        self._is_preparing = False

    def _is_long(self) -> bool:
        """Whether there may be enough frames to make good for measuring batches."""
        counts = [count for count in (self._source.info.frame_count, self._limit) if count is not None]
        return not counts or min(counts) >= _LONG_FRAMES

    def _uniform_note(self) -> list[str]:
        count = self._translator.uniform_frames - self._uniform_before
        note = f"{count} nearly uniform frame(s) ran in eager fp32: every rounding shows in their translation"
        return [note] if count else []

    def _submitted(self, batch: list[_Timed]) -> _Submission:
        start = time.perf_counter()
        result = self._translator.submit(_stacked([frame.image for frame, _ in batch]))
        return _Submission(batch, result, time.perf_counter() - start)

    def _finished(self, submission: _Submission) -> Iterator[_Timed]:
        start = time.perf_counter()
        images = submission.result()
        if self._engine is not None and not self._engine.is_stand_in:
            self._engine = self._translator.engine or self._engine
        busy_seconds = submission.seconds + time.perf_counter() - start
        self._stages["translate"].add(busy_seconds, frames=len(submission.batch))
        for (frame, ready), image in zip(submission.batch, images, strict=True):
            yield dataclasses.replace(frame, image=self._composed(frame, image)), ready

    def _composed(self, frame: Frame, translated: Any) -> Any:
        if self._steady is not None:
            translated = self._steady(host_image(frame.image), host_image(translated))
        if self._compose is None:
            return translated
        seconds = (frame.pts or 0) * (self._source.info.time_base or Fraction(1, 25))
        return self._compose(host_image(frame.image), host_image(translated), seconds)

    def _write(self, timed: _Timed) -> None:
        frame, ready = timed
        start = time.perf_counter()
        self._sink.write(frame)
        now = time.perf_counter()
        self._stages["encode"].add(now - start)
        self._latencies_ms.append(1e3 * (now - ready))
        if self._stages["encode"].frames == 1:
            self._first_written = now

    def _report_progress(self) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(frames=self._stages["encode"].frames, stages=self._stages))

    def _close(self, completed: bool) -> Path | None:
        """Completes the output, or keeps what there is of it and raises the error that ended the run."""
        if completed:
            try:
                return self._sink.finish(is_cut=self._is_cut)
            except Exception as error:
                self._error = error
        partial = self._sink.abort()
        if self._error is None:
            return partial
        if isinstance(self._error, EngineError):
            self._error.partial = partial
        raise self._error


def _go_together(image: np.ndarray | Tensor, other: np.ndarray | Tensor) -> bool:
    return type(image) is type(other) and image.shape == other.shape


def _stacked(images: Sequence[Any]) -> Any:
    """Images that go together as a batch: an array, or a tensor on their device."""
    if isinstance(images[0], np.ndarray):
        return np.stack(images)
    import torch

    return images[0][None] if len(images) == 1 else torch.stack(list(images))
