"""Frames in, translated frames out: pad, normalise, run the generator, quantise, crop, and prove it on the way.

The steps of one frame are in `Translator._run`. Which backend and precision run is decided on the first frame of each
size that is not nearly uniform, in `Translator._prepare`; nearly uniform frames run in eager float32.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch

from engine import memory, ops, reference
from engine.backends import BACKENDS, CompiledGenerator, get_backend
from engine.checkpoint import NormMode
from engine.checkpoint import load_generator as load_checkpoint
from engine.errors import BackendError, EngineError, FrameSizeError, ParityError
from engine.generators import Generator
from engine.precision import (
    PARITY_DB,
    PRECISIONS,
    choose_device,
    dtype_of,
    fastest_precision,
    is_emulated,
    is_nearly_uniform,
    psnr_db,
)
from engine.styles import locate_generator

logger = logging.getLogger("streamgan")

# `--backend auto` compiles only for a job that eager would spend at least this long on: compiling takes up to a minute,
# and saves about a sixth of the time after it.
COMPILE_PAYS_AFTER_SECONDS = 180.0

# Frames per call that are tried beside one at a time; more gains nothing more on the devices seen and costs memory.
TRIED_BATCH = 4


@dataclasses.dataclass(frozen=True)
class Engine:
    """A generator made ready for frames of one size.

    Attributes:
        backend, precision: what it runs on and in.
        dtype: of its input.
        run: takes and returns a tensor [N, 3, H, W].
        parity_db: PSNR against eager float32 on the frame it was proven on; infinite for eager float32 itself.
        frame_ms: measured time of one frame, conversions included.
        is_stand_in: whether it only stands in for the chosen engine, on a frame that is nearly uniform.
    """

    backend: str
    precision: str
    dtype: torch.dtype
    run: CompiledGenerator
    parity_db: float = math.inf
    frame_ms: float = math.nan
    is_stand_in: bool = False

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


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
        precision: "auto", or one of `engine.precision.PRECISIONS`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        norm_mode: see `load_generator`.
        expected_frames: how many frames will come; lets `backend="auto"` compile when that pays. None: unknown.

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
        expected_frames: int | None = None,
    ) -> None:
        self.device = choose_device(device)
        loaded = generator if isinstance(generator, Generator) else load_generator(generator, norm_mode=norm_mode)
        if (loaded.config.in_channels, loaded.config.out_channels) != (3, 3):
            raise BackendError(
                f"the generator takes {loaded.config.in_channels} and makes {loaded.config.out_channels} channels: "
                f"video frames have 3; only generators from 3 to 3 channels can be run on them"
            )
        # A copy in eager float32: what every other way of running the generator is measured against.
        self.generator = copy.deepcopy(loaded).eval().to(device=self.device, dtype=torch.float32)
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scale = self.generator.scale
        self._expected_frames = expected_frames
        self._auto = backend == "auto"
        self._wanted = self._candidates(backend, precision)
        self._stand_in = Engine("eager", "fp32", torch.float32, self.generator, is_stand_in=True)
        self._engines: dict[tuple[int, ...], Engine] = {}  # by frame size (H, W)
        self._rejected: set[tuple[str, str]] = set()
        self.uniform_frames = 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Translates one frame or a batch.

        Args:
            frames: uint8 [H, W, 3] or [N, H, W, 3], BGR, any H and W >= 1.

        Returns:
            uint8 of the same rank, with H and W times `scale`.

        Raises:
            FrameSizeError: the frame needs more memory than there is.
            EngineError: `frames` is no such array.
        """
        if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape:
            raise EngineError(f"frames are {frames.dtype} {list(frames.shape)}: uint8 [H, W, 3] or [N, H, W, 3] needed")
        batch = frames if frames.ndim == 4 else frames[None]
        try:
            engines = [self.engine_for(frame) for frame in batch]
            engine = self._stand_in if self._stand_in in engines else engines[0]
            self.uniform_frames += engines.count(self._stand_in)
            step = len(batch) if engine.backend == "eager" else 1  # others are compiled for one frame
            parts = [self._run(engine, batch[start : start + step]) for start in range(0, len(batch), step)]
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            height, width = batch.shape[1:3]
            raise FrameSizeError(
                f"no memory for {len(batch)} frame(s) of {width}x{height} in this generator: use smaller frames"
            ) from error
        translated = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return translated if frames.ndim == 4 else translated[0]

    def engine_for(self, frame: np.ndarray) -> Engine:
        """The engine that translates this frame, uint8 [H, W, 3].

        It is made ready and proven on the first frame of a size that is not nearly uniform. Eager float32 stands in for
        any other on frames that are.
        """
        engine = self._engines.get(frame.shape[:2])
        chosen = (engine.backend, engine.precision) if engine else self._wanted[0]
        if chosen != ("eager", "fp32") and is_nearly_uniform(frame):
            if engine is None:
                self._check_memory(frame[None])
            return self._stand_in
        return engine or self._prepare(frame[None])

    def choose_batch(self, frame: np.ndarray) -> int:
        """Frames per call that run fastest, 1 or `TRIED_BATCH`, measured on `frame`, uint8 [H, W, 3].

        More than one has to gain a tenth per frame.
        """
        single = self.engine_for(frame)
        if single.backend != "eager":
            return 1
        batch = np.repeat(frame[None], TRIED_BATCH, axis=0)
        needed = self._needed_bytes(batch.shape[:3], single.dtype)
        available = memory.available_bytes(self.device)
        if available is not None and needed > available // 2:
            return 1
        single_ms = self._measure_ms(single, frame[None])
        batch_ms = self._measure_ms(single, batch) / TRIED_BATCH
        return TRIED_BATCH if batch_ms < 0.9 * single_ms else 1

    def _run(self, engine: Engine, batch: np.ndarray) -> np.ndarray:
        height, width = batch.shape[1:3]
        padded_height, padded_width = self._padded_size(height, width)
        frames = torch.from_numpy(np.ascontiguousarray(batch)).to(self.device)
        # The fused operators run on the CPU; elsewhere the same conversion in plain PyTorch.
        convert = ops if self.device.type == "cpu" else reference
        with torch.no_grad():
            image = convert.frames_to_tensor(
                frames,
                value_range=self.generator.input_range,
                size=(padded_height, padded_width),
                dtype=engine.dtype,
            )  # [N, 3, padded H, padded W], channels_last
            output = engine.run(image)
            translated = convert.tensor_to_frames(
                output,
                value_range=self.generator.output_range,
                size=(height * self.scale, width * self.scale),
            )  # uint8 [N, H * scale, W * scale, 3]
        return translated.cpu().numpy()

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        multiple = self.generator.multiple
        smallest = self.generator.minimum_size
        padded_height, padded_width = (-(-max(side, smallest) // multiple) * multiple for side in (height, width))
        return padded_height, padded_width

    def _needed_bytes(self, shape: tuple[int, int, int], dtype: torch.dtype) -> int:
        count, height, width = shape
        return memory.activation_bytes(self.generator, (count, 3, *self._padded_size(height, width)), dtype)

    # --- choosing and proving an engine ---

    def _candidates(self, backend: str, precision: str) -> list[tuple[str, str]]:
        """(backend, precision) to try, best first. The last is eager float32, which can't fail the parity check."""
        if precision not in ("auto", *PRECISIONS):
            raise BackendError(f"unknown precision {precision!r}: accepted are auto, {', '.join(PRECISIONS)}")
        if backend != "auto":
            reason = get_backend(backend).unavailable(self.device)
            if reason:
                raise BackendError(f"backend {backend!r} can't run here: {reason}")
        first_precision = fastest_precision(self.device) if precision == "auto" else precision
        if is_emulated(first_precision, self.device):
            logger.warning("this processor has no %s arithmetic: expect it to be slower than fp32", first_precision)
        fastest = "fused" if BACKENDS["fused"].unavailable(self.device) is None else "eager"
        first_backend = fastest if backend == "auto" else backend
        half = [fastest_precision(self.device)] if first_precision == "fast" else []
        ladder = [(first_backend, tried) for tried in (first_precision, *half, "fp32")]
        return list(dict.fromkeys([*ladder, ("eager", first_precision), ("eager", "fp32")]))

    def _prepare(self, batch: np.ndarray) -> Engine:
        """Takes the first candidate that runs and keeps the parity contract on `batch`, which holds real frames."""
        self._check_memory(batch)
        expected = self._run(self._stand_in, batch)
        proven = (self._try(*candidate, batch, expected) for candidate in self._wanted)
        engine = next(engine for engine in proven if engine is not None)
        if self._auto and engine.backend == "eager" and self._compiling_may_pay(engine):
            logger.warning("compiling for %dx%d, which a long video makes good", batch.shape[2], batch.shape[1])
            compiled = self._try("inductor", engine.precision, batch, expected)
            if compiled is not None and self._measure_ms(compiled, batch) < self._measure_ms(engine, batch):
                engine = compiled
        self._engines[batch.shape[1:3]] = engine
        return engine

    def _try(self, backend: str, precision: str, batch: np.ndarray, expected: np.ndarray) -> Engine | None:
        """The engine, if it can be compiled and is within its precision's parity limit; else None, and it says why."""
        if (backend, precision) in self._rejected:
            return None
        try:
            engine = self._compile(backend, precision, batch, expected)
            start = time.perf_counter()
            parity_db = psnr_db(self._run(engine, batch), expected)
            seconds = time.perf_counter() - start
            if parity_db < PARITY_DB[precision]:
                raise ParityError(
                    f"the frame it was tried on is at {parity_db:.1f} dB of eager float32 and "
                    f"{PARITY_DB[precision]:.0f} dB is the least for {precision}"
                )
        except BackendError as error:
            self._rejected.add((backend, precision))
            # That an engine nobody asked for does not know a generator is no news.
            is_news = not self._auto or isinstance(error, ParityError)
            logger.log(logging.WARNING if is_news else logging.INFO, "%s %s is not used: %s", backend, precision, error)
            return None
        return dataclasses.replace(engine, parity_db=parity_db, frame_ms=1e3 * seconds / len(batch))

    def _compile(self, backend: str, precision: str, batch: np.ndarray, expected: np.ndarray) -> Engine:
        dtype = dtype_of(precision, self.device)
        generator = copy.deepcopy(self.generator)
        shape = (len(batch), 3, *self._padded_size(*batch.shape[1:3]))
        example = torch.zeros(shape, dtype=dtype, device=self.device).to(memory_format=torch.channels_last)

        def engine_of(run: CompiledGenerator) -> Engine:
            return Engine(backend=backend, precision=precision, dtype=getattr(run, "input_dtype", dtype), run=run)

        def parity_db(run: CompiledGenerator) -> float:
            return psnr_db(self._run(engine_of(run), batch), expected)

        with torch.no_grad():
            return engine_of(get_backend(backend).compile_generator(generator, example, precision, parity_db))

    def _compiling_may_pay(self, engine: Engine) -> bool:
        if self._expected_frames is None or BACKENDS["inductor"].unavailable(self.device) is not None:
            return False
        return self._expected_frames * engine.frame_ms > 1e3 * COMPILE_PAYS_AFTER_SECONDS

    def _measure_ms(self, engine: Engine, batch: np.ndarray, *, rounds: int = 3) -> float:
        """Best of `rounds` times of one call, in ms, after one call to warm up."""
        self._run(engine, batch)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            self._run(engine, batch)
            times.append(time.perf_counter() - start)
        return 1e3 * min(times)

    def _check_memory(self, batch: np.ndarray) -> None:
        available = memory.available_bytes(self.device)
        needed = self._needed_bytes(batch.shape[:3], torch.float32)
        if available is not None and needed > available:
            height, width = batch.shape[1:3]
            raise FrameSizeError(
                f"a frame of {width}x{height} needs about {needed / 2**30:.1f} GiB in this generator and "
                f"{available / 2**30:.1f} GiB are free: use smaller frames"
            )


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "allocate memory" in str(error) or "not enough memory" in str(error)
