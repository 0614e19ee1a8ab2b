"""Which engine runs: what was asked for, or the fastest of those that keep the parity contract on a real frame.

`Chooser.choose` is called with the first frame of each size. It takes the first candidate that runs. With
`precision="auto"` on a CPU it then measures that backend in each precision that may be taken, which costs a few frames.
With `backend="auto"` it measures other backends too, where the job is long enough to win that time back. What was
measured is remembered for this processor. An engine that takes minutes to build is built by another process while the
first one translates; then both translate real frames in turn, and the faster one stays.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from engine import engine_files, memory
from engine.backends import BACKENDS, get_backend
from engine.backends.base import FileBackend
from engine.cache import EngineCache
from engine.checkpoint import load_generator
from engine.choosing import background, candidates, measuring, quick_start, remembered
from engine.choosing.attempts import Attempts
from engine.choosing.candidates import Candidate
from engine.choosing.measuring import (
    AUTO_SECONDS,
    COMPARED,
    COMPARING_SECONDS,
    ONLY_ONE,
    SKIPPED,
    Measured,
    comparing_pays,
    fastest_of,
    measuring_seconds,
)
from engine.choosing.remembered import Remembered
from engine.choosing.request import Request
from engine.choosing.trial import Trial
from engine.device import choose_device
from engine.errors import BackendError, EngineError, first_line
from engine.generators import Generator
from engine.precision import fastest_precision
from engine.runners.base import Engine, FrameFacts, Measurement
from engine.runners.tensors import TensorRunner

logger = logging.getLogger("streamgan")

_EXPLAIN_SECONDS = 120.0

# An engine that takes a minute to build is built for a job of at least this length, in seconds.
BUILDING_PAYS_AFTER_SECONDS = 180.0


class Chooser:
    """Chooses the engine for each frame size.

    Args:
        generator: in eval mode, float32; None: the request's checkpoint is loaded.
        request: what is asked for.
        cache: keeps engines and what was measured.

    Attributes:
        generator: in eager float32 on `device`: every other way of running it is held to this.
        stand_in: the engine of nearly uniform frames, eager float32.
        rows: what was tried for the size that was chosen for last; empty where the choice was remembered.
        measured: what that choice was based on, in this run or in the one that it is remembered from.

    Raises:
        EngineError: the generator can't be loaded, unknown names, or a backend that can't run here.
    """

    def __init__(self, generator: Generator | None, request: Request, cache: EngineCache) -> None:
        if request.threads:
            torch.set_num_threads(request.threads)
        self.device = choose_device(request.device)
        self.generator = _prepared(generator, request, self.device)
        if generator is not None:
            request = dataclasses.replace(request, weights=engine_files.generator_hash(self.generator))
        eager = TensorRunner(self.generator, self.generator, torch.float32, self.device, takes_batches=True)
        self.stand_in = Engine("eager", "fp32", eager, is_stand_in=True)
        self.rows: list[Measurement] = []
        self.measured = Measured()
        self._request = request
        self._cache = cache
        self._facts = FrameFacts.of(self.generator)
        self._precisions = candidates.taken_precisions(request, self.device)
        self._ladder = candidates.ladder(request, self.device)
        self._attempts = Attempts(self.generator, request, cache, self.device, self._ladder)
        self._slow = candidates.slow_backends(self.device)
        self._preparing: dict[tuple[int, int], _Preparation] = {}
        # Engines that take minutes to build and have been measured, by frame size: not to be made ready for it again.
        self._measured_slow: dict[tuple[int, int], set[str]] = {}
        self._measured_by_size: dict[tuple[int, int], Measured] = {}

    @property
    def runs_float32(self) -> bool:
        """Whether what was asked for is eager float32."""
        return (self._ladder[0].backend, self._ladder[0].precision) == ("eager", "fp32")

    def choose(self, batch: np.ndarray, *, is_remembered: bool = True) -> tuple[Engine, np.ndarray]:
        """The engine for frames like these real ones, uint8 [N, H, W, 3], and its translation of them.

        Eager float32 can always run.

        Args:
            is_remembered: whether later runs may take the choice.

        Raises:
            FrameSizeError: the frame needs more memory than there is.
        """
        size = _size_of(batch)
        self._attempts.translations.clear()
        expected = self.stand_in.runner.submit(batch)()
        recalled = remembered.recall(self._cache, self._request, size, device=self._device_text)
        if recalled is not None and recalled.backend not in BACKENDS:
            recalled = None
        first_of_all = [Candidate(recalled.backend, recalled.precision)] if recalled else []
        first = self._first([*first_of_all, *self._ladder], batch, expected)
        if recalled is not None and (first.backend, first.precision) == (recalled.backend, recalled.precision):
            self.rows, self.measured = [], recalled.measured
            self._measured_slow[size] = set(recalled.measured_slow)
            engines = [first]
            chosen = dataclasses.replace(first, frame_ms=recalled.frame_ms)  # its first frame took longer
        else:
            engines, self.measured = self._in_all_precisions(first, batch, expected)
            rows: list[Measurement] = []
            if self._request.is_auto:
                engines, rows = self._beside_others(engines, batch, expected)
            chosen = fastest_of(engines)
            self._show(chosen, engines, rows)
        self._measured_by_size[size] = self.measured
        if is_remembered:
            self._remember(chosen, size, engines, batch, expected)
        if self._request.is_auto:
            self._build_beside(chosen, batch, expected)
        translated = self._attempts.translations.get(id(chosen.runner), expected)
        self._attempts.translations.clear()
        return chosen, translated

    def require_memory(self, size: tuple[int, int]) -> None:
        """Raises FrameSizeError if a frame of this (H, W) needs more memory in eager float32 than there is."""
        available = memory.available_bytes(self.device)
        padded = (1, 3, *self._facts.padded_size(*size))
        if available is None or memory.most_activation_bytes(self.generator, padded, torch.float32) <= available:
            return
        remembered.require_memory(self.stand_in.runner.needed_bytes(1, *size), available, size)

    def prepared(self, size: tuple[int, int]) -> Engine | None:
        """An engine for frames of this (H, W) that has become ready in the background since the last call, proven."""
        preparation = self._preparing.get(size)
        if preparation is None or preparation.is_alive():
            return None
        del self._preparing[size]
        return preparation.engine

    def reject(self, engine: Engine, error: EngineError) -> None:
        """Leaves out an engine from now on, because of what it made of a frame; the next choice is without it."""
        candidate = Candidate(engine.backend, engine.precision)
        self._attempts.rejected[candidate] = str(error)
        logger.warning("%s is not used any more: %s", candidate, error)

    def trial(self, current: Engine, rival: Engine) -> Trial | None:
        """Decides between the engine that runs and one that has become ready; None: the new one was asked for."""
        return Trial(current, rival) if self._request.is_auto else None

    def decided(self, size: tuple[int, int], trial: Trial) -> None:
        """Remembers the winner of a trial."""
        assert trial.winner is not None
        self._measured_slow.setdefault(size, set()).add(str(trial.rival))
        self._keep(trial.winner, size)

    # --- trying candidates in their order ---

    def _first(self, tried: Iterable[Candidate], batch: np.ndarray, expected: np.ndarray) -> Engine:
        """The first candidate that runs and keeps the parity contract; a live stream does not wait for a build."""
        for candidate in tried:
            if candidate not in self._attempts.rejected and self._attempts.takes_long(candidate, batch):
                if self._request.live:
                    self._prepare_in_background(candidate, batch, expected)
                    continue
                kept = "; the next run finds it in the cache" if get_backend(candidate.backend).is_file else ""
                logger.warning("building the %s engine, which can take minutes%s", candidate, kept)
            engine = self._attempts.engine(candidate, batch, expected)
            if engine is not None:
                return engine
        raise AssertionError("eager float32 keeps every limit")

    def _in_all_precisions(
        self, first: Engine, batch: np.ndarray, expected: np.ndarray
    ) -> tuple[list[Engine], Measured]:
        """`first` and its backend in the other precisions that may be taken, measured; the one to take comes first."""
        is_named = self._ladder[0].file is not None and str(first) == str(self._ladder[0])
        others = [
            candidate
            for candidate in ([] if is_named else candidates.other_precisions(first, self._precisions))
            if candidate not in self._attempts.rejected and not self._attempts.takes_long(candidate, batch)
        ]
        if others and not (self._request.explain or comparing_pays(self._request.expected_frames)):
            return [first], Measured(SKIPPED)
        tried = [self._attempts.engine(candidate, batch, expected) for candidate in others]
        engines = [first, *(engine for engine in tried if engine is not None)]
        if len(engines) == 1:
            return engines, Measured(ONLY_ONE)
        seconds = AUTO_SECONDS if self._request.explain else COMPARING_SECONDS
        engines = measuring.timed_in_turn(engines, batch, time.monotonic() + seconds)
        chosen = fastest_of(engines)
        logger.info("%s is taken: %s", chosen, ", ".join(f"{engine} {engine.frame_ms:.1f} ms" for engine in engines))
        return [chosen, *(engine for engine in engines if engine is not chosen)], Measured(COMPARED)

    # --- measuring other backends ---

    def _beside_others(
        self, engines: list[Engine], batch: np.ndarray, expected: np.ndarray
    ) -> tuple[list[Engine], list[Measurement]]:
        """`engines` and other backends, as far as there is time, measured; and who was not measured, and why.

        Args:
            engines: one backend in some precisions, the fastest first.
        """
        rivals: list[Engine] = []
        rows: list[Measurement] = []
        self._measured_slow[_size_of(batch)] = set()
        budget = self._budget_seconds(engines[0])
        if not budget:
            return engines, []
        deadline = time.monotonic() + budget
        logger.warning("measuring which engine is the fastest here, for about %.0f s", min(budget, AUTO_SECONDS))
        for candidate in self._rivals(engines, batch):
            if reason := self._not_tried(candidate, batch, deadline):
                rows.append(Measurement(candidate.backend, candidate.precision, remark=reason))
                continue
            engine = self._attempts.engine(candidate, batch, expected)
            if engine is None:
                rows.append(
                    Measurement(candidate.backend, candidate.precision, remark=self._attempts.rejected[candidate])
                )
            else:
                rivals.append(engine)
        engines = measuring.timed_in_turn([*engines, *rivals], batch, deadline)
        self.measured = dataclasses.replace(self.measured, backends=True)
        self._measured_slow[_size_of(batch)] = {str(engine) for engine in rivals if engine.backend in self._slow}
        fastest = fastest_of(engines)
        slower = ", ".join(f"{engine} {engine.frame_ms:.0f}" for engine in engines if engine is not fastest)
        if slower:
            logger.warning("%s is the fastest: %.0f ms a frame (%s)", fastest, fastest.frame_ms, slower)
        return engines, rows

    def _show(self, chosen: Engine, engines: Iterable[Engine], rows: Iterable[Measurement]) -> None:
        """Sets `rows`: the engines by their time, what was not measured, and what else was tried and does not run."""
        told = {(row.backend, row.precision) for row in rows}
        dropped = [
            Measurement(candidate.backend, candidate.precision, remark=self._attempts.rejected[candidate])
            for candidate in self._ladder
            if candidate in self._attempts.rejected and (candidate.backend, candidate.precision) not in told
        ]
        ordered = sorted(engines, key=lambda engine: engine.frame_ms)
        self.rows = [*(Measurement.of(engine, chosen=engine is chosen) for engine in ordered), *rows, *dropped]

    def _budget_seconds(self, first: Engine) -> float:
        if self._request.explain:
            return _EXPLAIN_SECONDS
        return measuring_seconds(first.frame_ms, expected_frames=self._request.expected_frames, live=self._request.live)

    def _rivals(self, engines: list[Engine], batch: np.ndarray) -> list[Candidate]:
        """What is measured beside `engines`: other backends in the precisions that may be taken, and in float32."""
        precisions = self._precisions
        if self._request.precision == "auto":
            precisions = tuple(dict.fromkeys((*precisions, engines[0].precision, "fp32")))
        cached = [
            name
            for name in self._slow
            if any(self._attempts.is_cached(Candidate(name, precision), batch) for precision in precisions)
        ]
        names = [*cached, *candidates.quick_backends(), *self._slow, *(["eager"] if self._request.explain else [])]
        rivals = [Candidate(name, precision) for name in dict.fromkeys(names) for precision in precisions]
        tried = {str(engine) for engine in engines}
        return [rival for rival in rivals if str(rival) not in tried]

    def _not_tried(self, candidate: Candidate, batch: np.ndarray, deadline: float) -> str:
        """Why a candidate is not tried; empty if it is."""
        if reason := get_backend(candidate.backend).unavailable(self.device):
            return reason
        if candidate in self._attempts.rejected:
            return self._attempts.rejected[candidate]
        if candidate.backend in self._slow and not self._attempts.is_cached(candidate, batch):
            return "takes minutes to build: run once with --backend " + candidate.backend
        return "" if time.monotonic() < deadline else "no time left to measure it"

    # --- building in the background ---

    def _build_beside(self, fastest: Engine, batch: np.ndarray, expected: np.ndarray) -> None:
        """Builds what is worth minutes: on the CPU nothing, where our fused engine runs."""
        if (fastest.backend == "fused" and self.device.type == "cpu") or fastest.precision == "fast":
            return
        frames = self._request.expected_frames
        seconds = math.inf if self._request.live else 0.0 if frames is None else frames * fastest.frame_ms / 1e3
        if seconds < BUILDING_PAYS_AFTER_SECONDS:
            return
        for name in self._slow:
            backend, candidate = BACKENDS[name], Candidate(name, fastest.precision)
            is_measured = str(candidate) in self._measured_slow.get(_size_of(batch), ())
            if is_measured or candidate in self._attempts.rejected or backend.unavailable(self.device):
                continue
            if isinstance(backend, FileBackend) and not backend.unbuildable(self.device):
                return self._prepare_in_background(candidate, batch, expected)

    def _prepare_in_background(self, candidate: Candidate, batch: np.ndarray, expected: np.ndarray) -> None:
        size = _size_of(batch)
        if size in self._preparing:
            return
        logger.warning("the %s engine is built while another one runs", candidate)
        is_built = get_backend(candidate.backend).is_file and not self._attempts.is_cached(candidate, batch)
        batch, expected = batch.copy(), expected.copy()

        def prepare() -> Engine | None:
            if is_built:
                try:
                    example = self._attempts.example(candidate, batch)
                    background.build(self._cache, self.generator, candidate.backend, candidate.precision, example)
                except BackendError as error:
                    self._attempts.reject(candidate, error)
                    return None
            return self._attempts.engine(candidate, batch, expected)

        self._preparing[size] = _Preparation(prepare)
        self._preparing[size].start()

    # --- remembering ---

    @property
    def _device_text(self) -> str:
        return engine_files.describe_device(self.device) if self.device.type == "cuda" else ""

    def _remember(
        self, chosen: Engine, size: tuple[int, int], engines: list[Engine], batch: np.ndarray, expected: np.ndarray
    ) -> None:
        """Keeps a choice and, if the engine can be relied on without torch, what it takes to start it so."""
        request, is_auto = self._request, self._request.precision == "auto"
        wanted = fastest_precision(self.device) if is_auto else request.precision
        is_fastest = is_auto and self.measured.precisions == COMPARED
        can_be_kept = quick_start.can_be_kept(request, chosen, wanted=wanted, is_fastest=is_fastest)
        runner, reference = None, None
        try:
            if self.device.type == "cpu" and can_be_kept:
                architecture = self.generator.config.describe()
                runner, reference = quick_start.keep(
                    self._cache, request, chosen, self._attempts, engines, batch, expected, architecture
                )
        except remembered.UNUSABLE as error:
            logger.info("the engine is not kept for a quick start: %s", error)
        if len(engines) > 1 or runner is not None:  # else nothing was measured
            self._keep(chosen, size, runner, reference)

    def _keep(
        self,
        chosen: Engine,
        size: tuple[int, int],
        runner: dict[str, Any] | None = None,
        reference: dict[str, Any] | None = None,
    ) -> None:
        stands_in = not self._request.is_auto and chosen.backend != self._request.backend
        if stands_in or self._request.engine_file is not None:  # the next run may have what was asked for, or no file
            return
        choice = Remembered(
            chosen.backend,
            chosen.precision,
            parity_db=min(chosen.parity_db, 200.0),  # JSON has no infinity
            frame_ms=chosen.frame_ms,
            measured=self._measured_by_size[size],
            measured_slow=tuple(sorted(self._measured_slow.get(size, ()))),
            threads=torch.get_num_threads(),
            versions=remembered.versions_of(candidates.distributions(self._request, self.device)),
            runner=runner,
            reference=reference,
        )
        scale = self.generator.scale
        remembered.remember(self._cache, self._request, size, choice, device=self._device_text, scale=scale)


def _prepared(generator: Generator | None, request: Request, device: torch.device) -> Generator:
    """The request's generator, or a copy of the one that is given, in eager float32 on `device`."""
    if request.checkpoint is not None:
        loaded = load_generator(request.checkpoint, norm_mode=request.norm_mode)
    elif isinstance(generator, Generator):
        loaded = copy.deepcopy(generator)
    else:
        what = "a style's name, a checkpoint file, or a module of engine.generators"
        raise BackendError(f"the generator is {type(generator).__name__}: {what} is needed")
    if (loaded.config.in_channels, loaded.config.out_channels) != (3, 3):
        raise BackendError(
            f"the generator takes {loaded.config.in_channels} and makes {loaded.config.out_channels} channels: "
            f"video frames have 3; only generators from 3 to 3 channels can be run on them"
        )
    loaded = loaded.eval().to(device=device, dtype=torch.float32)
    loaded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return loaded


def _size_of(batch: np.ndarray) -> tuple[int, int]:
    """(H, W) of the frames of a batch [N, H, W, 3]."""
    return batch.shape[1], batch.shape[2]


class _Preparation(threading.Thread):
    """Makes an engine ready beside the running one."""

    def __init__(self, prepare: Callable[[], Engine | None]) -> None:
        super().__init__(name="prepare engine", daemon=True)
        self._prepare = prepare
        self.engine: Engine | None = None

    def run(self) -> None:
        try:
            self.engine = self._prepare()
        except Exception as error:  # a stream that runs must not end with it
            logger.warning("the engine that runs stays: preparing another one failed: %s", first_line(error))
