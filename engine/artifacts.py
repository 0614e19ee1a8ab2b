"""Engines that are files: built into the cache, or read from a file that `python -m engine.export` wrote.

Beside an exported file lies NAME.json, which says what it is an engine of, who made it, and what its SHA-256 is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import engine
from engine.backends import BACKENDS, get_backend, tensorrt_plugin
from engine.backends.interface import CompiledGenerator
from engine.cache import EngineCache, Entry, verify
from engine.errors import BackendError
from engine.generators import Generator
from engine.precision import processor_abilities, processor_name

logger = logging.getLogger("streamgan")

ANY_SIZE = "any"


def is_file_backend(backend: ModuleType) -> bool:
    """Whether the engines of this backend are files."""
    return hasattr(backend, "build")


def generator_hash(generator: Generator) -> str:
    """SHA-256 over the configuration and all weights, in hexadecimal digits: what it computes follows from it."""
    digest = hashlib.sha256(json.dumps(generator.config.to_dict(), sort_keys=True).encode())
    for name, tensor in generator.state_dict().items():
        plain = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name} {plain.dtype} {list(plain.shape)}".encode())
        digest.update(memoryview(plain.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def describe(generator: Generator, sha: str, backend: str, precision: str, example: Tensor) -> dict[str, str]:
    """What an engine is of.

    Args:
        sha: `generator_hash(generator)`.
        example: its input, [N, 3, H, W].
    """
    batch, _, height, width = example.shape
    return {
        "backend": backend,
        "precision": precision,
        "size": f"{width}x{height}" + (f" x{batch}" if batch > 1 else ""),
        "generator": sha,
        "architecture": generator.config.describe(),
    }


def made_by(backend: ModuleType, device: torch.device) -> dict[str, str]:
    """The versions, and the machine, that an engine is made by and for."""
    return {
        "streamgan": engine.__version__,
        "torch": str(torch.__version__),
        "runtime": backend.version(device),
        "device": describe_device(device),
    }


def describe_device(device: torch.device) -> str:
    """The processor with its instruction sets, or the GPU with its driver: what compiled code depends on."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        driver = torch._C._cuda_getDriverVersion() if hasattr(torch._C, "_cuda_getDriverVersion") else "unknown"
        return f"{torch.cuda.get_device_name(device)} sm{major}{minor}, driver {driver}"
    return f"{processor_name()} {hashlib.sha256(' '.join(processor_abilities()).encode()).hexdigest()[:8]}"


def cached(
    cache: EngineCache, generator: Generator, sha: str, backend: str, precision: str, example: Tensor
) -> CompiledGenerator:
    """The engine from the cache; built and put there if it is not in it, or can't be loaded.

    Args:
        generator: float32, in eval mode; it may be changed.
        sha: `generator_hash(generator)`.

    Raises:
        BackendError: it can't be built, kept or loaded.
    """
    module = get_backend(backend)
    entry = cache.find(*cache_key(generator, sha, backend, precision, example))
    if entry is not None:
        try:
            return _load(module, entry, example, precision)
        except BackendError as error:
            logger.warning("the cached %s engine is made anew: %s", backend, error)
            cache.remove(entry)
    entry = build_into(cache, generator, sha, backend, precision, example)
    return _load(module, entry, example, precision)


def is_cached(
    cache: EngineCache, generator: Generator, sha: str, backend: str, precision: str, example: Tensor
) -> bool:
    """Whether `cached` would find the engine, as far as can be seen without reading it."""
    return cache.has(*cache_key(generator, sha, backend, precision, example))


def build_into(
    cache: EngineCache, generator: Generator, sha: str, backend: str, precision: str, example: Tensor
) -> Entry:
    """Builds an engine into the cache.

    Raises:
        BackendError: it can't be built or kept.
    """
    module = get_backend(backend)
    if reason := module.unbuildable(example.device):
        raise BackendError(f"no {backend} engine can be built here: {reason}")

    def build(path: Path) -> dict[str, Any]:
        if hasattr(module, "build_with_operators"):  # it will run here, where they are
            try:
                facts: dict[str, Any] = module.build_with_operators(generator, example, precision, path)
                module.load(path, example, precision)
                return facts
            except BackendError as error:
                logger.info("the %s engine is built without our operators: %s", backend, error)
        facts = module.build(generator, example, precision, path)
        return facts

    of, by = cache_key(generator, sha, backend, precision, example)
    return cache.add(of, by, f"engine{module.SUFFIX}", build)


def cache_key(
    generator: Generator, sha: str, backend: str, precision: str, example: Tensor
) -> tuple[dict[str, str], dict[str, str]]:
    """What an engine is of, and what it is made by: its key in the cache."""
    return describe(generator, sha, backend, precision, example), made_by(get_backend(backend), example.device)


def _load(module: ModuleType, entry: Entry, example: Tensor, precision: str) -> CompiledGenerator:
    run: CompiledGenerator = module.load(entry.folder / entry.main, example, precision)
    return run


@dataclasses.dataclass(frozen=True)
class Exported:
    """An engine in a file that `python -m engine.export` wrote.

    Attributes:
        path: the file that its backend loads.
        backend, precision: what it runs on and in.
        of, made_by, files, facts: as in `engine.cache.Entry`.
    """

    path: Path
    backend: str
    precision: str
    of: dict[str, str]
    made_by: dict[str, str]
    files: dict[str, str]
    facts: dict[str, Any]

    def require_fit(self, sha: str, example: Tensor) -> None:
        """Raises BackendError unless it is of that generator, takes frames of that size, and can run here."""
        if self.of.get("generator") != sha:
            raise BackendError(
                f"{self.path} is an engine of another generator: {self.of.get('architecture', 'unknown')}"
            )
        height, width = example.shape[2:]
        if self.of.get("size") not in (ANY_SIZE, f"{width}x{height}"):
            raise BackendError(f"{self.path} takes frames of {self.of.get('size')}, not {width}x{height}")
        if self.backend == "tensorrt" and self.facts.get("operators") and (reason := tensorrt_plugin.unavailable()):
            raise BackendError(f"{self.path} needs this project's operators in TensorRT: {reason}")
        low, high = self.facts.get("smallest_side", 1), self.facts.get("largest_side", max(height, width))
        if min(height, width) < low or max(height, width) > high:
            raise BackendError(f"{self.path} takes frames with sides from {low} to {high}, not {width}x{height}")
        backend = get_backend(self.backend)
        then, now = self.made_by.get("runtime"), backend.version(example.device)
        if backend.SAME_RUNTIME and then != now:
            raise BackendError(f"{self.path} was made by {then}, here is {now}: export it again")
        if lacking := set(self.facts.get("processor", ())) - set(processor_abilities()):
            raise BackendError(
                f"{self.path} was compiled for a processor with {', '.join(sorted(lacking))}: export it here"
            )

    def load(self, example: Tensor) -> CompiledGenerator:
        """Checks the files' sums and loads them.

        Raises:
            BackendError: damaged, or it does not run here.
        """
        verify(self.path.parent, self.files)
        run: CompiledGenerator = get_backend(self.backend).load(self.path, example, self.precision)
        return run


def description_of(path: Path) -> Path:
    """The JSON beside an exported file."""
    return path.with_name(f"{path.name}.json")


def read_exported(path: Path) -> Exported:
    """What the JSON beside an exported file says of it.

    Raises:
        BackendError: there is no such file, or no JSON beside it, or it is none of ours.
    """
    description = description_of(path)
    if not path.is_file():
        raise BackendError(f"no such engine: {path}")
    try:
        values = json.loads(description.read_text())
        found = Exported(
            path=path,
            backend=str(values["of"]["backend"]),
            precision=str(values["of"]["precision"]),
            of={str(name): str(value) for name, value in values["of"].items()},
            made_by={str(name): str(value) for name, value in values["made_by"].items()},
            files={str(name): str(value) for name, value in values["files"].items()},
            facts=dict(values["facts"]),
        )
    except OSError as error:
        raise BackendError(
            f"{description} can't be read, without which an engine is not loaded: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(f"{description} does not describe an engine: export it again") from error
    if found.backend not in BACKENDS or not is_file_backend(BACKENDS[found.backend]):
        raise BackendError(f"{path} is no engine but a file for elsewhere: {found.backend}")
    if path.name not in found.files or any(Path(name).name != name for name in found.files):
        raise BackendError(f"{description} does not describe {path.name}")
    return found
