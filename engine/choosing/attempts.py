"""One candidate after the other: made ready, tried on a real frame, and held to its precision's parity limit."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine import engine_files
from engine.backends import get_backend
from engine.backends.base import CompiledGenerator, FileBackend, InMemoryBackend
from engine.cache import EngineCache
from engine.choosing import measuring
from engine.choosing.candidates import Candidate
from engine.choosing.request import Request
from engine.errors import BackendError, EngineError, ParityError, first_line
from engine.generators import Generator
from engine.parity import PARITY_DB, psnr_db
from engine.precision import dtype_of
from engine.runners.base import Engine, FrameFacts
from engine.runners.wrapping import runner_of

logger = logging.getLogger("streamgan")


class Attempts:
    """Makes engines of candidates. One that fails is not tried again.

    Args:
        generator: in eager float32 on `device`.
        ladder: what was asked for, best first; decides whether a failure is news to the user.

    Attributes:
        rejected: the candidates that failed, and why.
        translations: of the frame that is chosen on, uint8 [N, H, W, 3], by the `id` of the runner; whoever chooses
            clears it.
    """

    def __init__(
        self,
        generator: Generator,
        request: Request,
        cache: EngineCache,
        device: torch.device,
        ladder: Sequence[Candidate],
    ) -> None:
        self.rejected: dict[Candidate, str] = {}
        self.translations: dict[int, np.ndarray] = {}
        self._generator = generator
        self._request = request
        self._cache = cache
        self._device = device
        self._ladder = ladder
        self._facts = FrameFacts.of(generator)

    def engine(self, candidate: Candidate, batch: np.ndarray, expected: np.ndarray) -> Engine | None:
        """The engine, if it can be had and is within its precision's parity limit; else None, and it says why.

        Args:
            batch: real frames, uint8 [N, H, W, 3].
            expected: their translation in eager float32.
        """
        if candidate in self.rejected:
            return None
        try:
            start = time.perf_counter()
            engine = self._made_ready(candidate, batch, expected)
            ready_seconds = time.perf_counter() - start
            translated, frame_ms = measuring.timed(engine, batch)
            parity_db = psnr_db(translated, expected)
            if parity_db < PARITY_DB[candidate.precision]:
                raise ParityError(
                    f"the frame it was tried on is at {parity_db:.1f} dB of eager float32 and "
                    f"{PARITY_DB[candidate.precision]:.0f} dB is the least for {candidate.precision}"
                )
        except EngineError as error:
            self.reject(candidate, error)
            return None
        except (RuntimeError, MemoryError) as error:
            if candidate.backend == "eager":  # the last one, out of memory
                raise
            self.reject(candidate, BackendError(first_line(error)))
            return None
        if threading.current_thread() is threading.main_thread():
            self.translations[id(engine.runner)] = translated
        return dataclasses.replace(engine, parity_db=parity_db, frame_ms=frame_ms, ready_seconds=ready_seconds)

    def reject(self, candidate: Candidate, error: EngineError) -> None:
        """Leaves a candidate out from now on, with a warning where the user has to know."""
        if candidate.file is None:  # a file that is for another frame size may be right for the next
            self.rejected[candidate] = str(error)
        # That an engine nobody asked for does not know a generator is no news.
        asked = candidate.file is not None or candidate.backend == self._request.backend
        drops_precision = candidate == self._ladder[0] and self._request.precision == candidate.precision
        drops_precision &= any(other.precision != candidate.precision for other in self._ladder[1:2])
        is_news = asked or drops_precision or (isinstance(error, ParityError) and not self._request.explain)
        level = logging.WARNING if is_news else logging.INFO
        logger.log(level, "%s is not used: %s", candidate, error)

    def takes_long(self, candidate: Candidate, batch: np.ndarray) -> bool:
        """Whether it has to be compiled, for up to minutes."""
        is_slow = get_backend(candidate.backend).build_cost == "minutes"
        return candidate.file is None and is_slow and not self.is_cached(candidate, batch)

    def is_cached(self, candidate: Candidate, batch: np.ndarray) -> bool:
        """Whether its engine for frames like these lies in the cache."""
        backend = get_backend(candidate.backend)
        if not isinstance(backend, FileBackend) or backend.unavailable(self._device):
            return False
        return self._cache.has(*self.cache_key(candidate, batch))

    def cache_key(self, candidate: Candidate, batch: np.ndarray) -> tuple[dict[str, str], dict[str, str]]:
        """Of the engine of a backend that builds files, for frames like these."""
        backend, example = get_backend(candidate.backend), self.example(candidate, batch)
        assert isinstance(backend, FileBackend)
        return engine_files.cache_key(self._generator, self._sha, backend, candidate.precision, example)

    def example(self, candidate: Candidate, batch: np.ndarray) -> Tensor:
        """Zeros like the generator's input for frames like these, [N, 3, H, W] padded, in the candidate's dtype."""
        shape = (len(batch), 3, *self._facts.padded_size(*batch.shape[1:3]))
        dtype = dtype_of(candidate.precision, self._device)
        return torch.zeros(shape, dtype=dtype, device=self._device).to(memory_format=torch.channels_last)

    @functools.cached_property
    def _sha(self) -> str:
        return engine_files.generator_hash(self._generator)

    def _made_ready(self, candidate: Candidate, batch: np.ndarray, expected: np.ndarray) -> Engine:
        example, backend = self.example(candidate, batch), get_backend(candidate.backend)

        def engine_of(run: CompiledGenerator) -> Engine:
            is_eager = candidate.backend == "eager"  # others are compiled for one frame
            runner = runner_of(run, self._generator, candidate.precision, self._device, takes_batches=is_eager)
            return Engine(candidate.backend, candidate.precision, runner)

        def parity_db(run: CompiledGenerator) -> float:
            return psnr_db(engine_of(run).runner.submit(batch)(), expected)

        if reason := backend.unavailable(self._device):
            raise BackendError(f"it can't run here: {reason}")
        with torch.no_grad():
            if candidate.file is not None:
                candidate.file.require_fit(self._sha, example)
                return engine_of(candidate.file.load(example))
            generator = copy.deepcopy(self._generator)
            if isinstance(backend, FileBackend):
                return engine_of(
                    engine_files.load_or_build(self._cache, generator, self._sha, backend, candidate.precision, example)
                )
            assert isinstance(backend, InMemoryBackend)
            return engine_of(backend.compile(generator, example, candidate.precision, parity_db))
