"""Frames in, translated frames out: pad, normalise, run the generator, quantise, crop, and prove it on the way.

The steps of one frame are in `Translator._run`. Which backend and precision run is decided on the first frame of each
size that is not nearly uniform, by `engine.choosing`; nearly uniform frames run in eager float32.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from engine import frame_runner, memory, ops, reference
from engine.checkpoint import NormMode
from engine.checkpoint import load_generator as load_checkpoint
from engine.choosing import Chooser, Engine, Row, Trial
from engine.errors import BackendError, EngineError, EngineLostError, FrameSizeError
from engine.frame_runner import FrameFormat, FrameRunner, NonFiniteError
from engine.fuse_norms import NormFused
from engine.generators import Generator
from engine.measuring import Measured
from engine.memory import host_image
from engine.packages import PackageFacts
from engine.precision import choose_device, is_nearly_uniform, true_float32
from engine.styles import locate_generator

__all__ = ["Engine", "Translator", "load_generator"]

# Frames per call that are tried beside one at a time; more gains nothing more on the devices seen and costs memory.
TRIED_BATCH = 4

# Frame sizes and batches whose graphs are kept: each holds a frame's activations twice.
_MOST_RUNNERS = 3


def load_generator(style: str | Path, *, norm_mode: NormMode = "eval") -> Generator:
    """Loads a bundled style by name, or a checkpoint file of any known layout.

    Args:
        style: name of a bundled style, or path of a .pth, .pt, .ckpt or .safetensors file.
        norm_mode: "batch" makes BatchNorm use each picture's own statistics, as the pix2pix authors tested.

    Returns:
        The generator in eval mode, float32, on the CPU, without gradients.

    Raises:
        CheckpointError: no such style or file, or the file holds no known generator.
    """
    return load_checkpoint(locate_generator(style), norm_mode=norm_mode)


class Translator:
    """Translates frames with one generator.

    Equivalent to, for a frame whose sides are multiples of `generator.multiple`:
    `generator(frame[..., ::-1] / 127.5 - 1)` in float32, brought back to uint8 with rounding and clamping.

    Args:
        generator: a bundled style's name, a checkpoint file, or a loaded generator.
        backend: "auto", or one of `engine.backends.BACKENDS`.
        precision: "auto": the fastest of bf16 and fp32, measured on the first frame (on CUDA: fp16), or one of
            `engine.precision.PRECISIONS`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        norm_mode: see `load_generator`.
        engine_file: an engine that `python -m engine.export` wrote, to be taken where it fits.
        expected_frames: how many frames will come; lets `backend="auto"` measure and build where that pays. None:
            unknown.
        live: frames do not wait: what takes long to make ready is made so while another engine runs.
        explain: measure every backend there is, whatever that takes; `choice` says what came of it.

    Attributes:
        uniform_frames: how many frames so far were nearly uniform and ran in eager float32 for it, where another
            engine was chosen (`engine.precision.is_nearly_uniform`).

    Raises:
        EngineError: the generator can't be loaded, or the backend, precision or device is not to be had.
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
    ) -> None:
        self.device = choose_device(device)
        if isinstance(generator, Generator):
            loaded = copy.deepcopy(generator)
        else:
            loaded = load_generator(generator, norm_mode=norm_mode)
        if (loaded.config.in_channels, loaded.config.out_channels) != (3, 3):
            raise BackendError(
                f"the generator takes {loaded.config.in_channels} and makes {loaded.config.out_channels} channels: "
                f"video frames have 3; only generators from 3 to 3 channels can be run on them"
            )
        # In eager float32: what every other way of running the generator is measured against.
        self.generator = loaded.eval().to(device=self.device, dtype=torch.float32)
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scale = self.generator.scale
        self._chooser = Chooser(
            self.generator,
            self.device,
            self._run,
            self._padded_size,
            backend=backend,
            precision=precision,
            file=Path(engine_file) if engine_file is not None else None,
            expected_frames=expected_frames,
            live=live,
            explain=explain,
        )
        self._engines: dict[tuple[int, int], Engine] = {}  # by frame size (H, W)
        self._trials: dict[tuple[int, int], Trial] = {}
        self._engine: Engine | None = None
        # By what runs, the frames' shape, and whether they are on the device.
        self._runners: dict[tuple[object, tuple[int, ...], bool], FrameRunner] = {}
        # The fused operators run where they are built for; elsewhere the same conversions in plain PyTorch.
        is_fused = self.device.type == "cpu" or ops.cuda_unavailable() is None
        self._convert = ops if is_fused else reference
        self.uniform_frames = 0

    @property
    def engine(self) -> Engine | None:
        """The engine of the frame size that was chosen for or changed last; None before the first frame."""
        return self._engine

    @property
    def choice(self) -> list[Row]:
        """What was tried for the frame size that came last; empty where the choice was remembered."""
        return self._chooser.rows

    @property
    def measured(self) -> Measured:
        """What the choice for the frame size that came last was based on."""
        return self._chooser.measured

    @property
    def frames_under_way(self) -> int:
        """How many calls of `submit` may wait for their results: more than one where a device works beside this one."""
        return frame_runner.SLOTS if self.device.type == "cuda" else 1

    @overload
    def __call__(self, frames: np.ndarray) -> np.ndarray: ...

    @overload
    def __call__(self, frames: Tensor) -> Tensor: ...

    def __call__(self, frames: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Translates one frame or a batch.

        Args:
            frames: uint8 [H, W, 3] or [N, H, W, 3], BGR, any H and W >= 1: an array, or a tensor on `device`.

        Returns:
            uint8 of the same rank and kind, with H and W times `scale`.

        Raises:
            FrameSizeError: the frame needs more memory than there is.
            EngineError: `frames` is no such array.
        """
        return self.submit(frames)()

    @overload
    def submit(self, frames: np.ndarray) -> Callable[[], np.ndarray]: ...

    @overload
    def submit(self, frames: Tensor) -> Callable[[], Tensor]: ...

    def submit(self, frames: np.ndarray | Tensor) -> Callable[[], np.ndarray] | Callable[[], Tensor]:
        """Starts on what `__call__` translates, and returns a function that waits for it and gives the result.

        On a GPU the next frame can be submitted before the result of the last is asked for. Results have to be asked
        for in the order of the submissions, and before more than `frames_under_way` are outstanding. `frames` may
        be changed once this returns.

        Raises:
            FrameSizeError, EngineError: as `__call__`; the function that is returned raises the first of them, too.
        """
        is_uint8 = frames.dtype == (torch.uint8 if isinstance(frames, Tensor) else np.uint8)
        if not is_uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape:
            raise EngineError(f"frames are {frames.dtype} {list(frames.shape)}: uint8 [H, W, 3] or [N, H, W, 3] needed")
        if isinstance(frames, Tensor):
            return self._submit_on_device(frames)
        batch = frames if frames.ndim == 4 else frames[None]
        try:
            engines = [self.engine_for(frame) for frame in batch]
            engine = self._chooser.stand_in if self._chooser.stand_in in engines else engines[0]
            self.uniform_frames += engines.count(self._chooser.stand_in)
            proven = self._chooser.proven_frames(engine, batch)
            if proven is not None:
                return lambda: proven if frames.ndim == 4 else proven[0]
            size = (batch.shape[1], batch.shape[2])
            runner = self._runner(engine, batch) if size not in self._trials else None
            if runner is not None:
                waiting = runner.submit(batch)
                return lambda: host_image(self._result(engine, waiting, is_batch=frames.ndim == 4))
            step = len(batch) if self._takes_batches(engine) else 1  # others are compiled for one frame
            start = time.perf_counter()
            parts = [self._run(engine, batch[first : first + step]) for first in range(0, len(batch), step)]
            self._judge(engine, batch, 1e3 * (time.perf_counter() - start) / len(batch))
        except (NonFiniteError, EngineLostError) as error:
            translated = self._without(engine, error, batch)
            return lambda: translated if frames.ndim == 4 else translated[0]
        except (RuntimeError, MemoryError) as error:
            raise _as_frame_size_error(error, batch) from error
        translated = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return lambda: translated if frames.ndim == 4 else translated[0]

    def _submit_on_device(self, frames: Tensor) -> Callable[[], Tensor]:
        """As `submit`: where a runner takes whole frames, they stay on the device; else by way of a copy of them."""
        batch = frames if frames.ndim == 4 else frames[None]
        try:
            engines = [self.engine_for(frame) for frame in batch]
            is_on_trial = (batch.shape[1], batch.shape[2]) in self._trials
            if is_on_trial or self._chooser.stand_in in engines or not isinstance(engines[0].run, NormFused):
                waiting_for_copy = self.submit(host_image(frames))
                return lambda: self._to_device(waiting_for_copy())
            runner = self._runner(engines[0], batch)
            assert runner is not None
            waiting = runner.submit(batch)
        except (RuntimeError, MemoryError) as error:
            raise _as_frame_size_error(error, batch) from error
        return lambda: self._to_device(self._result(engines[0], waiting, is_batch=frames.ndim == 4))

    def _to_device(self, frames: np.ndarray | Tensor) -> Tensor:
        if isinstance(frames, Tensor):
            return frames
        with frame_runner.DEVICE_LOCK:
            return torch.from_numpy(frames).to(self.device)

    def _result(
        self, engine: Engine, waiting: Callable[[], np.ndarray | Tensor], *, is_batch: bool
    ) -> np.ndarray | Tensor:
        """What a runner has made of a batch; where its values have overflown, what the next best engine makes of it."""
        try:
            translated = waiting()
        except NonFiniteError as error:
            translated = self._without(engine, error, error.frames)
        return translated if is_batch else translated[0]

    def _without(self, engine: Engine, error: EngineError, batch: np.ndarray) -> np.ndarray:
        """What the next best engine makes of a batch that this one could not translate."""
        size = (batch.shape[1], batch.shape[2])
        was_on_trial = self._trials.pop(size, None) is not None
        if was_on_trial or self._engines.get(size) is engine:
            self._chooser.reject(engine, error)
        if self._engines.get(size) is engine:
            del self._engines[size]
        return self(batch)

    def _takes_batches(self, engine: Engine) -> bool:
        return engine.backend == "eager" or isinstance(engine.run, NormFused)

    def _runner(self, engine: Engine, batch: np.ndarray | Tensor) -> FrameRunner | None:
        """What takes whole frames through this engine on the device; None where it is run step by step."""
        if not isinstance(engine.run, NormFused):
            return None
        on_device = isinstance(batch, Tensor)
        key = (engine.run, tuple(batch.shape), on_device)
        if key in self._runners:
            self._runners[key] = self._runners.pop(key)  # the one used last comes last
        else:
            count, height, width = batch.shape[:3]
            # The engine was proven on an array; what follows is one kind.
            self._runners.pop((engine.run, tuple(batch.shape), not on_device), None)
            while len(self._runners) >= _MOST_RUNNERS:
                del self._runners[next(iter(self._runners))]
            self._runners[key] = FrameRunner(
                engine.run,
                FrameFormat(
                    (count, height, width),
                    self._padded_size(height, width),
                    self.scale,
                    self.generator.input_range,
                    self.generator.output_range,
                    engine.dtype,
                    on_device,
                ),
                self.device,
            )
        return self._runners[key]

    def engine_for(self, frame: np.ndarray | Tensor) -> Engine:
        """The engine that translates this frame, uint8 [H, W, 3], an array or a tensor on `device`.

        It is made ready and proven on the first frame of a size that is not nearly uniform. Eager float32 stands in for
        any other on frames that are.
        """
        height, width = frame.shape[:2]
        engine = self._engines.get((height, width))
        if not (engine or self._chooser).runs_float32 and self._is_nearly_uniform(frame):
            if engine is None:
                self._check_memory(height, width)
            return self._chooser.stand_in
        if engine is None:
            self._check_memory(height, width)
            engine = self._set_engine((height, width), self._chooser.choose(host_image(frame)[None]))
        if (height, width) in self._trials:
            return self._trials[height, width].engine
        if (rival := self._chooser.prepared((height, width))) is None:
            return engine
        trial = self._chooser.trial(engine, rival)
        if trial is not None:
            self._trials[height, width] = trial
            return trial.engine
        return self._set_engine((height, width), rival)

    def _is_nearly_uniform(self, frame: np.ndarray | Tensor) -> bool:
        if isinstance(frame, np.ndarray):
            return is_nearly_uniform(frame)
        with frame_runner.DEVICE_LOCK:
            return is_nearly_uniform(frame)

    def prove(self, backend: str, precision: str) -> Engine | None:
        """Another engine than the chosen one, proven on the same frame; None: it does not run, or is not close enough.

        For those who want to run it elsewhere: this translator does not take it.
        """
        return self._chooser.prove(backend, precision)

    def package_facts(self, engine: Engine, size: tuple[int, int]) -> PackageFacts:
        """What running an engine of `aoti` for frames of this (H, W) takes, beside its file."""
        return PackageFacts(
            dtype=str(engine.dtype).removeprefix("torch."),
            size=self._padded_size(*size),
            input_range=self.generator.input_range,
            output_range=self.generator.output_range,
            frame_bytes=self._needed_bytes((1, *size), engine.dtype),
            scale=self.scale,
        )

    def cache_key(self, engine: Engine, size: tuple[int, int]) -> tuple[dict[str, str], dict[str, str]]:
        """Where the engine cache has the file of an engine for frames of this (H, W)."""
        return self._chooser.cache_key(engine, size)

    def _set_engine(self, size: tuple[int, int], engine: Engine) -> Engine:
        self._engines[size] = self._engine = engine
        return engine

    def _judge(self, engine: Engine, batch: np.ndarray, frame_ms: float) -> None:
        """Ends a trial when both of its engines have had their frames."""
        size = (batch.shape[1], batch.shape[2])
        trial = self._trials.get(size)
        if trial is None or engine is not trial.engine:
            return
        trial.add(frame_ms)
        if trial.winner is not None:
            del self._trials[size]
            self._set_engine(size, trial.winner)
            self._chooser.decided(batch[:1], trial)

    def choose_batch(self, frame: np.ndarray | Tensor) -> int:
        """Frames per call that run fastest, 1 or `TRIED_BATCH`, measured on (an array of) `frame`, uint8 [H, W, 3].

        More than one has to gain a tenth per frame.
        """
        frame = host_image(frame)
        single = self.engine_for(frame)
        if not self._takes_batches(single):
            return 1
        batch = np.repeat(frame[None], TRIED_BATCH, axis=0)
        needed = self._needed_bytes(batch.shape[:3], single.dtype) * self.frames_under_way
        available = memory.available_bytes(self.device)
        if available is not None and needed > available // 2:
            return 1
        try:
            single_ms = self._measure_ms(single, frame[None])
        except NonFiniteError as error:
            self._without(single, error, frame[None])
            return 1
        try:
            batch_ms = self._measure_ms(single, batch) / TRIED_BATCH
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            batch_ms = math.inf
        gains = batch_ms < 0.9 * single_ms
        self._runners.pop((single.run, (frame[None] if gains else batch).shape, False), None)
        return TRIED_BATCH if gains else 1

    def _run(self, engine: Engine, batch: np.ndarray) -> np.ndarray:
        runner = self._runner(engine, batch)
        if runner is not None:
            return host_image(runner.submit(batch)())
        height, width = batch.shape[1:3]
        padded_height, padded_width = self._padded_size(height, width)
        frames = torch.from_numpy(np.ascontiguousarray(batch)).to(self.device)
        alone = frame_runner.DEVICE_LOCK if self.device.type == "cuda" else contextlib.nullcontext()
        with alone, torch.no_grad(), true_float32():
            image = self._convert.frames_to_tensor(
                frames,
                value_range=self.generator.input_range,
                size=(padded_height, padded_width),
                dtype=engine.dtype,
            )  # [N, 3, padded H, padded W], channels_last
            output = engine.run(image)
            translated = self._convert.tensor_to_frames(
                output,
                value_range=self.generator.output_range,
                size=(height * self.scale, width * self.scale),
            )  # uint8 [N, H * scale, W * scale, 3]
            total = output.sum(dtype=torch.float32) if self._may_overflow(engine) else None
            result = translated.cpu().numpy()
        if total is not None and not total.isfinite():
            raise NonFiniteError("its output holds NaN or infinity: the values are too large for float16", batch)
        return result

    def _may_overflow(self, engine: Engine) -> bool:
        """Whether it computes in float16, which ends at 65504: another frame than the proven one may be too much."""
        return engine.precision == "fp16" or (engine.precision == "fast" and self.device.type == "cuda")

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        multiple = self.generator.multiple
        smallest = self.generator.minimum_size
        padded_height, padded_width = (-(-max(side, smallest) // multiple) * multiple for side in (height, width))
        return padded_height, padded_width

    def _needed_bytes(self, shape: tuple[int, int, int], dtype: torch.dtype) -> int:
        count, height, width = shape
        return memory.activation_bytes(self.generator, (count, 3, *self._padded_size(height, width)), dtype)

    def _measure_ms(self, engine: Engine, batch: np.ndarray, *, rounds: int = 3) -> float:
        """Best of `rounds` times of one call, in ms, after one call to warm up."""
        self._run(engine, batch)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            self._run(engine, batch)
            times.append(time.perf_counter() - start)
        return 1e3 * min(times)

    def _check_memory(self, height: int, width: int) -> None:
        available = memory.available_bytes(self.device)
        padded = (1, 3, *self._padded_size(height, width))
        if available is None or memory.most_activation_bytes(self.generator, padded, torch.float32) <= available:
            return
        needed = self._needed_bytes((1, height, width), torch.float32)
        if needed > available:
            raise FrameSizeError(
                f"a frame of {width}x{height} needs about {needed / 2**30:.1f} GiB in this generator and "
                f"{available / 2**30:.1f} GiB are free: use smaller frames"
            )


def _as_frame_size_error(error: RuntimeError | MemoryError, batch: np.ndarray | Tensor) -> FrameSizeError:
    """What to raise for an error of running a batch; raises it again if memory is not what was missing."""
    if not memory.is_out_of_memory(error):
        raise error
    height, width = batch.shape[1:3]
    return FrameSizeError(
        f"no memory for {len(batch)} frame(s) of {width}x{height} in this generator: use smaller frames"
    )
