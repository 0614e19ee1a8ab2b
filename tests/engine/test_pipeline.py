"""Three stages over bounded queues: order, counts, errors, stopping, live sources."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EngineError, SinkError, SourceError
from engine.pipeline import Pipeline, Progress
from engine.runners.base import RunnerInfo
from engine.video.base import Frame, Sink, SourceInfo, StopStream


class CountingSource:
    """Frames whose pixels hold their number; can fail at a given one, and wait before each."""

    def __init__(self, count: int, *, fail_at: int | None = None, live: bool = False, sizes: int = 1) -> None:
        self.info = SourceInfo("counting", 8, 8, count, Fraction(25), Fraction(1, 25), live=live)
        self.given = 0
        self.closed = threading.Event()
        self.warnings, self.dropped = ["one packet skipped"], 0
        self._count, self._fail_at, self._sizes = count, fail_at, sizes

    def __iter__(self) -> Iterator[Frame]:
        for number in range(self._count):
            if self.closed.is_set():
                return
            if number == self._fail_at:
                raise SourceError("the disk was pulled out")
            self.given = number + 1
            side = 8 + number % self._sizes
            captured = time.perf_counter() if self.info.live else None
            yield Frame(np.full((side, side, 3), number % 256, np.uint8), pts=number, captured_seconds=captured)

    def close(self) -> None:
        self.closed.set()


class ListSink(Sink):
    """Keeps what it is given; can fail at a given frame."""

    def __init__(
        self,
        *,
        fail_at: int | None = None,
        error: Exception | None = None,
        seconds: float = 0.0,
        needs_calling_thread: bool = False,
    ) -> None:
        self.frames: list[Frame] = []
        self.ended = ""
        self.needs_calling_thread = needs_calling_thread
        self.threads: set[threading.Thread] = set()
        self.engines: list[str] = []
        self.kept = range(0)
        self._fail_at, self._error, self._seconds = fail_at, error or SinkError("disk full"), seconds

    def choose_engine(self, engine: str, frame_seconds: float) -> None:
        self.engines.append(engine)

    def keeps(self, number: int) -> bool:
        return number in self.kept

    def write(self, frame: Frame) -> None:
        if len(self.frames) == self._fail_at:
            raise self._error
        time.sleep(self._seconds)
        self.threads.add(threading.current_thread())
        self.frames.append(frame)

    def finish(self, *, is_cut: bool = False) -> Path | None:
        self.ended += "cut" if is_cut else "finished"
        return Path("out.mp4")

    def abort(self) -> Path | None:
        self.ended += "aborted"
        return Path("out.partial.mp4") if self.frames else None


class Inverter:
    """Stands in for a Translator: inverts frames, and records the batches it was given."""

    frames_under_way = 1

    def __init__(self, *, best_batch: int = 1, fail_at: int | None = None, seconds: float = 0.0) -> None:
        self.under_way = self.most_under_way = 0
        self.batches: list[int] = []
        self.uniform_frames = 0
        self.engine: RunnerInfo | None = None
        self._best_batch, self._fail_at, self._seconds = best_batch, fail_at, seconds

    def submit(self, frames: np.ndarray) -> Callable[[], np.ndarray]:
        if self._fail_at is not None and sum(self.batches) >= self._fail_at:
            raise EngineError("the generator broke")
        self.batches.append(len(frames))
        time.sleep(self._seconds)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        inverted = 255 - frames

        def result() -> np.ndarray:
            self.under_way -= 1
            return inverted

        return result

    def engine_for(self, frame: np.ndarray) -> RunnerInfo:
        return RunnerInfo("eager", "fp32", frame_ms=1.0)

    def choose_batch(self, frame: np.ndarray) -> int:
        return self._best_batch


@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 50])
@pytest.mark.parametrize("under_way", [1, 2, 3])
def test_every_frame_arrives_once_in_order(count: int, batch: int, under_way: int) -> None:
    source, sink, translator = CountingSource(count), ListSink(), Inverter()
    translator.frames_under_way = under_way
    result = Pipeline(source, translator, sink, batch=batch).run()
    assert [frame.pts for frame in sink.frames] == list(range(count))
    assert all((frame.image == 255 - frame.pts).all() for frame in sink.frames)
    assert (result.frames, result.completed, result.output) == (count, True, Path("out.mp4"))
    assert sink.ended == "finished"
    assert result.warnings == ["one packet skipped"]
    assert max(translator.batches) <= batch
    assert sum(translator.batches) == count
    assert translator.under_way == 0
    assert translator.most_under_way == min(under_way, len(translator.batches))


@pytest.mark.parametrize(("count", "expected"), [(20, 1), (400, 3), (None, 3)])
def test_batches_are_measured_where_there_are_frames_to_gain(count: int | None, expected: int) -> None:
    source, translator = CountingSource(400 if count is None else count), Inverter(best_batch=3)
    source.info = dataclasses.replace(source.info, frame_count=count)
    result = Pipeline(source, translator, ListSink()).run()
    assert result.batch == max(translator.batches) == expected


def test_engine_and_batch_are_chosen_on_the_first_frame_that_is_not_nearly_uniform() -> None:
    class Fading(Inverter):
        def engine_for(self, frame: np.ndarray) -> RunnerInfo:
            is_dark = int(frame[0, 0, 0]) < 5
            self.uniform_frames += is_dark
            engine = super().engine_for(frame)
            return dataclasses.replace(engine, is_stand_in=True) if is_dark else engine

        def choose_batch(self, frame: np.ndarray) -> int:
            assert frame[0, 0, 0] == 5
            return super().choose_batch(frame)

    sink, translator = ListSink(), Fading(best_batch=3)
    result = Pipeline(CountingSource(400), translator, sink).run()
    assert [frame.pts for frame in sink.frames] == list(range(400))
    assert result.engine is not None
    assert not result.engine.is_stand_in
    assert translator.batches[:6] == [1, 1, 1, 1, 1, 3]
    assert result.batch == 3
    assert any("5 nearly uniform" in warning for warning in result.warnings)


def test_images_of_different_sizes_are_never_put_in_one_batch() -> None:
    sink = ListSink()
    Pipeline(CountingSource(7, sizes=2), Inverter(), sink, batch=4).run()
    assert [frame.image.shape[0] for frame in sink.frames] == [8, 9, 8, 9, 8, 9, 8]


@pytest.mark.parametrize(("limit", "ended"), [(5, "cut"), (99, "cut"), (100, "finished"), (101, "finished")])
def test_the_limit_ends_it_as_a_finished_one_cut_short(limit: int, ended: str) -> None:
    source, sink = CountingSource(100), ListSink()
    result = Pipeline(source, Inverter(), sink, limit=limit).run()
    assert (len(sink.frames), result.completed, sink.ended) == (min(limit, 100), True, ended)
    assert source.given == min(limit + 1, 100)


def test_memory_does_not_grow_with_the_length() -> None:
    """A slow sink holds the source back: only the queues' worth of frames is ever between them."""
    source, sink = CountingSource(200), ListSink(seconds=0.001)
    ahead = []
    Pipeline(source, Inverter(), sink, on_progress=lambda progress: ahead.append(source.given - progress.frames)).run()
    assert max(ahead) <= 12


@pytest.mark.parametrize("under_way", [1, 2])
@pytest.mark.parametrize("where", ["source", "translator", "sink"])
def test_an_error_keeps_what_was_done_and_names_it(where: str, under_way: int) -> None:
    source = CountingSource(50, fail_at=20 if where == "source" else None)
    translator = Inverter(fail_at=20 if where == "translator" else None)
    translator.frames_under_way = under_way
    sink = ListSink(fail_at=20 if where == "sink" else None)
    with pytest.raises(EngineError) as caught:
        Pipeline(source, translator, sink).run()
    assert caught.value.partial == Path("out.partial.mp4")
    assert len(sink.frames) == 20
    assert sink.ended == "aborted"
    assert source.closed.is_set()


def test_an_error_while_finishing_keeps_what_was_done() -> None:
    sink = ListSink()
    sink.finish = lambda *, is_cut: (_ for _ in ()).throw(SinkError("disk full"))
    with pytest.raises(SinkError, match="disk full") as caught:
        Pipeline(CountingSource(3), Inverter(), sink).run()
    assert caught.value.partial == Path("out.partial.mp4")


def test_a_source_without_frames_is_an_error() -> None:
    sink = ListSink()
    with pytest.raises(SourceError, match="no frame could be decoded"):
        Pipeline(CountingSource(0), Inverter(), sink).run()
    assert sink.ended == "aborted"


def test_stop_ends_it_early_and_keeps_what_was_done() -> None:
    source, sink = CountingSource(1_000_000), ListSink(seconds=0.001)

    def stop_at_ten(progress: Progress) -> None:
        if progress.frames == 10:
            pipeline.stop()

    pipeline = Pipeline(source, Inverter(), sink, on_progress=stop_at_ten)
    result = pipeline.run()
    assert not result.completed
    assert result.output == Path("out.partial.mp4")
    assert 10 <= result.frames <= 20
    assert not {"decode", "encode"} & {thread.name for thread in threading.enumerate()}


def test_an_interrupt_while_the_engine_is_made_ready_ends_it_at_once() -> None:
    class Compiling(Inverter):
        def engine_for(self, frame: np.ndarray) -> RunnerInfo:
            assert pipeline.is_starting
            raise KeyboardInterrupt  # what the command line's signal handler does then

    source, sink = CountingSource(1000), ListSink()
    pipeline = Pipeline(source, Compiling(), sink)
    result = pipeline.run()
    assert not result.completed
    assert (result.output, result.frames, sink.ended) == (None, 0, "aborted")
    assert source.closed.is_set()


@pytest.mark.parametrize("needs_calling_thread", [False, True])
def test_a_window_is_written_from_the_calling_thread_and_a_file_is_not(needs_calling_thread: bool) -> None:
    sink = ListSink(needs_calling_thread=needs_calling_thread)
    result = Pipeline(CountingSource(9), Inverter(), sink).run()
    assert result.frames == len(sink.frames) == 9
    assert (sink.threads == {threading.current_thread()}) is needs_calling_thread


@pytest.mark.parametrize("needs_calling_thread", [False, True])
def test_a_closed_window_ends_it_as_a_finished_one(needs_calling_thread: bool) -> None:
    sink = ListSink(fail_at=5, error=StopStream(), needs_calling_thread=needs_calling_thread)
    result = Pipeline(CountingSource(1000), Inverter(), sink).run()
    assert result.completed
    assert sink.ended == "finished"


def test_a_live_source_is_not_queued() -> None:
    """The generator is slower than the source: what it gets is never older than one translation."""
    source, sink, translator = CountingSource(20, live=True), ListSink(), Inverter(seconds=0.02)
    translator.frames_under_way = 2
    result = Pipeline(source, translator, sink).run()
    assert translator.most_under_way == 1
    assert result.frames == 20
    assert result.latency_ms["p95"] < 200  # three stages of at most 20 ms; a queue of 20 frames would take 400
    assert result.batch == 1


def test_the_result_tells_times() -> None:
    result = Pipeline(CountingSource(30), Inverter(seconds=0.004), ListSink()).run()
    assert result.stage_ms["translate"] > 3.5
    assert result.stage_ms["translate"] > result.stage_ms["encode"]
    assert 0 < result.steady_fps < 260
    assert result.latency_ms["p50"] <= result.latency_ms["p95"] <= result.latency_ms["p99"]
    assert result.peak_memory_bytes > 1_000_000


@pytest.mark.parametrize("batch", [1, 4])
def test_frames_that_the_sink_has_are_not_translated(batch: int) -> None:
    """They come in their place all the same, for their time."""
    sink, translator = ListSink(), Inverter()
    sink.kept = range(5, 12)
    result = Pipeline(CountingSource(20), translator, sink, batch=batch).run()
    assert result.frames == 20
    assert sink.engines == ["eager fp32"]
    assert sum(translator.batches) == 13
    assert [frame.pts for frame in sink.frames] == list(range(20))
    values = [int(np.asarray(frame.image)[0, 0, 0]) for frame in sink.frames]
    assert values == [number if number in sink.kept else 255 - number for number in range(20)]


def still_but(moving: set[int]) -> Callable[[np.ndarray], bool]:
    """The frames of `CountingSource` that a detector would call still: all but some."""
    return lambda image: int(image[0, 0, 0]) not in moving


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("under_way", [1, 2])
@pytest.mark.parametrize("live", [False, True])
def test_a_still_frame_has_the_translation_before_it_once_more(batch: int, under_way: int, live: bool) -> None:
    """In its place and at its time, and it costs no translation."""
    moving = {0, 1, 2, 9, 20, 21}
    source, sink, translator = CountingSource(30, live=live), ListSink(), Inverter()
    translator.frames_under_way = under_way
    result = Pipeline(source, translator, sink, batch=batch, is_still=still_but(moving)).run()
    assert [frame.pts for frame in sink.frames] == list(range(30))
    latest = [max(number for number in moving if number <= pts) for pts in range(30)]
    assert [int(np.asarray(frame.image)[0, 0, 0]) for frame in sink.frames] == [255 - number for number in latest]
    assert sum(translator.batches) == len(moving)
    assert (result.received, result.shown, result.skipped, result.dropped) == (30, 6, 24, 0)
    assert result.frames == 30


def test_a_still_frame_is_composed_with_its_own_source() -> None:
    sink = ListSink()

    def source_and_translation(source: np.ndarray, translated: np.ndarray, seconds: Fraction) -> np.ndarray:
        return np.hstack([source, translated])

    Pipeline(CountingSource(5), Inverter(), sink, is_still=still_but({0}), compose=source_and_translation).run()
    assert [tuple(np.asarray(frame.image)[0, ::15, 0]) for frame in sink.frames] == [(n, 255) for n in range(5)]


def test_every_frame_that_came_is_counted_once_when_it_is_stopped() -> None:
    source, sink = CountingSource(1_000_000), ListSink(seconds=0.001)

    def stop(progress: Progress) -> None:
        if progress.frames >= 10:
            pipeline.stop()

    def is_odd(image: np.ndarray) -> bool:
        return bool(image[0, 0, 0] % 2)

    pipeline = Pipeline(source, Inverter(), sink, on_progress=stop, is_still=is_odd)
    result = pipeline.run()
    assert result.received == source.given == result.shown + result.skipped + result.dropped
    assert result.frames == len(sink.frames)
    assert abs(result.shown - result.skipped) <= 1
    assert result.dropped > 0


@pytest.mark.parametrize("moves", [True, False])
def test_a_pace_is_told_of_each_translated_frame(moves: bool) -> None:
    told: list[float] = []
    source, sink = CountingSource(10, live=True), ListSink(seconds=0.01, needs_calling_thread=True)
    is_still = still_but(set(range(10)) if moves else {0, 5})
    Pipeline(source, Inverter(seconds=0.01), sink, pace=told.append, is_still=is_still).run()
    assert len(told) == (10 if moves else 2)
    assert told[0] < told[1]
    assert told[1] >= 0.02  # with the time of showing it
