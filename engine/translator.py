"""Frames in, translated frames out.

The way of a frame is `Translator.submit`: find the engine of its size, hand it over, wait for the result. The engine is
one that an earlier run has proven (`engine.choosing.remembered`, without torch), else it is chosen on the first frame
of its size that is not nearly uniform (`engine.choosing.chooser`). Nearly uniform frames run in eager float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from engine import memory
from engine.allocator import importing_torch
from engine.cache import EngineCache
from engine.choosing import remembered
from engine.choosing.measuring import Measured
from engine.choosing.request import Request
from engine.device import DEVICE_LOCK, host_image, is_surely_cpu
from engine.errors import BackendError, EngineError, EngineLostError, FrameSizeError
from engine.parity import is_nearly_uniform, psnr_db
from engine.runners.base import Engine, Measurement, NonFiniteError
from engine.runners.packed import PackedRunner
from engine.styles import locate_generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from engine.checkpoint import NormMode
    from engine.choosing.chooser import Chooser
    from engine.choosing.trial import Trial
    from engine.generators import Generator

    Frames = TypeVar("Frames", np.ndarray, Tensor)

logger = logging.getLogger("streamgan")

# Frames per call that are tried beside one at a time; more gains nothing more on the devices seen and costs memory.
TRIED_BATCH = 4

# Frame sizes whose engines keep the memory of a frame.
_MOST_READY = 3


class Translator:
    """Translates frames with one generator.

    Equivalent to, for a frame whose sides are multiples of `generator.multiple`:
    `generator(frame[..., ::-1] / 127.5 - 1)` in float32, brought back to uint8 with rounding and clamping.

    From the second run of a generator on, the CPU needs neither torch nor the checkpoint to be loaded where an earlier
    run has proven an engine for the frames' size.

    Args:
        generator: a bundled style's name, a checkpoint file, or a loaded generator.
        backend: "auto", or one of `engine.backends.BACKENDS`.
        precision: "auto": the fastest of bf16 and fp32, measured on the first frame (on CUDA: fp16), or one of
            `engine.precision.PRECISIONS`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        norm_mode: see `engine.load_generator`.
        engine_file: an engine that `python -m engine.export` wrote, used for the frame sizes that it takes.
        expected_frames: how many frames will come; lets `backend="auto"` measure and build where that pays. None:
            unknown.
        live: frames do not wait: what takes long to make ready is made so while another engine runs.
        explain: measure every backend there is, however long that takes; `choice` then has the results.
        threads: how many the CPU uses; sets torch's number too. None: as many as torch takes.
        frames_at_once: frames that the fused CPU engine works on at the same time, for callers of `submit`: more
            frames a second, but each takes longer. They must not be changed before their results are there.

    Attributes:
        uniform_frames: how many frames so far were nearly uniform and ran in eager float32 for it, where another
            engine was chosen (`engine.parity.is_nearly_uniform`).

    Raises:
        EngineError: the generator can't be loaded, or the backend, precision or device can't be used.
    """

    def __init__(
        self,
        generator: str | Path | Generator,
        *,
        backend: str = "auto",
        precision: str = "auto",
        device: str = "auto",
        norm_mode: NormMode = "eval",
        engine_file: str | Path | None = None,
        expected_frames: int | None = None,
        live: bool = False,
        explain: bool = False,
        threads: int | None = None,
        frames_at_once: int = 1,
    ) -> None:
        most = 4 * (os.cpu_count() or 1)
        if threads is not None and not 1 <= threads <= most:
            raise BackendError(f"{threads} threads can't be used on {os.cpu_count()} cores: accepted are 1 to {most}")
        if frames_at_once < 1:
            raise BackendError(f"frames_at_once is {frames_at_once}: at least 1 is needed")
        checkpoint = locate_generator(generator) if isinstance(generator, (str, Path)) else None
        self._request = Request(
            checkpoint,
            backend=backend,
            precision=precision,
            device=device,
            norm_mode=norm_mode,
            engine_file=Path(engine_file) if engine_file is not None else None,
            expected_frames=expected_frames,
            live=live,
            explain=explain,
            threads=threads,
            frames_at_once=1 if live else frames_at_once,
        )
        self._cache = EngineCache()
        self._loaded: Chooser | None = None
        self._loading = threading.Lock()
        self._engines: dict[tuple[int, int], Engine] = {}  # by frame size (H, W)
        self._trials: dict[tuple[int, int], Trial] = {}
        self._unremembered: set[tuple[int, int]] = set()  # sizes of which the choice is not for later runs
        self._ready: list[Engine] = []  # the one used last comes last
        self._engine: Engine | None = None
        # An engine, the batch that it was proven on and what it made of that, until that is asked for.
        self._proof: tuple[Engine, np.ndarray, np.ndarray] | None = None
        self.uniform_frames = 0
        self._may_start_quickly = checkpoint is not None and is_surely_cpu(device)
        scale = remembered.known_scale(self._cache, self._request) if self._may_start_quickly else None
        self.scale = scale or self._chooser(None if isinstance(generator, (str, Path)) else generator).generator.scale

    @property
    def engine(self) -> Engine | None:
        """The engine of the frame size that was chosen for or changed last; None before the first frame."""
        return self._engine

    @property
    def choice(self) -> list[Measurement]:
        """What was tried for the frame size that came last; empty where the choice was remembered."""
        return self._loaded.rows if self._loaded else []

    @property
    def measured(self) -> Measured:
        """What the choice for the frame size that came last was based on."""
        return self._chooser().measured

    @property
    def generator(self) -> Generator:
        """The generator in eager float32, which every other engine is held to."""
        return self._chooser().generator

    @property
    def device(self) -> torch.device:
        """The device that runs it."""
        return self._chooser().device

    @property
    def frames_under_way(self) -> int:
        """How many calls of `submit` may wait for their results."""
        return self._engine.runner.frames_under_way if self._engine else 1

    def __call__(self, frames: Frames) -> Frames:
        """Translates one frame or a batch.

        Args:
            frames: uint8 [H, W, 3] or [N, H, W, 3], BGR, any H and W >= 1: an array, or a tensor on `device`.

        Returns:
            uint8 of the same rank and kind, with H and W times `scale`.

        Raises:
            FrameSizeError: the frame needs more memory than there is.
            EngineError: `frames` is not such an array.
        """
        return self.submit(frames)()

    def submit(self, frames: Frames) -> Callable[[], Frames]:
        """Starts to translate what `__call__` does, and returns a function that waits for the result.

        Results have to be asked for in the order of the submissions, and before more than `frames_under_way` are
        outstanding. `frames` may be changed once this returns, unless `frames_at_once` is more than 1.

        Raises:
            FrameSizeError, EngineError: as `__call__`; the function that is returned raises the first of them, too.
        """
        if not hasattr(frames, "dtype"):
            raise EngineError(f"frames are {type(frames).__name__}: an array or tensor of uint8 [H, W, 3] is needed")
        is_uint8 = str(frames.dtype).removeprefix("torch.") == "uint8"
        if not is_uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape:
            raise EngineError(f"frames are {frames.dtype} {list(frames.shape)}: uint8 [H, W, 3] or [N, H, W, 3] needed")
        batch: Any = frames if frames.ndim == 4 else frames[None]
        is_tensor = not isinstance(frames, np.ndarray)
        try:
            engine = self._engine_of(batch)
            if is_tensor and not (engine.runner.takes_tensors and _size_of(batch) not in self._trials):
                batch = host_image(batch)
            translated = self._proven_on(engine, batch)
            if translated is None and _size_of(batch) in self._trials:
                translated = self._tried(engine, batch)
            waiting = engine.runner.submit(batch) if translated is None else None
        except (NonFiniteError, EngineLostError) as error:
            translated, waiting = self._without(engine, error, host_image(batch)), None
        except (RuntimeError, MemoryError) as error:
            raise _as_frame_size_error(error, batch) from error

        def result() -> Any:
            try:
                made: Any = waiting() if waiting is not None else translated
            except NonFiniteError as error:
                made = self._without(engine, error, error.frames)
            assert made is not None
            made = made if frames.ndim == 4 else made[0]
            return self._on_device(made) if is_tensor else host_image(made)

        return result

    def engine_for(self, frame: np.ndarray | Tensor) -> Engine:
        """The engine that translates this frame, uint8 [H, W, 3], an array or a tensor on `device`.

        It is made ready and proven on the first frame of a size that is not nearly uniform. On frames that are, eager
        float32 stands in for any other.
        """
        size = (frame.shape[0], frame.shape[1])
        engine = self._engines.get(size) or self._started(size, frame)
        if self._is_nearly_uniform(frame) and not (engine or self._chooser()).runs_float32:
            if engine is None:
                self._chooser().require_memory(size)
            return self._chooser().stand_in
        if engine is None:
            engine = self._chosen(size, host_image(frame))
        if size in self._trials:
            return self._trials[size].engine
        rival = self._loaded.prepared(size) if self._loaded else None
        if rival is None:
            return engine
        trial = self._chooser().trial(engine, rival)
        if trial is None:
            return self._set_engine(size, rival)
        self._trials[size] = trial
        return trial.engine

    def choose_batch(self, frame: np.ndarray | Tensor) -> int:
        """Frames per call that run fastest, 1 or `TRIED_BATCH`, measured on (an array of) `frame`, uint8 [H, W, 3].

        More than one has to gain a tenth per frame.
        """
        frame = host_image(frame)
        engine = self.engine_for(frame)
        if not engine.runner.takes_batches:
            return 1
        batch = np.repeat(frame[None], TRIED_BATCH, axis=0)
        available = memory.available_bytes(self.device)
        if available is not None and engine.runner.needed_bytes(*batch.shape[:3]) > available // 2:
            return 1
        try:
            single_ms = _measure_ms(engine, frame[None])
        except NonFiniteError as error:
            self._without(engine, error, frame[None])
            return 1
        try:
            batch_ms = _measure_ms(engine, batch) / TRIED_BATCH
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            batch_ms = math.inf
        return TRIED_BATCH if batch_ms < 0.9 * single_ms else 1

    # --- the engine of a frame ---

    def _engine_of(self, batch: Any) -> Engine:
        """The engine of a batch; the stand-in where that is due for one of its frames."""
        engines = [self.engine_for(frame) for frame in batch]
        uniform = [engine for engine in engines if engine.is_stand_in]
        self.uniform_frames += len(uniform)
        engine = (uniform or engines)[0]
        self._ready = [*(other for other in self._ready if other is not engine), engine]
        while len(self._ready) > _MOST_READY:
            self._ready.pop(0).runner.release()
        return engine

    def _started(self, size: tuple[int, int], frame: np.ndarray | Tensor) -> Engine | None:
        """What an earlier run has proven for frames of this size, proven on this one too; None: nothing, or it fails.

        None for a nearly uniform frame, which proves nothing.
        """
        if not self._may_start_quickly or size in self._unremembered or self._is_nearly_uniform(frame):
            return None
        found = remembered.start(self._cache, self._request, size)
        if found is None:
            return None
        engine = found.engine
        if found.reference is not None:
            proven = self._proven_again(found, host_image(frame)[None])
            if proven is None:
                self._unremembered.add(size)  # other videos may be less demanding
                return None
            engine = proven
        if self._request.live and self._loaded is None:
            # For the first frame that is nearly uniform: a stream does not wait.
            threading.Thread(target=self._prepare, name="prepare translator", daemon=True).start()
        return self._set_engine(size, engine)

    def _proven_again(self, found: remembered.Start, batch: np.ndarray) -> Engine | None:
        """A remembered engine, held to our own float32 on a frame of this video; None: it fails, and says so."""
        assert found.reference is not None
        engine, expected = found.engine, found.reference.submit(batch)()
        start = time.perf_counter()
        try:
            translated = engine.runner.submit(batch)()
        except BackendError as error:
            logger.warning("the engine is chosen again: %s failed: %s", engine, error)
            return None
        frame_ms = 1e3 * (time.perf_counter() - start)
        parity_db, least_db = psnr_db(translated, expected), remembered.least_db(engine)
        if parity_db < least_db:
            logger.warning(
                "the engine is chosen again: this video's first frame in %s is at %.1f dB of float32, not %.1f",
                *(engine, parity_db, least_db),
            )
            return None
        engine = dataclasses.replace(engine, parity_db=parity_db, frame_ms=frame_ms, proven_before=False)
        self._proof = engine, batch.copy(), translated
        return engine

    def _chosen(self, size: tuple[int, int], frame: np.ndarray) -> Engine:
        """The engine that is chosen on this frame."""
        chooser = self._chooser()
        chooser.require_memory(size)
        batch = frame[None].copy()
        engine, translated = chooser.choose(batch, is_remembered=size not in self._unremembered)
        if isinstance(engine.runner, PackedRunner) and self._request.frames_at_once > 1:
            # With other threads a frame has other roundings: the first one is translated again, as later runs do.
            runner = engine.runner.with_frames_at_once(self._request.frames_at_once)
            engine = dataclasses.replace(engine, runner=runner)
        else:
            self._proof = engine, batch, translated
        return self._set_engine(size, engine)

    def _set_engine(self, size: tuple[int, int], engine: Engine) -> Engine:
        self._engines[size] = self._engine = engine
        return engine

    def _chooser(self, generator: Generator | None = None) -> Chooser:
        """Everything that needs torch; loaded when it is needed first."""
        with self._loading:
            if self._loaded is None:
                with importing_torch():
                    from engine.choosing.chooser import Chooser

                self._loaded = Chooser(generator, self._request, self._cache)
            return self._loaded

    def _prepare(self) -> None:
        with contextlib.suppress(EngineError):  # raised again when it is needed
            self._chooser()

    # --- a frame in its engine ---

    def _proven_on(self, engine: Engine, batch: Any) -> np.ndarray | None:
        """What `engine` made of `batch`, if that is what it was just proven on."""
        proof, self._proof = self._proof, None
        if proof is None or proof[0] is not engine or not np.array_equal(proof[1], host_image(batch)):
            return None
        return proof[2]

    def _tried(self, engine: Engine, batch: np.ndarray) -> np.ndarray:
        """What `engine` makes of `batch` in a trial, which ends when both of its engines have had their frames."""
        start = time.perf_counter()
        translated: np.ndarray = engine.runner.submit(batch)()
        size = _size_of(batch)
        trial = self._trials[size]
        if engine is trial.engine:
            trial.add(1e3 * (time.perf_counter() - start) / len(batch))
        if trial.winner is not None:
            del self._trials[size]
            self._set_engine(size, trial.winner)
            self._chooser().decided(size, trial)
        return translated

    def _without(self, engine: Engine, error: EngineError, batch: np.ndarray) -> np.ndarray:
        """What the next best engine makes of a batch that this one could not translate."""
        size = _size_of(batch)
        was_on_trial = self._trials.pop(size, None) is not None
        if was_on_trial or self._engines.get(size) is engine:
            self._chooser().reject(engine, error)
        if self._engines.get(size) is engine:
            del self._engines[size]
        return self(batch)

    def _is_nearly_uniform(self, frame: np.ndarray | Tensor) -> bool:
        if isinstance(frame, np.ndarray):
            return is_nearly_uniform(frame)
        with DEVICE_LOCK:
            return is_nearly_uniform(frame)

    def _on_device(self, frames: np.ndarray | Tensor) -> Tensor:
        import torch

        if isinstance(frames, torch.Tensor):
            return frames
        with DEVICE_LOCK:
            return torch.from_numpy(frames).to(self.device)


def _measure_ms(engine: Engine, batch: np.ndarray, *, rounds: int = 3) -> float:
    """The best of `rounds` times of one call, in ms, after one call to warm up."""
    engine.runner.submit(batch)()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        engine.runner.submit(batch)()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def _size_of(batch: Any) -> tuple[int, int]:
    """(H, W) of the frames of a batch [N, H, W, 3]."""
    return batch.shape[1], batch.shape[2]


def _as_frame_size_error(error: RuntimeError | MemoryError, batch: Any) -> FrameSizeError:
    """What to raise for an error of running a batch; raises it again if memory is not what was missing."""
    if not memory.is_out_of_memory(error):
        raise error
    height, width = _size_of(batch)
    return FrameSizeError(
        f"no memory for {len(batch)} frame(s) of {width}x{height} in this generator: use smaller frames"
    )
