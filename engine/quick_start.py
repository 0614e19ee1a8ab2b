"""Starting in a fraction of a second: what an earlier run has proven is run at once, and torch isn't imported.

Importing torch, loading the generator, eager float32 on the first frame and packing take two seconds, and half a
gigabyte of memory. When that has been done for a generator and a frame size, and a fused engine was chosen, the engine
cache keeps its packed weights, those of the fused engine in float32, and a note of the choice and of all that it
depended on. The next run starts from there: half precision is proven against our own float32 on the first frame, which
an earlier run has proven against eager float32. Packages of AOTInductor, if they were asked for, start the same way: of
torch they need its libraries alone. A frame that needs torch, be it of another size or nearly uniform, makes it be
imported then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import engine
from engine import memory
from engine.cache import EngineCache, sha256
from engine.engines import Row, RunningEngine
from engine.errors import BackendError, EngineError, FrameSizeError
from engine.measuring import COMPARED, Measured
from engine.packages import PackagedGenerator, PackageFacts
from engine.packed import PackedFacts, PackedGenerator, read_weights, write_weights
from engine.precision import PARITY_DB, fastest_precision, is_nearly_uniform, psnr_db
from engine.processor import available_cores, kernel_facts, processor_fingerprint

if TYPE_CHECKING:
    from engine.choosing import Engine
    from engine.translator import Translator

logger = logging.getLogger("streamgan")

# The backends that can start without torch, as users ask for them.
QUICK_BACKENDS = ("auto", "fused", "aoti")

# By how much a fused engine has to be better than its limit to be relied on: frames other than the one that it is
# proven on may be less exact. Float32 is proven in the first run alone, half precision on each video's first frame.
_MARGIN_DB = {"fp32": 6.0, "bf16": 1.5, "fast": 0.0}

# The same of a package, in every precision proven on the first frame of each video: 45 dB against a float32 that is
# itself at 66 dB of eager float32 are 45.03 against that, if their errors have nothing to do with each other.
_PACKAGE_MARGIN_DB = 0.5

# Frame sizes whose generators are kept ready; each holds a frame's activations.
_MOST_READY = 3

# Frames of a file that are translated at the same time: their threads need not wait for each other.
_FRAMES_AT_ONCE = 2

# What `--backend auto` would measure beside the fused engine, if it is installed.
_RIVALS = ("onnxruntime", "openvino")

_WEIGHTS = "weights.bin"

# No such checkpoint, kernels that aren't built or an instruction set that can't run, a cache that can't be used.
_UNUSABLE = (OSError, ValueError, ImportError, EngineError)


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
    """An engine that was proven for frames of one size.

    Attributes:
        engine: what is known of it from that run.
        generator: to run it.
        reference: the fused one in float32, which it is proven against; None if it needs no more proof.
    """

    engine: RunningEngine
    generator: PackedGenerator | PackagedGenerator
    reference: PackedGenerator | None


class QuickTranslator:
    """Translates frames as `engine.Translator` does, without torch wherever an engine was proven that runs so.

    Args:
        request: of a generator on the CPU, for one of `QUICK_BACKENDS`.
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
        self._settled: set[tuple[int, int]] = set()  # sizes of which nothing is to be kept any more
        self._translator: Translator | None = None
        self._making = threading.Lock()
        self._engine: RunningEngine | None = None
        self._runs_full = False  # whether the last frame that was not nearly uniform went to the translator
        # The frame that an engine was proven on, and what it has made of it, until that is asked for.
        self._proof: tuple[np.ndarray, np.ndarray] | None = None
        self.scale = 1
        found = self._find(size)
        if found is None:
            self._full()
        else:
            self.scale = found.generator.facts.scale

    @property
    def engine(self) -> RunningEngine | None:
        """As `Translator.engine`."""
        full = self._translator.engine if self._translator and self._runs_full else None
        return full or self._engine

    @property
    def choice(self) -> list[Row]:
        """As `Translator.choice`."""
        return self._translator.choice if self._translator else []

    @property
    def frames_under_way(self) -> int:
        """As `Translator.frames_under_way`: one more than are worked on, so that the next one is there."""
        at_once = max((_frames_at_once(found) for found in self._found.values() if found), default=1)
        return at_once + 1 if at_once > 1 else 1

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
        self._runs_full = self._find((batch.shape[1], batch.shape[2])) is None
        if self._runs_full:
            return self._full().submit(frames)
        parts = [self._submit(frame) for frame in batch]
        return parts[0] if frames.ndim == 3 else lambda: np.stack([part() for part in parts])

    def _submit(self, frame: np.ndarray) -> Callable[[], np.ndarray]:
        size = (frame.shape[0], frame.shape[1])
        if is_nearly_uniform(frame):
            return self._full().submit(frame)
        self._runs_full = self._proven(size, frame) is None
        if self._runs_full:
            return self._full().submit(frame)
        proof, self._proof = self._proof, None
        if proof is not None and np.array_equal(proof[0], frame):
            translated = proof[1]
            return lambda: translated
        found = self._found[size]
        assert found is not None
        if isinstance(found.generator, PackedGenerator):
            return found.generator.submit(frame)
        translated = found.generator.translate(frame)
        return lambda: translated

    def engine_for(self, frame: np.ndarray) -> RunningEngine:
        """As `Translator.engine_for`."""
        size = (frame.shape[0], frame.shape[1])
        if self._find(size) is not None and not is_nearly_uniform(frame):
            engine = self._proven(size, frame)
            if engine is not None:
                self._engine = engine
                if self._request.live and self._translator is None:
                    # For the first frame that is nearly uniform: a stream does not wait.
                    threading.Thread(target=self._prepare_full, name="prepare translator", daemon=True).start()
                return engine
        chosen = self._full().engine_for(frame)
        if not chosen.is_stand_in:
            self._engine = chosen
            if size not in self._settled:
                self._settled.add(size)
                keep(self._cache, self._request, size, chosen, self._full())
        return chosen

    def _proven(self, size: tuple[int, int], frame: np.ndarray) -> RunningEngine | None:
        """The engine of frames of this size, proven on this one if it is the first; None: there is none."""
        found = self._found[size]
        if found is None or found.reference is None:
            return found.engine if found else None  # float32, or proven already
        expected = found.reference.translate(frame)
        found = Found(found.engine, found.generator, None)  # the reference's memory is the other's now
        self._found[size] = None  # until it is proven
        start = time.perf_counter()
        try:
            translated = found.generator.translate(frame)
        except BackendError as error:
            logger.warning("the engine is chosen anew: %s failed: %s", found.engine, error)
            self._settled.add(size)
            return None
        frame_ms = 1e3 * (time.perf_counter() - start)
        parity_db = psnr_db(translated, expected)
        least_db = _least_db(found.engine)
        if parity_db < least_db:
            logger.warning(
                "the engine is chosen anew: this video's first frame in %s is at %.1f dB of float32, not %.1f",
                *(found.engine, parity_db, least_db),
            )
            self._settled.add(size)  # other videos may be less demanding
            return None
        engine = dataclasses.replace(found.engine, parity_db=parity_db, frame_ms=frame_ms, proven_before=False)
        self._found[size] = Found(engine, found.generator, None)
        self._proof = frame.copy(), translated
        return engine

    def choose_batch(self, frame: np.ndarray) -> int:
        """As `Translator.choose_batch`."""
        return 1 if self._find((frame.shape[0], frame.shape[1])) else self._full().choose_batch(frame)

    def _full(self) -> Translator:
        with self._making:
            if self._translator is None:
                self._translator = self._make()
                self.scale = self._translator.scale
            return self._translator

    def _prepare_full(self) -> None:
        with contextlib.suppress(EngineError):  # which is told when it is needed
            self._full()

    def _find(self, size: tuple[int, int]) -> Found | None:
        if size not in self._found:
            ready = [other for other, found in self._found.items() if found is not None]
            for other in ready[: len(ready) - _MOST_READY + 1]:
                del self._found[other]
            self._found[size] = find(self._cache, self._request, size)
        return self._found[size]


def find(cache: EngineCache, request: Request, size: tuple[int, int]) -> Found | None:
    """What was proven for this request and frames of this (H, W); None: nothing, or it is not to be relied on."""
    try:
        note = cache.note(*_note_key(request, size))
    except _UNUSABLE:  # whoever loads the checkpoint, or the kernels, says why
        return None
    if not note:
        return None
    try:
        ran = RunningEngine(
            str(note["backend"]),
            str(note["precision"]),
            parity_db=float(note["parity_db"]),
            frame_ms=float(note["ms"]),
            proven_before=True,
        )
        if not Measured(**note["measured"]).suffices(
            frame_ms=ran.frame_ms,
            expected_frames=request.expected_frames,
            live=request.live,
            others=request.backend == "auto",
        ):
            return None
        threads = int(note["threads"])
        generator: PackedGenerator | PackagedGenerator | None
        if ran.backend == "aoti":
            generator = _packaged(cache, note["package"], threads)
        else:
            # A live stream wants each frame soon, a file all of them.
            at_once = 1 if request.live or request.expected_frames == 1 else _FRAMES_AT_ONCE
            generator = _packed(cache, request, ran.precision, note["packed"], threads, frames_at_once=at_once)
        reference = _packed(cache, request, "fp32", note["reference"], threads) if note["reference"] else None
        if generator is None or (note["reference"] and reference is None):
            return None
        needed = generator.needed_bytes(*size)
    except (EngineError, KeyError, TypeError, ValueError) as error:
        logger.warning("the engine of an earlier run is made anew: %s", error)
        return None
    available = memory.available_bytes(None)
    if available is not None and needed > available:
        raise FrameSizeError(
            f"a frame of {size[1]}x{size[0]} needs about {needed / 2**30:.1f} GiB in this generator and "
            f"{available / 2**30:.1f} GiB are free: use smaller frames"
        )
    return Found(ran, generator, reference)


def keep(cache: EngineCache, request: Request, size: tuple[int, int], chosen: Engine, translator: Translator) -> None:
    """Keeps an engine that was chosen and proven on a frame of this (H, W), for `find`.

    That something can't be kept is no error. What this video made necessary (another precision than the one that is
    tried first) and what has little to spare is not kept: the next video is another proof.
    """
    try:
        wanted = "fused" if request.backend == "auto" else request.backend
        if chosen.backend != wanted or wanted not in QUICK_BACKENDS:
            # Something else was measured to be faster, or had to stand in.
            return cache.keep_note(*_note_key(request, size), {})
        note = _note_of(cache, request, size, chosen, translator)
        if note is not None:
            cache.keep_note(*_note_key(request, size), note)
    except _UNUSABLE as error:
        logger.info("the engine is not kept for a quick start: %s", error)


def _note_of(
    cache: EngineCache, request: Request, size: tuple[int, int], chosen: Engine, translator: Translator
) -> dict[str, Any] | None:
    """What `find` reads, with the weights kept that belong to it; None: it is not to be relied on."""
    import torch

    wanted = fastest_precision(translator.device) if request.precision == "auto" else request.precision
    is_fastest = request.precision == "auto" and translator.measured.precisions == COMPARED
    if chosen.precision != wanted and not is_fastest:
        return None
    if translator.device.type != "cpu" or not _has_to_spare(chosen):
        return None
    needs_no_other = str(chosen) == "fused fp32"
    reference = chosen if needs_no_other else translator.prove("fused", "fp32")
    if reference is None or not _has_to_spare(reference):
        return None
    if sha256(request.checkpoint) != request.generator["generator"]:
        return None  # it has been written anew meanwhile
    if chosen.backend == "aoti":
        of, made_by = translator.cache_key(chosen, size)
        kept = {"package": {"of": of, "made_by": made_by, **translator.package_facts(chosen, size).to_dict()}}
    else:
        kept = {"packed": _kept(cache, request, chosen, translator)}
    return {
        **kept,
        "backend": chosen.backend,
        "reference": None if needs_no_other else _kept(cache, request, reference, translator),
        "precision": chosen.precision,
        "parity_db": min(chosen.parity_db, 200.0),  # JSON has no infinity
        "ms": chosen.frame_ms,
        "measured": dataclasses.asdict(translator.measured),
        "threads": torch.get_num_threads(),
    }


def _kept(cache: EngineCache, request: Request, engine: Engine, translator: Translator) -> dict[str, Any]:
    """Keeps the weights of a fused engine; returns their hash and the facts that belong to them, as JSON values."""
    from engine.fuse_program import FusedGenerator

    fused = engine.run
    assert isinstance(fused, FusedGenerator)

    def write(path: Path) -> dict[str, Any]:
        write_weights(fused, path)
        return {"architecture": translator.generator.config.describe()}

    sha = hashlib.sha256(fused.weights.numpy().data).hexdigest()
    key = _weights_key(request, engine.precision, sha)
    if not cache.has(*key):
        cache.add(*key, _WEIGHTS, write)
    return {"weights": sha, **PackedFacts.of(fused, translator.generator).to_dict()}


def _packed(
    cache: EngineCache,
    request: Request,
    precision: str,
    facts: dict[str, Any],
    threads: int,
    *,
    frames_at_once: int = 1,
) -> PackedGenerator | None:
    key = _weights_key(request, precision, str(facts["weights"]))
    entry = cache.find(*key) if cache.has(*key) else None
    if entry is None or entry.files.get(entry.main) != facts["weights"]:
        return None
    weights = read_weights(entry.folder / entry.main)
    return PackedGenerator(weights, PackedFacts.from_dict(facts), threads=threads, frames_at_once=frames_at_once)


def _frames_at_once(found: Found) -> int:
    return found.generator.frames_at_once if isinstance(found.generator, PackedGenerator) else 1


def _packaged(cache: EngineCache, kept: dict[str, Any], threads: int) -> PackagedGenerator | None:
    key = kept["of"], kept["made_by"]
    entry = cache.find(*key) if cache.has(*key) else None
    if entry is None:
        return None
    return PackagedGenerator(entry.folder / entry.main, PackageFacts.from_dict(kept), threads=threads)


def _note_key(request: Request, size: tuple[int, int]) -> tuple[dict[str, str], dict[str, str]]:
    of = {
        "note": "proven engine",
        **request.generator,
        "size": f"{size[1]}x{size[0]}",
        "backend": request.backend,
        "precision": request.precision,
    }
    # A package is code for one processor, and one version of torch.
    others = {"auto": _RIVALS, "aoti": ("torch",)}.get(request.backend, ())
    made_by = {
        "others": _versions(others),
        "processor": processor_fingerprint(),
        "threads": _threads_asked(request),
    }
    return of, {**_made_by(), **made_by}


def _weights_key(request: Request, precision: str, sha: str) -> tuple[dict[str, str], dict[str, str]]:
    of = {"backend": "fused", "precision": precision, "size": "any", **request.generator, "weights": sha}
    return of, {**_made_by(), "file": _WEIGHTS}


def _versions(distributions: tuple[str, ...]) -> str:
    """Of those that are installed."""
    found = []
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def _made_by() -> dict[str, str]:
    return {"streamgan": engine.__version__, **kernel_facts()}


def _threads_asked(request: Request) -> str:
    """What the number of threads depends on: the option, torch's variable, or the cores that this process may use."""
    if request.threads:
        return str(request.threads)
    if chosen := os.environ.get("OMP_NUM_THREADS"):
        return f"OMP_NUM_THREADS={chosen}"
    return f"{available_cores()} cores"


def _has_to_spare(engine: RunningEngine) -> bool:
    return engine.parity_db >= _least_db(engine)


def _least_db(engine: RunningEngine) -> float:
    """What an engine's first frame has to be at for it to be relied on."""
    margin_db = _PACKAGE_MARGIN_DB if engine.backend == "aoti" else _MARGIN_DB[engine.precision]
    return PARITY_DB[engine.precision] + margin_db
