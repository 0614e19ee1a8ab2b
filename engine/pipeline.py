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
import enum
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from engine import memory
from engine.channel import Channel, Stopped
from engine.compose import Compose
from engine.device import host_image
from engine.errors import EngineError, SourceError
from engine.result import Progress, Result, StageTime, percentiles
from engine.runners.base import RunnerInfo
from engine.steady import Steady
from engine.video.base import Frame, Sink, Source, StopStream

if TYPE_CHECKING:
    from torch import Tensor


# Frames that may wait between two stages of a file: enough to smooth their times, little enough for memory.
_QUEUE_FRAMES = 4

# Measuring batches costs about 20 frames' time, so it is left out for fewer frames than this.
_LONG_FRAMES = 300

# Latencies are kept of this many frames, the latest.
_LATENCIES = 10_000

# How long to wait at the end for a decoder that hangs in a read, from a network say.
_JOIN_SECONDS = 5.0


class _Timed(NamedTuple):
    """A frame on its way.

    Attributes:
        ready: the moment (`time.perf_counter()`) from which its latency counts.
        is_repeated: it has the translation before once more.
    """

    frame: Frame
    ready: float
    is_repeated: bool = False


class _Way(enum.Enum):
    """What becomes of a batch: it is translated; the sink has it; it has the translation before once more."""

    TRANSLATED = enum.auto()
    KEPT = enum.auto()
    REPEATED = enum.auto()


@dataclasses.dataclass(frozen=True)
class _Submission:
    """Frames that are being translated: what waits for the result, and the seconds that handing them over took."""

    batch: list[_Timed]
    result: Callable[[], np.ndarray | Tensor]
    seconds: float


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
        is_still: whether a frame shows what the one shows that was translated last; then that translation is written
            once more. It is asked of each frame in turn that the sink has not. None: all are translated.
        pace: is told the seconds that the calling thread worked for a frame, after each that was translated.
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
        is_still: Callable[[Any], bool] | None = None,
        pace: Callable[[float], None] | None = None,
    ) -> None:
        self._source = source
        self._translator = translator
        self._sink = sink
        self._batch = 1 if source.info.live and batch is None else batch
        self._limit = limit
        self._on_progress = on_progress
        self._steady, self._compose = steady, compose
        self._is_still = is_still
        self._pace = pace
        self._write_seconds = 0.0  # of the last frame, where the calling thread writes
        self._translation: Any = None  # the last one
        self._taken = self._skipped = 0
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
        if self._source.info.live:  # it may be waiting for a frame, or for the source to come back
            threading.Thread(target=self._source.close, name="close source", daemon=True).start()

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
        decoded: Channel[_Timed] = Channel(_QUEUE_FRAMES, self._halt)
        translated: Channel[_Timed] = Channel(1 if is_live else _QUEUE_FRAMES, self._halt)
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
        except (Stopped, StopStream):
            pass
        except KeyboardInterrupt:
            self.stop()
        except Exception as error:
            self._error = self._error or error
        with contextlib.suppress(Stopped):
            translated.end()
        if encoder.ident is not None:
            encoder.join(_JOIN_SECONDS if self._interrupted.is_set() and self._sink.may_hang else None)
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
            skipped=self._skipped,
            dropped=self._source.dropped + self._taken - frame_count,
            seconds=end - start,
            steady_fps=(frame_count - 1) / (end - self._first_written) if frame_count > 1 else 0.0,
            stage_ms={name: stage.ms_per_frame for name, stage in self._stages.items()},
            latency_ms=percentiles(self._latencies_ms),
            batch=self._batch or 1,
            engine=self._engine,
            peak_memory_bytes=memory.peak_process_bytes(),
            warnings=[*self._source.warnings, *self._sink.warnings, *self._uniform_note()],
        )

    def _feed(self, decoded: Channel[_Timed]) -> None:
        """Body of the decode thread. An error ends the frames, so that those before it are still written."""
        try:
            decoded.put_all(self._decode())
        except Stopped:
            return
        except BaseException as error:  # handed to the calling thread, which raises it
            self._error = self._error or error
        with contextlib.suppress(Stopped):
            decoded.end()

    def _drain(self, translated: Channel[_Timed]) -> None:
        """Body of the encode thread. An error or the wish to stop halts the stages before it."""
        try:
            for timed in translated:
                self._write(timed)
        except Stopped:
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
            self._taken += frame is not None
            if frame is None or self._halt.is_set():
                return
            now = time.perf_counter()
            self._stages["decode"].add(now - start)
            yield _Timed(frame, frame.captured_seconds or now)
        self._is_cut = True
        with contextlib.suppress(EngineError):  # nobody asked for the frame after the limit
            self._is_cut = self._source.info.live or next(frames, None) is not None

    def _translate(self, decoded: Iterable[_Timed]) -> Iterator[_Timed]:
        """Frames translated, in their order. Some frames of a file are worked on while the next one is handed over."""
        under_way: collections.deque[_Submission] = collections.deque()
        error: Exception | None = None
        try:
            for batch, way in self._batches(decoded):
                if way is not _Way.TRANSLATED:
                    while under_way:
                        yield from self._finished(under_way.popleft())
                    yield from batch if way is _Way.KEPT else map(self._repeated, batch)
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

    def _batches(self, decoded: Iterable[_Timed]) -> Iterator[tuple[list[_Timed], _Way]]:
        """As many frames as go into one call of the generator, all of one size and in one place.

        With each batch comes what becomes of it; those that are not translated are single frames.
        """
        waiting: list[_Timed] = []
        for number, timed in enumerate(decoded):
            image = timed.frame.image
            if self._engine is None or self._engine.is_stand_in:
                self._prepare(image)
            way = self._way(number, image)
            if waiting and (way is not _Way.TRANSLATED or not _go_together(waiting[0].frame.image, image)):
                yield waiting, _Way.TRANSLATED
                waiting = []
            if way is not _Way.TRANSLATED:
                yield [timed], way
                continue
            waiting.append(timed)
            if len(waiting) == (self._batch or 1):
                yield waiting, _Way.TRANSLATED
                waiting = []
        if waiting:
            yield waiting, _Way.TRANSLATED

    def _way(self, number: int, image: Any) -> _Way:
        keeps = self._sink.keeps
        if keeps(number) if self._steady is None else not self._steady.needs(number, keeps):
            return _Way.KEPT
        return _Way.REPEATED if self._is_still is not None and self._is_still(image) else _Way.TRANSLATED

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
        result = self._translator.submit(_stacked([timed.frame.image for timed in batch]))
        return _Submission(batch, result, time.perf_counter() - start)

    def _finished(self, submission: _Submission) -> Iterator[_Timed]:
        start = time.perf_counter()
        images = submission.result()
        if self._engine is not None and not self._engine.is_stand_in:
            self._engine = self._translator.engine or self._engine
        busy_seconds = submission.seconds + time.perf_counter() - start
        self._stages["translate"].add(busy_seconds, frames=len(submission.batch))
        if self._pace is not None:
            self._pace(busy_seconds / len(submission.batch) + self._write_seconds)
        for timed, image in zip(submission.batch, images, strict=True):
            self._translation = image
            yield self._with_picture(timed, image)

    def _repeated(self, timed: _Timed) -> _Timed:
        """The translation before, in this frame's place."""
        return self._with_picture(timed, self._translation)._replace(is_repeated=True)

    def _with_picture(self, timed: _Timed, translated: Any) -> _Timed:
        return timed._replace(frame=dataclasses.replace(timed.frame, image=self._composed(timed.frame, translated)))

    def _composed(self, frame: Frame, translated: Any) -> Any:
        if self._steady is not None:
            translated = self._steady(host_image(frame.image), host_image(translated))
        if self._compose is None:
            return translated
        seconds = (frame.pts or 0) * (self._source.info.time_base or Fraction(1, 25))
        return self._compose(host_image(frame.image), host_image(translated), seconds)

    def _write(self, timed: _Timed) -> None:
        start = time.perf_counter()
        self._sink.write(timed.frame)
        now = time.perf_counter()
        self._stages["encode"].add(now - start)
        self._skipped += timed.is_repeated
        self._latencies_ms.append(1e3 * (now - timed.ready))
        if self._sink.needs_calling_thread and self._source.info.live:  # a file's window waits for its time
            self._write_seconds = now - start
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
