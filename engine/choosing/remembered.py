"""What the cache remembers of a choice, and starting from it without importing torch.

Importing torch, loading the generator, eager float32 on the first frame and packing take two seconds and half a
gigabyte of memory. So the first run keeps a note for each generator and frame size: which engine was chosen, on what
that depended, and, for an engine that can run without torch, its packed weights and those of the fused engine in
float32. The next run starts from there. It proves half precision on its first frame against our own float32, which the
first run proved against eager float32.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine import memory
from engine.cache import EngineCache
from engine.choosing.measuring import Measured
from engine.choosing.request import Request
from engine.device import available_cores, installed_versions, kernel_facts, processor_fingerprint
from engine.errors import EngineError, FrameSizeError
from engine.parity import PARITY_DB
from engine.runners.aoti_package import PackageRunner
from engine.runners.base import Engine, FrameFacts, Runner, RunnerInfo
from engine.runners.packed import PackedRunner, read_weights, write_weights

logger = logging.getLogger("streamgan")

# How much better than its limit a fused engine has to be to be remembered: frames other than the one that it is proven
# on may be less exact. Float32 is proven in the first run alone, half precision on each video's first frame.
_MARGIN_DB = {"fp32": 6.0, "bf16": 1.5, "fast": 0.0}

# The same for a package, which every video's first frame proves in every precision: 45 dB against a float32 that is
# itself at 66 dB of eager float32 are 45.03 against that, if their errors have nothing to do with each other.
_PACKAGE_MARGIN_DB = 0.5

_WEIGHTS = "weights.bin"

# No such checkpoint, kernels that aren't built, an instruction set that can't run, or a cache that can't be used.
UNUSABLE = (OSError, ValueError, ImportError, EngineError)


@dataclasses.dataclass(frozen=True)
class Remembered:
    """The engine chosen for one request and frame size.

    Attributes:
        parity_db, frame_ms: as in RunnerInfo, of the run that chose it.
        measured: what the choice was based on.
        measured_slow: engines that take minutes to build and have been measured.
        threads: that it was measured with.
        versions: of the distributions that the choice depended on.
        runner: how to make its runner without torch; None: it can't be, or should not be relied on.
        reference: the same of the fused engine in float32 that proves it; None: it needs no more proof.
    """

    backend: str
    precision: str
    _: dataclasses.KW_ONLY
    parity_db: float
    frame_ms: float
    measured: Measured
    measured_slow: tuple[str, ...]
    threads: int
    versions: dict[str, str]
    runner: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, value: Any) -> Remembered | None:
        """The inverse of `dataclasses.asdict`; None for anything else."""
        try:
            if value["precision"] not in PARITY_DB:
                return None
            return cls(
                **{
                    **value,
                    "parity_db": float(value["parity_db"]),
                    "frame_ms": float(value["frame_ms"]),
                    "measured": Measured(**value["measured"]),
                    "measured_slow": tuple(map(str, value["measured_slow"])),
                    "threads": int(value["threads"]),
                    "versions": dict(value["versions"]),
                }
            )
        except (KeyError, TypeError, ValueError):
            return None


@dataclasses.dataclass(frozen=True)
class Start:
    """A remembered engine, ready to run without torch.

    Attributes:
        reference: the fused engine in float32, which it has to be proven against; None: it needs no more proof.
    """

    engine: Engine
    reference: PackedRunner | None


def recall(cache: EngineCache, request: Request, size: tuple[int, int], *, device: str = "") -> Remembered | None:
    """What was remembered for frames of this (H, W); None: nothing, or a job like this one would measure more.

    Args:
        device: `engine.engine_files.describe_device` of a GPU; "" for the CPU.
    """
    if request.engine_file is not None or request.explain:
        return None
    try:
        found = Remembered.from_json(cache.note(*_note_key(request, size, device)))
    except UNUSABLE:  # whoever loads the checkpoint, or the kernels, says why
        return None
    if found is None or found.versions != versions_of(found.versions):
        return None
    torch = sys.modules.get("torch")
    if torch is not None and not request.threads and torch.get_num_threads() != found.threads:
        return None
    enough = found.measured.suffices(
        frame_ms=found.frame_ms,
        expected_frames=request.expected_frames,
        live=request.live,
        others=request.backend == "auto",
    )
    return found if enough else None


def remember(
    cache: EngineCache, request: Request, size: tuple[int, int], choice: Remembered, *, device: str = "", scale: int
) -> None:
    """Keeps a choice for `recall` and `start`; that it can't be kept is no error."""
    with contextlib.suppress(*UNUSABLE):
        cache.keep_note(*_note_key(request, size, device), dataclasses.asdict(choice))
        if choice.runner is not None:
            cache.keep_note(*_scale_key(request), scale)


def known_scale(cache: EngineCache, request: Request) -> int | None:
    """The scale of a generator that `start` may be able to run, for some frame size; None: it is not known."""
    if request.engine_file is not None or request.explain or request.checkpoint is None:
        return None
    try:
        scale = cache.note(*_scale_key(request))
    except UNUSABLE:
        return None
    return scale if isinstance(scale, int) else None


def start(cache: EngineCache, request: Request, size: tuple[int, int]) -> Start | None:
    """What was remembered for frames of this (H, W), made ready without torch; None: nothing that can be.

    Raises:
        FrameSizeError: frames of this size need more memory than there is.
    """
    found = recall(cache, request, size)
    if found is None or found.runner is None:
        return None
    try:
        runner = _made(cache, request, found.runner, found.threads, frames_at_once=request.frames_at_once)
        reference = found.reference and _made(cache, request, found.reference, found.threads)
        if runner is None or (found.reference and reference is None):
            return None
        needed = runner.needed_bytes(1, *size)
    except (EngineError, KeyError, TypeError, ValueError) as error:
        logger.warning("the engine of an earlier run is built again: %s", error)
        return None
    require_memory(needed, memory.available_bytes(None), size)
    info = Engine(
        found.backend, found.precision, runner, parity_db=found.parity_db, frame_ms=found.frame_ms, proven_before=True
    )
    return Start(info, reference if isinstance(reference, PackedRunner) else None)


def require_memory(needed: int, available: int | None, size: tuple[int, int]) -> None:
    """Raises FrameSizeError if a frame of this (H, W) needs more bytes than there are."""
    if available is not None and needed > available:
        raise FrameSizeError(
            f"a frame of {size[1]}x{size[0]} needs about {needed / 2**30:.1f} GiB in this generator and "
            f"{available / 2**30:.1f} GiB are free: use smaller frames"
        )


def keep_weights(
    cache: EngineCache, request: Request, info: RunnerInfo, runner: PackedRunner, architecture: str
) -> dict[str, Any]:
    """Keeps a fused engine's weights in the cache; returns what `start` makes its runner from."""
    sha = hashlib.sha256(runner.weights.data).hexdigest()
    key = _weights_key(request, info.precision, sha)

    def write(path: Path) -> dict[str, Any]:
        write_weights(runner.weights, path)
        return {"architecture": architecture}

    if not cache.has(*key):
        cache.add(*key, _WEIGHTS, write)
    facts = dataclasses.asdict(runner.facts)
    return {"precision": info.precision, "weights": sha, "program": list(runner.program), "facts": facts}


def has_to_spare(info: RunnerInfo) -> bool:
    """Whether an engine is so much better than its limit that it can be remembered."""
    return info.parity_db >= least_db(info)


def least_db(info: RunnerInfo) -> float:
    """What an engine's first frame has to reach for the engine to be remembered."""
    margin_db = _PACKAGE_MARGIN_DB if info.backend == "aoti" else _MARGIN_DB[info.precision]
    return PARITY_DB[info.precision] + margin_db


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """The installed version of each distribution, "" for those that are not installed."""
    return {name: installed_versions(name) for name in distributions}


def _made(
    cache: EngineCache, request: Request, kept: dict[str, Any], threads: int, *, frames_at_once: int = 1
) -> Runner | None:
    """The runner that `kept` describes; None where its files are gone or not the same."""
    facts = FrameFacts.from_dict(kept["facts"])
    if "package" in kept:
        of, made_by = kept["package"]
        entry = cache.find(of, made_by) if cache.has(of, made_by) else None
        if entry is None:
            return None
        height, width = kept["size"]
        return PackageRunner(
            entry.folder / entry.main,
            facts,
            dtype=str(kept["dtype"]),
            size=(int(height), int(width)),
            frame_bytes=int(kept["frame_bytes"]),
            threads=threads,
        )
    key = _weights_key(request, str(kept["precision"]), str(kept["weights"]))
    entry = cache.find(*key) if cache.has(*key) else None
    if entry is None or entry.files.get(entry.main) != kept["weights"]:
        return None
    weights: np.ndarray = read_weights(entry.folder / entry.main)
    return PackedRunner(weights, kept["program"], facts, threads=threads, frames_at_once=frames_at_once)


def _note_key(request: Request, size: tuple[int, int], device: str) -> tuple[dict[str, str], dict[str, str]]:
    of = {**_of(request, "engine"), "size": f"{size[1]}x{size[0]}"}
    return of, {**_made_by(), "device": device or processor_fingerprint(), "threads": _threads_asked(request)}


def _scale_key(request: Request) -> tuple[dict[str, str], dict[str, str]]:
    return _of(request, "scale"), _made_by()


def _of(request: Request, note: str) -> dict[str, str]:
    return {"note": note, **request.generator, "backend": request.backend, "precision": request.precision}


def _weights_key(request: Request, precision: str, sha: str) -> tuple[dict[str, str], dict[str, str]]:
    of = {"backend": "fused", "precision": precision, "size": "any", **request.generator, "weights": sha}
    return of, {**_made_by(), **kernel_facts(), "file": _WEIGHTS}


def _made_by() -> dict[str, str]:
    made_by = {"streamgan": engine.__version__}
    with contextlib.suppress(ImportError, ValueError):  # whoever runs the kernels says why they can't be
        made_by |= kernel_facts()
    return made_by


def _threads_asked(request: Request) -> str:
    """What the number of threads depends on: the option, torch's variable, or the cores that this process may use."""
    if request.threads:
        return str(request.threads)
    if chosen := os.environ.get("OMP_NUM_THREADS"):
        return f"OMP_NUM_THREADS={chosen}"
    return f"{available_cores()} cores"
