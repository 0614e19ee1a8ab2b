"""Which engine runs: what was asked for, or the fastest of those that keep the parity contract on a real frame.

`Chooser.choose` is called with the first frame of each size. It takes the first engine of a short list that runs. With
`--precision auto` on a CPU it then measures that backend in each precision that `auto` takes, which costs a few frames.
With `--backend auto` it measures other backends too, where the job is long enough to make good for that. What was
measured is remembered in the engine cache, for this processor. What takes minutes to build is built by another process
while that first engine translates; then both take real frames in turn, and the faster one stays.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine import artifacts, background
from engine.backends import BACKENDS, get_backend, own_precisions
from engine.backends.interface import CompiledGenerator, first_line
from engine.cache import EngineCache
from engine.engines import Row, RunningEngine, row_of
from engine.errors import BackendError, EngineError, ParityError
from engine.generators import Generator
from engine.measuring import (
    AUTO_SECONDS,
    COMPARED,
    COMPARING_SECONDS,
    ONLY_ONE,
    SKIPPED,
    Measured,
    RememberedChoice,
    comparing_pays,
    fastest_of,
    measuring_seconds,
)
from engine.precision import (
    PARITY_DB,
    PRECISIONS,
    auto_precisions,
    dtype_of,
    fastest_precision,
    is_emulated,
    psnr_db,
)
from engine.processor import available_cores, kernel_facts

logger = logging.getLogger("streamgan")

_EXPLAIN_SECONDS = 120.0

# An engine that takes a minute to build is built for a job of at least this length, in seconds.
BUILDING_PAYS_AFTER_SECONDS = 180.0

# Built in seconds, and in minutes; in the order that they are worth trying in.
_QUICK = ("openvino", "onnxruntime", "torchscript")
_SLOW = {"cpu": ("aoti",), "cuda": ("tensorrt", "tensorrt-rtx", "aoti")}
# Take up to minutes too, and are not tried unless they are asked for.
_SLOW_IF_ASKED = ("inductor", "onnxruntime-tensorrt", "openvino-gpu", "openvino-npu")

# Calls of each engine that are measured, in turn, and how many of them even when the time is up. An engine whose first
# call took so many times the best is left out.
_ROUNDS = 5
_LEAST_ROUNDS = 3
_HOPELESS = 3.0

# Frames that each of two engines takes in a trial.
_TRIAL_FRAMES = 4


@dataclasses.dataclass(frozen=True)
class Engine(RunningEngine):
    """An engine that runs on tensors.

    Attributes:
        dtype: of its input.
        run: takes and returns a tensor [N, 3, H, W].
    """

    dtype: torch.dtype
    run: CompiledGenerator


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What may be tried: a backend in a precision, or the engine in a file that the user names."""

    backend: str
    precision: str
    file: artifacts.Exported | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


class Trial:
    """Two engines take frames of the running video in turn."""

    def __init__(self, current: Engine, rival: Engine) -> None:
        self._engines = (current, rival)
        self._best_ms = [math.inf, math.inf]
        self._frames = 0

    @property
    def engine(self) -> Engine:
        """Whose turn it is."""
        return self._engines[self._frames % 2]

    def add(self, frame_ms: float) -> None:
        """Notes how long a frame has taken the engine whose turn it was."""
        turn = self._frames % 2
        self._best_ms[turn] = min(self._best_ms[turn], frame_ms)
        self._frames += 1

    @property
    def rival(self) -> Engine:
        """The one that did not run before."""
        return self._engines[1]

    @property
    def winner(self) -> Engine | None:
        """The faster one; None until both have had their frames."""
        if self._frames < 2 * _TRIAL_FRAMES:
            return None
        faster = int(self._best_ms[1] < self._best_ms[0])
        return dataclasses.replace(self._engines[faster], frame_ms=self._best_ms[faster])


class Chooser:
    """Chooses the engine for each frame size.

    Args:
        generator: eager, float32, on `device`.
        run: translates a uint8 batch [N, H, W, 3] with an engine.
        padded_size: (H, W) of a frame -> (H, W) of the tensor that the generator gets.
        backend, precision: "auto" or a name.
        file: an engine of `engine.export` that is tried before anything else.
        expected_frames: how many frames will come; None: unknown.
        live: the stream does not wait: what takes long is made ready while another engine runs.
        explain: `rows` are wanted, of as many backends as there are.

    Attributes:
        rows: what was tried for the size that was chosen for last; empty where the choice was remembered.
        measured: what that choice was based on, in this run or in the one that it is remembered from.

    Raises:
        BackendError: unknown names, or a backend that can't run here.
    """

    def __init__(
        self,
        generator: Generator,
        device: torch.device,
        run: Callable[[Engine, np.ndarray], np.ndarray],
        padded_size: Callable[[int, int], tuple[int, int]],
        *,
        backend: str,
        precision: str,
        file: Path | None = None,
        expected_frames: int | None = None,
        live: bool = False,
        explain: bool = False,
    ) -> None:
        self.stand_in = Engine("eager", "fp32", torch.float32, generator, is_stand_in=True)
        self.rows: list[Row] = []
        self.measured = Measured()
        self._generator = generator
        self._device = device
        self._run = run
        self._padded_size = padded_size
        self._asked = (backend, precision)
        self._auto = backend == "auto" and file is None
        self._precisions = auto_precisions(device) if precision == "auto" else (precision,)
        self._expected_frames = expected_frames
        self._live = live
        self._explain = explain
        self._cache = EngineCache()
        self._ladder = self._candidates(backend, precision, file)
        self._rejected: dict[Candidate, str] = {}
        self._preparing: dict[tuple[int, int], _Preparation] = {}
        # Engines that take minutes to build and have been measured, by frame size: not to be made ready for it again.
        self._measured_slow: dict[tuple[int, int], set[str]] = {}
        self._measured_by_size: dict[tuple[int, int], Measured] = {}
        # What engines made of the frame that they were proven on, until the choice is made and the frame is shown.
        self._proofs: dict[CompiledGenerator, tuple[np.ndarray, np.ndarray]] = {}
        # The chosen backend in the precisions that were compared, by name, for as long: `prove` may be asked for one.
        self._others: dict[str, Engine] = {}
        # The batch of the last choice, and what eager float32 has made of it.
        self._proven_on: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def runs_float32(self) -> bool:
        """Whether what was asked for is what stands in on nearly uniform frames."""
        return (self._ladder[0].backend, self._ladder[0].precision) == ("eager", "fp32")

    def choose(self, batch: np.ndarray) -> Engine:
        """The engine for frames like these real ones, uint8 [N, H, W, 3]; eager float32 can always run."""
        self._proofs.clear()
        self._others.clear()
        expected = self._run(self.stand_in, batch)
        self._proven_on = batch.copy(), expected
        recalled = None if self._explain else self._recalled(batch)
        remembered = [Candidate(recalled.backend, recalled.precision)] if recalled else []
        first = self._first([*remembered, *self._ladder], batch, expected)
        if recalled is not None and (first.backend, first.precision) == (recalled.backend, recalled.precision):
            self.rows, self.measured = [], recalled.measured
            self._measured_by_size[_size_of(batch)] = self.measured
            if self._auto:
                # Its first frame took longer than others will.
                self._build_beside(dataclasses.replace(first, frame_ms=recalled.frame_ms), batch, expected)
            return first
        engines, self.measured = self._in_all_precisions(first, batch, expected)
        if self._auto:
            engines, rows = self._beside_others(engines, batch, expected)
        else:
            rows = []
        self._measured_by_size[_size_of(batch)] = self.measured
        fastest = fastest_of(engines)
        self._show(fastest, engines, rows)
        if len(engines) > 1:
            self._remember(batch, fastest)
        if self._auto:
            self._build_beside(fastest, batch, expected)
        return fastest

    def prove(self, backend: str, precision: str) -> Engine | None:
        """Another engine, proven on the frame of the last choice; None: it does not run, or is not close enough."""
        candidate = Candidate(backend, precision)
        if str(candidate) in self._others:
            return self._others[str(candidate)]
        return self._try(candidate, *self._proven_on) if self._proven_on else None

    def cache_key(self, engine: Engine, size: tuple[int, int]) -> tuple[dict[str, str], dict[str, str]]:
        """Where the cache has an engine that is a file, for frames of this (H, W)."""
        candidate = Candidate(engine.backend, engine.precision)
        example = self._example(candidate, np.empty((1, *size, 3), np.uint8))
        return artifacts.cache_key(self._generator, self._sha, engine.backend, engine.precision, example)

    def proven_frames(self, engine: Engine, batch: np.ndarray) -> np.ndarray | None:
        """What `engine` has made of `batch`, if that is what it was just proven on: uint8, to be had once."""
        proof = self._proofs.get(engine.run)
        self._proofs.clear()
        self._others.clear()
        return proof[1] if proof is not None and np.array_equal(proof[0], batch) else None

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
        """How to decide between the engine that runs and one that has become ready; None: the new one was asked for."""
        return Trial(current, rival) if self._auto else None

    def decided(self, batch: np.ndarray, trial: Trial) -> None:
        """Remembers who has won a trial."""
        assert trial.winner is not None
        self._measured_slow.setdefault(_size_of(batch), set()).add(str(trial.rival))
        self._remember(batch, trial.winner)

    # --- what to try ---

    def _candidates(self, backend: str, precision: str, file: Path | None) -> list[Candidate]:
        """What to try, best first. The last is eager float32, which can't fail the parity check."""
        if precision not in ("auto", *PRECISIONS):
            raise BackendError(f"unknown precision {precision!r}: accepted are auto, {', '.join(PRECISIONS)}")
        if backend != "auto" and (reason := get_backend(backend).unavailable(self._device)):
            raise BackendError(f"backend {backend!r} can't run here: {reason}")
        exported = artifacts.read_exported(file) if file else None
        if exported is not None:
            if backend not in ("auto", exported.backend):
                raise BackendError(f"{file} is an engine of the backend {exported.backend}, not {backend}")
            if precision not in ("auto", exported.precision):
                raise BackendError(f"{file} is an engine in {exported.precision}, not {precision}")
        if own_precisions(backend):
            ladder = self._ladder_elsewhere(backend, precision)
        else:
            ladder = self._ladder_here(backend, precision)
        if exported is not None:
            ladder.insert(0, Candidate(exported.backend, exported.precision, exported))
        return list(dict.fromkeys(ladder)) if exported is None else ladder

    def _ladder_here(self, backend: str, precision: str) -> list[Candidate]:
        fastest = fastest_precision(self._device)
        first = fastest if precision == "auto" else precision
        if is_emulated(first, self._device):
            logger.warning("this processor has no %s arithmetic: expect it to be slower than fp32", first)
        best_ready = "fused" if BACKENDS["fused"].unavailable(self._device) is None else "eager"
        half = [fastest] if first == "fast" else []
        if first == "fp16" and precision == "auto":
            half = ["bf16"]  # of the range of float32, for generators whose values outgrow float16
        asked = best_ready if backend == "auto" else backend
        accepted = getattr(BACKENDS.get(asked), "ACCEPTED", PRECISIONS)
        ladder = [Candidate(asked, first)]
        ladder += [Candidate(asked, tried) for tried in (*half, "fp32") if tried in accepted]
        if asked not in ("eager", best_ready):
            ladder.append(Candidate(best_ready, first))
        return [*ladder, Candidate("eager", first), Candidate("eager", "fp32")]

    def _ladder_elsewhere(self, backend: str, precision: str) -> list[Candidate]:
        """For a backend that computes elsewhere than on the device, which stands in for it in its own precisions."""
        own = own_precisions(backend)
        if precision not in ("auto", *own):
            raise BackendError(f"backend {backend!r} runs in {' and '.join(own)}, not in {precision}")
        ladder = [Candidate(backend, one) for one in own if precision in ("auto", one)]
        if BACKENDS["fused"].unavailable(self._device) is None:
            here = (fastest_precision(self._device), "fp32") if precision == "auto" else ("fp32",)
            ladder += [Candidate("fused", one) for one in here]
        return [*ladder, Candidate("eager", "fp32")]

    def _first(self, ladder: Iterable[Candidate], batch: np.ndarray, expected: np.ndarray) -> Engine:
        """The first candidate that runs and keeps the parity contract; a live stream does not wait for a build."""
        for candidate in ladder:
            if candidate not in self._rejected and self._takes_long(candidate, batch):
                if self._live:
                    self._prepare_in_background(candidate, batch, expected)
                    continue
                kept = "" if candidate.backend == "inductor" else "; the next run finds it in the cache"
                logger.warning("building the %s engine, which can take minutes%s", candidate, kept)
            engine = self._try(candidate, batch, expected)
            if engine is not None:
                return engine
        raise AssertionError("eager float32 keeps every limit")

    def _takes_long(self, candidate: Candidate, batch: np.ndarray) -> bool:
        """Whether it has to be compiled, for up to minutes."""
        is_slow = candidate.backend in (*_SLOW_IF_ASKED, *_SLOW[self._device.type])
        return candidate.file is None and is_slow and not self._is_cached(candidate, batch)

    def _in_all_precisions(
        self, first: Engine, batch: np.ndarray, expected: np.ndarray
    ) -> tuple[list[Engine], Measured]:
        """`first` and its backend in the other precisions that `auto` takes, measured; the one to take comes first."""
        others = self._other_precisions(first, batch)
        if others and not (self._explain or comparing_pays(self._expected_frames)):
            return [first], Measured(SKIPPED)
        tried = [self._try(candidate, batch, expected) for candidate in others]
        engines = [first, *(engine for engine in tried if engine is not None)]
        if len(engines) == 1:
            return engines, Measured(ONLY_ONE)
        seconds = AUTO_SECONDS if self._explain else COMPARING_SECONDS
        engines = self._measured(engines, batch, time.monotonic() + seconds)
        self._others = {str(engine): engine for engine in engines}
        chosen = fastest_of(engines)
        logger.info("%s is taken: %s", chosen, ", ".join(f"{engine} {engine.frame_ms:.1f} ms" for engine in engines))
        return [chosen, *(engine for engine in engines if engine is not chosen)], Measured(COMPARED)

    def _other_precisions(self, first: Engine, batch: np.ndarray) -> list[Candidate]:
        """The backend of `first` in those other precisions that `auto` takes and that are ready in a moment."""
        is_named = self._ladder[0].file is not None and str(first) == str(self._ladder[0])
        if is_named or own_precisions(first.backend) or first.precision not in self._precisions:
            return []
        accepted = getattr(BACKENDS.get(first.backend), "ACCEPTED", PRECISIONS)
        candidates = [Candidate(first.backend, one) for one in self._precisions if one in accepted]
        return [
            candidate
            for candidate in candidates
            if candidate.precision != first.precision
            and candidate not in self._rejected
            and not self._takes_long(candidate, batch)
        ]

    def _beside_others(
        self, engines: list[Engine], batch: np.ndarray, expected: np.ndarray
    ) -> tuple[list[Engine], list[Row]]:
        """`engines` and other backends, as far as there is time, measured; and who was not measured, and why.

        Args:
            engines: one backend in some precisions, the fastest first.
        """
        first, rivals, rows = engines[0], [], []
        self._measured_slow[_size_of(batch)] = set()
        budget = self._budget_seconds(first)
        if not budget:
            return engines, []
        deadline = time.monotonic() + budget
        logger.warning("measuring which engine is the fastest here, for about %.0f s", min(budget, AUTO_SECONDS))
        for candidate in self._rivals(engines, batch):
            if reason := self._not_tried(candidate, batch, deadline):
                rows.append(Row(candidate.backend, candidate.precision, remark=reason))
                continue
            engine = self._try(candidate, batch, expected)
            if engine is None:
                rows.append(Row(candidate.backend, candidate.precision, remark=self._rejected[candidate]))
            else:
                rivals.append(engine)
        engines = self._measured([*engines, *rivals], batch, deadline)
        self.measured = dataclasses.replace(self.measured, backends=True)
        slow = _SLOW[self._device.type]
        self._measured_slow[_size_of(batch)] = {str(engine) for engine in rivals if engine.backend in slow}
        fastest = fastest_of(engines)
        slower = ", ".join(f"{engine} {engine.frame_ms:.0f}" for engine in engines if engine is not fastest)
        if slower:
            logger.warning("%s is the fastest: %.0f ms a frame (%s)", fastest, fastest.frame_ms, slower)
        return engines, rows

    def _show(self, chosen: Engine, engines: Iterable[Engine], rows: Iterable[Row]) -> None:
        """Sets `rows`: the engines by their time, what was not measured, and what else was tried and does not run."""
        told = {(row.backend, row.precision) for row in rows}
        dropped = [
            Row(candidate.backend, candidate.precision, remark=self._rejected[candidate])
            for candidate in self._ladder
            if candidate in self._rejected and (candidate.backend, candidate.precision) not in told
        ]
        ordered = sorted(engines, key=lambda engine: engine.frame_ms)
        self.rows = [*(row_of(engine, chosen=engine is chosen) for engine in ordered), *rows, *dropped]

    def _build_beside(self, fastest: Engine, batch: np.ndarray, expected: np.ndarray) -> None:
        slow = self._slow_candidate(fastest, batch)
        if slow is not None:
            self._prepare_in_background(slow, batch, expected)

    def _budget_seconds(self, first: Engine) -> float:
        if self._explain:
            return _EXPLAIN_SECONDS
        return measuring_seconds(first.frame_ms, expected_frames=self._expected_frames, live=self._live)

    def _rivals(self, engines: list[Engine], batch: np.ndarray) -> list[Candidate]:
        """What is measured beside `engines`: other backends in the precisions that may be taken, and in float32."""
        precisions = self._precisions
        if self._asked[1] == "auto":
            precisions = tuple(dict.fromkeys((*precisions, engines[0].precision, "fp32")))
        slow = _SLOW[self._device.type]
        cached = [
            name for name in slow if any(self._is_cached(Candidate(name, precision), batch) for precision in precisions)
        ]
        names = [*cached, *_QUICK]
        names += [name for name in (*slow, *(["eager"] if self._explain else [])) if name not in names]
        rivals = [Candidate(name, precision) for name in names if name in BACKENDS for precision in precisions]
        tried = {str(engine) for engine in engines}
        return [rival for rival in dict.fromkeys(rivals) if str(rival) not in tried]

    def _not_tried(self, candidate: Candidate, batch: np.ndarray, deadline: float) -> str:
        """Why a candidate is not tried; empty if it is."""
        backend = get_backend(candidate.backend)
        if reason := backend.unavailable(self._device):
            return reason
        if candidate in self._rejected:
            return self._rejected[candidate]
        if candidate.backend in _SLOW[self._device.type] and not self._is_cached(candidate, batch):
            return "takes minutes to build: run once with --backend " + candidate.backend
        return "" if time.monotonic() < deadline else "no time left to measure it"

    def _slow_candidate(self, fastest: Engine, batch: np.ndarray) -> Candidate | None:
        """What is worth minutes of building in the background: on the CPU nothing, where our fused engine runs."""
        if (fastest.backend == "fused" and self._device.type == "cpu") or fastest.precision == "fast":
            return None
        frames = self._expected_frames
        seconds = math.inf if self._live else 0.0 if frames is None else frames * fastest.frame_ms / 1e3
        if seconds < BUILDING_PAYS_AFTER_SECONDS:
            return None
        for name in _SLOW[self._device.type]:
            backend, candidate = BACKENDS.get(name), Candidate(name, fastest.precision)
            if backend is None or backend.unavailable(self._device) or backend.unbuildable(self._device):
                continue
            if candidate not in self._rejected and str(candidate) not in self._measured_slow[_size_of(batch)]:
                return candidate
        return None

    # --- trying ---

    def _try(self, candidate: Candidate, batch: np.ndarray, expected: np.ndarray) -> Engine | None:
        """The engine, if it can be had and is within its precision's parity limit; else None, and it says why."""
        if candidate in self._rejected:
            return None
        try:
            start = time.perf_counter()
            engine = self._made_ready(candidate, batch, expected)
            ready_seconds = time.perf_counter() - start
            translated, frame_ms = timed(self._run, engine, batch)
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
            self._proofs[engine.run] = batch.copy(), translated
        return dataclasses.replace(engine, parity_db=parity_db, frame_ms=frame_ms, ready_seconds=ready_seconds)

    def _reject(self, candidate: Candidate, error: EngineError) -> None:
        if candidate.file is None:  # a file that is for another frame size may be right for the next
            self._rejected[candidate] = str(error)
        # That an engine nobody asked for does not know a generator is no news.
        asked = candidate.file is not None or candidate.backend == self._asked[0]
        is_news = asked or (isinstance(error, ParityError) and not self._explain)
        level = logging.WARNING if is_news else logging.INFO
        logger.log(level, "%s is not used: %s", candidate, error)

    def _made_ready(self, candidate: Candidate, batch: np.ndarray, expected: np.ndarray) -> Engine:
        example, dtype = self._example(candidate, batch), dtype_of(candidate.precision, self._device)
        backend = get_backend(candidate.backend)

        def engine_of(run: CompiledGenerator) -> Engine:
            return Engine(candidate.backend, candidate.precision, getattr(run, "input_dtype", dtype), run)

        def parity_db(run: CompiledGenerator) -> float:
            return psnr_db(self._run(engine_of(run), batch), expected)

        if reason := backend.unavailable(self._device):
            raise BackendError(f"it can't run here: {reason}")
        with torch.no_grad():
            if candidate.file is not None:
                candidate.file.require_fit(self._sha, example)
                return engine_of(candidate.file.load(example))
            generator = copy.deepcopy(self._generator)
            if not artifacts.is_file_backend(backend):
                return engine_of(backend.compile_generator(generator, example, candidate.precision, parity_db))
            return engine_of(
                artifacts.cached(self._cache, generator, self._sha, candidate.backend, candidate.precision, example)
            )

    def _measured(self, engines: list[Engine], batch: np.ndarray, deadline: float) -> list[Engine]:
        """The engines with the best time of some calls, all in turn: what else the machine does hits all of them."""
        best_ms = [math.inf] * len(engines)
        for number in range(_ROUNDS):
            for place, engine in enumerate(engines):
                if engine.frame_ms > _HOPELESS * min(best_ms):
                    continue
                best_ms[place] = min(best_ms[place], timed(self._run, engine, batch)[1])
            if number + 1 >= _LEAST_ROUNDS and time.monotonic() > deadline:
                break
        return [
            dataclasses.replace(engine, frame_ms=min(ms, engine.frame_ms))
            for engine, ms in zip(engines, best_ms, strict=True)
        ]

    def _prepare_in_background(self, candidate: Candidate, batch: np.ndarray, expected: np.ndarray) -> None:
        size = _size_of(batch)
        if size in self._preparing:
            return
        logger.warning("the %s engine is built while another one runs", candidate)
        slow = artifacts.is_file_backend(get_backend(candidate.backend)) and not self._is_cached(candidate, batch)
        batch, expected = batch.copy(), expected.copy()

        def prepare() -> Engine | None:
            if slow:
                try:
                    example = self._example(candidate, batch)
                    background.build(self._cache, self._generator, candidate.backend, candidate.precision, example)
                except BackendError as error:
                    self._reject(candidate, error)
                    return None
            return self._try(candidate, batch, expected)

        self._preparing[size] = _Preparation(prepare)
        self._preparing[size].start()

    def _example(self, candidate: Candidate, batch: np.ndarray) -> Tensor:
        shape = (len(batch), 3, *self._padded_size(*batch.shape[1:3]))
        dtype = dtype_of(candidate.precision, self._device)
        return torch.zeros(shape, dtype=dtype, device=self._device).to(memory_format=torch.channels_last)

    @functools.cached_property
    def _sha(self) -> str:
        return artifacts.generator_hash(self._generator)

    def _is_cached(self, candidate: Candidate, batch: np.ndarray) -> bool:
        backend = BACKENDS.get(candidate.backend)
        if backend is None or not artifacts.is_file_backend(backend) or backend.unavailable(self._device):
            return False
        example = self._example(candidate, batch)
        return artifacts.is_cached(
            self._cache, self._generator, self._sha, candidate.backend, candidate.precision, example
        )

    # --- remembering ---

    def _note_key(self, batch: np.ndarray) -> tuple[dict[str, str], dict[str, str]]:
        height, width = batch.shape[1:3]
        of = {
            "note": "fastest engine",
            "generator": self._sha,
            "size": f"{width}x{height}",
            "backend": self._asked[0],
            "precision": self._asked[1],
        }
        by = {
            "device": artifacts.describe_device(self._device),
            "threads": str(torch.get_num_threads()),
            "cores": str(available_cores()),
        }
        with contextlib.suppress(ImportError, ValueError):  # whoever runs the kernels says why they can't be
            by |= kernel_facts()
        for name, backend in BACKENDS.items():
            if name in _SLOW_IF_ASKED or not artifacts.is_file_backend(backend):
                continue
            if backend.unavailable(self._device) is None:
                by[name] = backend.version(self._device)
        return of, by

    def _recalled(self, batch: np.ndarray) -> RememberedChoice | None:
        """What was remembered for frames of this size; None: nothing, or this job is worth measuring more."""
        if self._ladder[0].file is not None or not (self._auto or len(self._precisions) > 1):
            return None
        found = RememberedChoice.from_json(self._cache.note(*self._note_key(batch)))
        if found is None or found.backend not in BACKENDS or found.precision not in PRECISIONS:
            return None
        if not found.measured.suffices(
            frame_ms=found.frame_ms, expected_frames=self._expected_frames, live=self._live, others=self._auto
        ):
            return None
        self._measured_slow[_size_of(batch)] = set(found.measured_slow)
        return found

    def _remember(self, batch: np.ndarray, engine: Engine) -> None:
        stands_in = not self._auto and engine.backend != self._asked[0]
        if stands_in or self._ladder[0].file is not None:  # the next run may have what was asked for, or no file
            return
        size = _size_of(batch)
        choice = RememberedChoice(
            engine.backend,
            engine.precision,
            frame_ms=engine.frame_ms,
            measured=self._measured_by_size[size],
            measured_slow=tuple(sorted(self._measured_slow.get(size, ()))),
        )
        self._cache.keep_note(*self._note_key(batch), dataclasses.asdict(choice))


def timed(
    run: Callable[[Engine, np.ndarray], np.ndarray], engine: Engine, batch: np.ndarray
) -> tuple[np.ndarray, float]:
    """What an engine makes of a batch, and the milliseconds it takes for each of its frames."""
    start = time.perf_counter()
    translated = run(engine, batch)
    return translated, 1e3 * (time.perf_counter() - start) / len(batch)


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
