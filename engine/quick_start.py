"""Starting in a fraction of a second: what an earlier run has proven is run at once, and torch isn't imported.

Importing torch, eager float32 on the first frame and packing take two seconds, and half a gigabyte of memory. They
serve to choose a fused engine and to prove it. When that has been done for a generator and a frame size, the engine
cache keeps the packed weights and a note of the choice, of its parity and of all that it depended on; the next run
starts from there. A frame that needs torch, be it of another size or nearly uniform, makes it be imported then.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import engine
from engine import memory
from engine.cache import EngineCache, sha256
from engine.engines import Row, RunningEngine, measuring_seconds
from engine.errors import BackendError, EngineError, FrameSizeError
from engine.packed import PackedFacts, PackedGenerator, read_weights, write_weights
from engine.precision import PARITY_DB, is_nearly_uniform

if TYPE_CHECKING:
    from engine.choosing import Engine
    from engine.translator import Translator

logger = logging.getLogger("streamgan")

# An engine is proven on a frame; frames of other videos may be less exact by so much.
_MARGIN_DB = 1.5

# What `--backend auto` would measure beside the fused engine, if it is installed.
_RIVALS = ("onnxruntime", "openvino")

_WEIGHTS = "weights.npy"


@dataclasses.dataclass(frozen=True)
class Request:
    """What a user asks for, as far as the choice of an engine depends on it.

    Attributes:
        checkpoint: the generator's file.
        backend, precision, norm_mode: as `Translator` takes them.
        expected_frames: how many frames will come; None: unknown.
        live: frames do not wait.
        threads: None: as many as when the engine was proven.
    """

    checkpoint: Path
    backend: str = "auto"
    precision: str = "auto"
    norm_mode: str = "eval"
    expected_frames: int | None = None
    live: bool = False
    threads: int | None = None

    @functools.cached_property
    def generator(self) -> dict[str, str]:
        """What tells its generator from others."""
        return {"generator": sha256(self.checkpoint), "norm_mode": self.norm_mode}


@dataclasses.dataclass(frozen=True)
class Found:
    """A packed generator that was proven for frames of one size."""

    engine: RunningEngine
    packed: PackedGenerator


class QuickTranslator:
    """Translates frames as `engine.Translator` does, with packed generators wherever one was proven.

    Args:
        request: of a generator on the CPU, for the backends `auto` or `fused`.
        make: the translator for all else; called when a frame needs it.
        size: (H, W) of the first frame; if nothing was proven for it, `make` is called at once.

    Attributes:
        scale: how many times as large as a frame its translation is.

    Raises:
        EngineError: as `make`.
    """

    def __init__(self, request: Request, make: Callable[[], Translator], *, size: tuple[int, int]) -> None:
        self._request = request
        self._make = make
        self._cache = EngineCache()
        self._found: dict[tuple[int, int], Found | None] = {}  # by frame size (H, W)
        self._translator: Translator | None = None
        self._engine: RunningEngine | None = None
        self.scale = 1  # of all generators that can be fused
        if self._find(size) is None:
            self._full()

    @property
    def engine(self) -> RunningEngine | None:
        """As `Translator.engine`."""
        return self._engine

    @property
    def choice(self) -> list[Row]:
        """As `Translator.choice`."""
        return self._translator.choice if self._translator else []

    @property
    def frames_under_way(self) -> int:
        """As `Translator.frames_under_way`."""
        return 1

    @property
    def uniform_frames(self) -> int:
        """As of `Translator`."""
        return self._translator.uniform_frames if self._translator else 0

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """As `Translator.__call__`."""
        return self.submit(frames)()

    def submit(self, frames: np.ndarray) -> Callable[[], np.ndarray]:
        """As `Translator.submit`."""
        if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape:
            return self._full().submit(frames)  # which says what is wrong
        batch = frames if frames.ndim == 4 else frames[None]
        found = self._find((batch.shape[1], batch.shape[2]))
        if found is None:
            return self._full().submit(frames)
        parts = [self._full()(frame) if is_nearly_uniform(frame) else found.packed.translate(frame) for frame in batch]
        translated = parts[0] if frames.ndim == 3 else np.stack(parts)
        return lambda: translated

    def engine_for(self, frame: np.ndarray) -> RunningEngine:
        """As `Translator.engine_for`."""
        size = (frame.shape[0], frame.shape[1])
        found = self._find(size)
        if found is not None and not is_nearly_uniform(frame):
            self._engine = found.engine
            return found.engine
        chosen = self._full().engine_for(frame)
        if not chosen.is_stand_in:
            self._engine = chosen
            if found is None:
                keep(self._cache, self._request, size, chosen, self._full())
        return chosen

    def choose_batch(self, frame: np.ndarray) -> int:
        """As `Translator.choose_batch`."""
        return 1 if self._find((frame.shape[0], frame.shape[1])) else self._full().choose_batch(frame)

    def _full(self) -> Translator:
        if self._translator is None:
            self._translator = self._make()
            self.scale = self._translator.scale
        return self._translator

    def _find(self, size: tuple[int, int]) -> Found | None:
        if size not in self._found:
            self._found[size] = find(self._cache, self._request, size)
        return self._found[size]


def find(cache: EngineCache, request: Request, size: tuple[int, int]) -> Found | None:
    """What was proven for this request and frames of this (H, W); None: nothing, or it is not to be relied on."""
    try:
        note = cache.note(*_note_key(request, size))
    except (OSError, ValueError, ImportError, EngineError):  # whoever loads the checkpoint, or the kernels, says why
        return None
    if note is None:
        return None
    try:
        facts = PackedFacts.from_dict(note["packed"])
        ran = RunningEngine(
            "fused",
            str(note["precision"]),
            parity_db=float(note["parity_db"]),
            frame_ms=float(note["ms"]),
            proven_before=True,
        )
        proven_threads = int(note["threads"])
        if request.backend == "auto" and not note["measured"] and _is_worth_measuring(request, ran):
            return None
        weights_key = _weights_key(request, ran.precision)
        entry = cache.find(*weights_key) if cache.has(*weights_key) else None
        if entry is None:
            return None
        threads = request.threads or _thread_count(proven_threads)
        packed = PackedGenerator(read_weights(entry.folder / entry.main), facts, threads=threads)
        needed = packed.needed_bytes(*size)
    except (EngineError, KeyError, TypeError, ValueError) as error:
        logger.warning("the fused engine is made anew: %s", error)
        return None
    available = memory.available_bytes(None)
    if available is not None and needed > available:
        raise FrameSizeError(
            f"a frame of {size[1]}x{size[0]} needs about {needed / 2**30:.1f} GiB in this generator and "
            f"{available / 2**30:.1f} GiB are free: use smaller frames"
        )
    return Found(ran, packed)


def keep(cache: EngineCache, request: Request, size: tuple[int, int], chosen: Engine, translator: Translator) -> None:
    """Keeps a fused engine that was chosen and proven on a frame of this (H, W), for `find`.

    One whose parity has little to spare is not kept: it is proven anew on each video. That something can't be kept is
    no error.
    """
    import torch

    from engine.fuse_program import FusedGenerator

    fused = chosen.run
    if chosen.backend != "fused" or not isinstance(fused, FusedGenerator):
        return
    if chosen.parity_db < PARITY_DB[chosen.precision] + _MARGIN_DB:
        return
    measured = sum(row.frame_ms is not None for row in translator.choice)

    def write(path: Path) -> dict[str, Any]:
        write_weights(fused, path)
        return {"architecture": translator.generator.config.describe()}

    try:
        if sha256(request.checkpoint) != request.generator["generator"]:
            return  # it has been written anew meanwhile
        weights_key = _weights_key(request, chosen.precision)
        if not cache.has(*weights_key):
            cache.add(*weights_key, _WEIGHTS, write)
        note = {
            "packed": PackedFacts.of(fused, translator.generator).to_dict(),
            "precision": chosen.precision,
            "parity_db": min(chosen.parity_db, 200.0),  # JSON has no infinity
            "ms": chosen.frame_ms,
            "measured": measured != 1,  # none: it was remembered
            "threads": torch.get_num_threads(),
        }
        cache.keep_note(*_note_key(request, size), note)
    except (OSError, BackendError) as error:
        logger.info("the fused engine is not kept: %s", error)


def _is_worth_measuring(request: Request, ran: RunningEngine) -> bool:
    return measuring_seconds(ran.frame_ms, expected_frames=request.expected_frames, live=request.live) > 0


def _note_key(request: Request, size: tuple[int, int]) -> tuple[dict[str, str], dict[str, str]]:
    of = {
        "note": "proven fused engine",
        **request.generator,
        "size": f"{size[1]}x{size[0]}",
        "backend": request.backend,
        "precision": request.precision,
    }
    rivals = [name for name in _RIVALS if importlib.util.find_spec(name)] if request.backend == "auto" else []
    return of, {**_made_by(), "rivals": " ".join(rivals)}


def _weights_key(request: Request, precision: str) -> tuple[dict[str, str], dict[str, str]]:
    return {"backend": "fused", "precision": precision, "size": "any", **request.generator}, _made_by()


def _made_by() -> dict[str, str]:
    return {"streamgan": engine.__version__, **_build()}


@functools.cache
def _build() -> dict[str, str]:
    """The kernels, and which of them run here."""
    from engine import _native

    folder = Path(_native.__file__).parent / "lib"
    libraries = sorted(folder.glob("*streamgan_cpu*"))
    return {"kernels": " ".join(sha256(library)[:16] for library in libraries), "isa": _native.active_isa()}


def _thread_count(proven: int) -> int:
    """As many as torch would take: OMP_NUM_THREADS, else what it took then, but no more than there are cores."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(proven, cores))
