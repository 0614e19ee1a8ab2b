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
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import engine_files, memory
from engine.backends import BACKENDS, get_backend
from engine.backends.base import CompiledGenerator, FileBackend, InMemoryBackend
from engine.cache import EngineCache
from engine.checkpoint import load_generator
from engine.choosing import background, candidates, remembered
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
from engine.errors import BackendError, EngineError, ParityError, first_line
from engine.files import sha256
from engine.generators import Generator
from engine.parity import PARITY_DB, psnr_db
from engine.precision import dtype_of, fastest_precision
from engine.runners.base import Engine, FrameFacts, Measurement
from engine.runners.packed import PackedRunner
from engine.runners.tensors import TensorRunner
from engine.runners.wrapping import runner_of

logger = logging.getLogger("streamgan")

_EXPLAIN_SECONDS = 120.0

# An engine that takes a minute to build is built for a job of at least this length, in seconds.
BUILDING_PAYS_AFTER_SECONDS = 180.0

# Calls of each engine that are measured, in turn, and how many of them even when the time is up. An engine whose first
# call took so many times the best is left out.
_ROUNDS = 5
_LEAST_ROUNDS = 3
_HOPELESS = 3.0

_Kept = dict[str, Any] | None


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
        self._slow = candidates.slow_backends(self.device)
        self._rejected: dict[Candidate, str] = {}
        self._preparing: dict[tuple[int, int], _Preparation] = {}
        # Engines that take minutes to build and have been measured, by frame size: not to be made ready for it again.
        self._measured_slow: dict[tuple[int, int], set[str]] = {}
        self._measured_by_size: dict[tuple[int, int], Measured] = {}
        # The translations of the frame that is chosen on, by runner.
        self._proofs: dict[int, np.ndarray] = {}

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
        self._proofs.clear()
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
        translated = self._proofs.get(id(chosen.runner), expected)
        self._proofs.clear()
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
        self._rejected[candidate] = str(error)
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
            if candidate not in self._rejected and self._takes_long(candidate, batch):
                if self._request.live:
                    self._prepare_in_background(candidate, batch, expected)
                    continue
                kept = "; the next run finds it in the cache" if get_backend(candidate.backend).is_file else ""
                logger.warning("building the %s engine, which can take minutes%s", candidate, kept)
            engine = self._try(candidate, batch, expected)
            if engine is not None:
                return engine
        raise AssertionError("eager float32 keeps every limit")

    def _takes_long(self, candidate: Candidate, batch: np.ndarray) -> bool:
        """Whether it has to be compiled, for up to minutes."""
        is_slow = get_backend(candidate.backend).build_cost == "minutes"
        return candidate.file is None and is_slow and not self._is_cached(candidate, batch)

    def _in_all_precisions(
        self, first: Engine, batch: np.ndarray, expected: np.ndarray
    ) -> tuple[list[Engine], Measured]:
        """`first` and its backend in the other precisions that may be taken, measured; the one to take comes first."""
        is_named = self._ladder[0].file is not None and str(first) == str(self._ladder[0])
        others = [
            candidate
            for candidate in ([] if is_named else candidates.other_precisions(first, self._precisions))
            if candidate not in self._rejected and not self._takes_long(candidate, batch)
        ]
        if others and not (self._request.explain or comparing_pays(self._request.expected_frames)):
            return [first], Measured(SKIPPED)
        tried = [self._try(candidate, batch, expected) for candidate in others]
        engines = [first, *(engine for engine in tried if engine is not None)]
        if len(engines) == 1:
            return engines, Measured(ONLY_ONE)
        seconds = AUTO_SECONDS if self._request.explain else COMPARING_SECONDS
        engines = self._timed(engines, batch, time.monotonic() + seconds)
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
            engine = self._try(candidate, batch, expected)
            if engine is None:
                rows.append(Measurement(candidate.backend, candidate.precision, remark=self._rejected[candidate]))
            else:
                rivals.append(engine)
        engines = self._timed([*engines, *rivals], batch, deadline)
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
            Measurement(candidate.backend, candidate.precision, remark=self._rejected[candidate])
            for candidate in self._ladder
            if candidate in self._rejected and (candidate.backend, candidate.precision) not in told
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
            if any(self._is_cached(Candidate(name, precision), batch) for precision in precisions)
        ]
        names = [*cached, *candidates.quick_backends(), *self._slow, *(["eager"] if self._request.explain else [])]
        rivals = [Candidate(name, precision) for name in dict.fromkeys(names) for precision in precisions]
        tried = {str(engine) for engine in engines}
        return [rival for rival in rivals if str(rival) not in tried]

    def _not_tried(self, candidate: Candidate, batch: np.ndarray, deadline: float) -> str:
        """Why a candidate is not tried; empty if it is."""
        if reason := get_backend(candidate.backend).unavailable(self.device):
            return reason
        if candidate in self._rejected:
            return self._rejected[candidate]
        if candidate.backend in self._slow and not self._is_cached(candidate, batch):
            return "takes minutes to build: run once with --backend " + candidate.backend
        return "" if time.monotonic() < deadline else "no time left to measure it"

    def _timed(self, engines: list[Engine], batch: np.ndarray, deadline: float) -> list[Engine]:
        """The engines with the best time of some calls, all in turn: what else the machine does hits all of them."""
        best_ms = [math.inf] * len(engines)
        for number in range(_ROUNDS):
            for place, engine in enumerate(engines):
                if engine.frame_ms <= _HOPELESS * min(best_ms):
                    best_ms[place] = min(best_ms[place], timed(engine, batch)[1])
            if number + 1 >= _LEAST_ROUNDS and time.monotonic() > deadline:
                break
        return [
            dataclasses.replace(engine, frame_ms=min(ms, engine.frame_ms))
            for engine, ms in zip(engines, best_ms, strict=True)
        ]

    # --- one candidate ---

    def _try(self, candidate: Candidate, batch: np.ndarray, expected: np.ndarray) -> Engine | None:
        """The engine, if it can be had and is within its precision's parity limit; else None, and it says why."""
        if candidate in self._rejected:
            return None
        try:
            start = time.perf_counter()
            engine = self._made_ready(candidate, batch, expected)
            ready_seconds = time.perf_counter() - start
            translated, frame_ms = timed(engine, batch)
            parity_db = psnr_db(translated, expected)
            if parity_db < PARITY_DB[candidate.precision]:
                raise ParityError(
                    f"the frame it was tried on is at {parity_db:.1f} dB of eager float32 and "
                    f"{PARITY_DB[candidate.precision]:.0f} dB is the least for {candidate.precision}"
                )
        except EngineError as error:
            self._reject(candidate, error)
            return None
        except (RuntimeError, MemoryError) as error:
            if candidate.backend == "eager":  # the last one, out of memory
                raise
            self._reject(candidate, BackendError(first_line(error)))
            return None
        if threading.current_thread() is threading.main_thread():
            self._proofs[id(engine.runner)] = translated
        return dataclasses.replace(engine, parity_db=parity_db, frame_ms=frame_ms, ready_seconds=ready_seconds)

    def _reject(self, candidate: Candidate, error: EngineError) -> None:
        if candidate.file is None:  # a file that is for another frame size may be right for the next
            self._rejected[candidate] = str(error)
        # That an engine nobody asked for does not know a generator is no news.
        asked = candidate.file is not None or candidate.backend == self._request.backend
        drops_precision = candidate == self._ladder[0] and self._request.precision == candidate.precision
        drops_precision &= any(other.precision != candidate.precision for other in self._ladder[1:2])
        is_news = asked or drops_precision or (isinstance(error, ParityError) and not self._request.explain)
        level = logging.WARNING if is_news else logging.INFO
        logger.log(level, "%s is not used: %s", candidate, error)

    def _made_ready(self, candidate: Candidate, batch: np.ndarray, expected: np.ndarray) -> Engine:
        example, backend = self._example(candidate, batch), get_backend(candidate.backend)

        def engine_of(run: CompiledGenerator) -> Engine:
            is_eager = candidate.backend == "eager"  # others are compiled for one frame
            runner = runner_of(run, self.generator, candidate.precision, self.device, takes_batches=is_eager)
            return Engine(candidate.backend, candidate.precision, runner)

        def parity_db(run: CompiledGenerator) -> float:
            return psnr_db(engine_of(run).runner.submit(batch)(), expected)

        if reason := backend.unavailable(self.device):
            raise BackendError(f"it can't run here: {reason}")
        with torch.no_grad():
            if candidate.file is not None:
                candidate.file.require_fit(self._sha, example)
                return engine_of(candidate.file.load(example))
            generator = copy.deepcopy(self.generator)
            if isinstance(backend, FileBackend):
                return engine_of(
                    engine_files.load_or_build(self._cache, generator, self._sha, backend, candidate.precision, example)
                )
            assert isinstance(backend, InMemoryBackend)
            return engine_of(backend.compile(generator, example, candidate.precision, parity_db))

    def _example(self, candidate: Candidate, batch: np.ndarray) -> Tensor:
        shape = (len(batch), 3, *self._facts.padded_size(*_size_of(batch)))
        dtype = dtype_of(candidate.precision, self.device)
        return torch.zeros(shape, dtype=dtype, device=self.device).to(memory_format=torch.channels_last)

    @functools.cached_property
    def _sha(self) -> str:
        return engine_files.generator_hash(self.generator)

    def _is_cached(self, candidate: Candidate, batch: np.ndarray) -> bool:
        backend = get_backend(candidate.backend)
        if not isinstance(backend, FileBackend) or backend.unavailable(self.device):
            return False
        return self._cache.has(*self._cache_key(candidate, batch))

    def _cache_key(self, candidate: Candidate, batch: np.ndarray) -> tuple[dict[str, str], dict[str, str]]:
        backend, example = get_backend(candidate.backend), self._example(candidate, batch)
        assert isinstance(backend, FileBackend)
        return engine_files.cache_key(self.generator, self._sha, backend, candidate.precision, example)

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
            if is_measured or candidate in self._rejected or backend.unavailable(self.device):
                continue
            if isinstance(backend, FileBackend) and not backend.unbuildable(self.device):
                return self._prepare_in_background(candidate, batch, expected)

    def _prepare_in_background(self, candidate: Candidate, batch: np.ndarray, expected: np.ndarray) -> None:
        size = _size_of(batch)
        if size in self._preparing:
            return
        logger.warning("the %s engine is built while another one runs", candidate)
        is_built = get_backend(candidate.backend).is_file and not self._is_cached(candidate, batch)
        batch, expected = batch.copy(), expected.copy()

        def prepare() -> Engine | None:
            if is_built:
                try:
                    example = self._example(candidate, batch)
                    background.build(self._cache, self.generator, candidate.backend, candidate.precision, example)
                except BackendError as error:
                    self._reject(candidate, error)
                    return None
            return self._try(candidate, batch, expected)

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
        kept: tuple[_Kept, _Kept] = None, None
        try:
            if self._can_start_without_torch(chosen):
                kept = self._kept(chosen, size, engines, batch, expected)
        except remembered.UNUSABLE as error:
            logger.info("the engine is not kept for a quick start: %s", error)
        if len(engines) > 1 or kept[0] is not None:  # else nothing was measured
            self._keep(chosen, size, *kept)

    def _keep(
        self,
        chosen: Engine,
        size: tuple[int, int],
        runner: _Kept = None,
        reference: _Kept = None,
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

    def _can_start_without_torch(self, chosen: Engine) -> bool:
        """Not what this frame made necessary, or has little to spare: the next video is another proof."""
        request = self._request
        if request.checkpoint is None or self.device.type != "cpu":
            return False
        backend = get_backend(chosen.backend)
        is_asked = chosen.backend == request.backend or (request.backend == "auto" and chosen.backend == "fused")
        wanted = fastest_precision(self.device) if request.precision == "auto" else request.precision
        is_fastest = request.precision == "auto" and self.measured.precisions == COMPARED
        return (
            is_asked
            and backend.runs_without_torch
            and (chosen.precision == wanted or is_fastest)
            and remembered.has_to_spare(chosen)
        )

    def _kept(
        self, chosen: Engine, size: tuple[int, int], engines: list[Engine], batch: np.ndarray, expected: np.ndarray
    ) -> tuple[_Kept, _Kept]:
        """What `remembered.start` makes the runner and its float32 reference from; None, None: nothing."""
        request, architecture = self._request, self.generator.config.describe()
        assert request.checkpoint is not None
        reference: Engine | None = None
        if str(chosen) != "fused fp32":
            float32 = [engine for engine in engines if str(engine) == "fused fp32"]
            reference = float32[0] if float32 else self._try(Candidate("fused", "fp32"), batch, expected)
            if reference is None or not remembered.has_to_spare(reference):
                return None, None
        if sha256(request.checkpoint) != request.generator["generator"]:
            return None, None  # it has been rewritten meanwhile
        if isinstance(chosen.runner, PackedRunner):
            kept = remembered.keep_weights(self._cache, request, chosen, chosen.runner, architecture)
        else:
            assert isinstance(chosen.runner, TensorRunner)
            kept = {
                "package": self._cache_key(Candidate(chosen.backend, chosen.precision), batch),
                "facts": dataclasses.asdict(self._facts),
                "dtype": str(chosen.runner.dtype).removeprefix("torch."),
                "size": self._facts.padded_size(*size),
                "frame_bytes": chosen.runner.needed_bytes(1, *size),
            }
        if reference is None:
            return kept, None
        assert isinstance(reference.runner, PackedRunner)
        return kept, remembered.keep_weights(self._cache, request, reference, reference.runner, architecture)


def timed(engine: Engine, batch: np.ndarray) -> tuple[np.ndarray, float]:
    """An engine's translation of a batch, and the milliseconds that it takes for each of its frames."""
    start = time.perf_counter()
    translated = engine.runner.submit(batch)()
    return translated, 1e3 * (time.perf_counter() - start) / len(batch)


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
