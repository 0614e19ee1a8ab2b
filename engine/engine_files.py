"""Engines that are files: built into the cache, or read from a file that `python -m engine.export` wrote.

Beside an exported file lies NAME.json, which says what it is an engine of, who made it, and what its SHA-256 is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import engine
from engine.backends import BACKENDS, CompiledGenerator, FileBackend
from engine.cache import EngineCache, Entry, verify
from engine.device import gpu_name, processor_abilities, processor_name
from engine.errors import BackendError
from engine.generators import Generator

logger = logging.getLogger("streamgan")

ANY_SIZE = "any"
HAS_OPERATORS = {"operators": "streamgan"}
"""In the facts of a file that holds this project's operators."""


def generator_hash(generator: Generator) -> str:
    """SHA-256 over the configuration and all weights, in hexadecimal digits: what it computes follows from it."""
    digest = hashlib.sha256(json.dumps(generator.config.to_dict(), sort_keys=True).encode())
    for name, tensor in generator.state_dict().items():
        plain = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name} {plain.dtype} {list(plain.shape)}".encode())
        digest.update(memoryview(plain.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def cache_key(
    generator: Generator, sha: str, backend: FileBackend, precision: str, example: Tensor
) -> tuple[dict[str, str], dict[str, str]]:
    """What an engine is of, and the versions and the machine that it is made by and for.

    Args:
        sha: `generator_hash(generator)`.
        example: its input, [N, 3, H, W].
    """
    batch, _, height, width = example.shape
    of = {
        "backend": backend.name,
        "precision": precision,
        "size": f"{width}x{height}" + (f" x{batch}" if batch > 1 else ""),
        "generator": sha,
        "architecture": generator.config.describe(),
    }
    made_by = {
        "streamgan": engine.__version__,
        "torch": str(torch.__version__),
        "runtime": backend.version(example.device),
        "device": describe_device(example.device),
    }
    return of, made_by


def describe_device(device: torch.device) -> str:
    """The processor with its instruction sets, or the GPU with its driver: what compiled code depends on."""
    if device.type == "cuda":
        driver = torch._C._cuda_getDriverVersion() if hasattr(torch._C, "_cuda_getDriverVersion") else "unknown"
        return f"{gpu_name(device)}, driver {driver}"
    return f"{processor_name()} {hashlib.sha256(' '.join(processor_abilities()).encode()).hexdigest()[:8]}"


def load_or_build(
    cache: EngineCache, generator: Generator, sha: str, backend: FileBackend, precision: str, example: Tensor
) -> CompiledGenerator:
    """The engine from the cache; built and put there if it is not in it, or can't be loaded.

    Args:
        generator: float32, in eval mode; it may be changed.
        sha: `generator_hash(generator)`.

    Raises:
        BackendError: it can't be built, kept or loaded.
    """
    entry = cache.find(*cache_key(generator, sha, backend, precision, example))
    if entry is not None:
        try:
            return backend.load(entry.folder / entry.main, example, precision)
        except BackendError as error:
            logger.warning("the cached %s engine is built again: %s", backend.name, error)
            cache.remove(entry)
    entry = build_into(cache, generator, sha, backend, precision, example)
    return backend.load(entry.folder / entry.main, example, precision)


def build_into(
    cache: EngineCache, generator: Generator, sha: str, backend: FileBackend, precision: str, example: Tensor
) -> Entry:
    """Builds an engine into the cache.

    Raises:
        BackendError: it can't be built or kept.
    """
    if reason := backend.unbuildable(example.device):
        raise BackendError(f"no {backend.name} engine can be built here: {reason}")

    def build(path: Path) -> dict[str, Any]:
        if backend.prefers_operators:  # it will run here, where they are
            try:
                facts = backend.build(generator, example, precision, path, operators=True)
                backend.load(path, example, precision)
                return {**facts, **HAS_OPERATORS}
            except BackendError as error:
                logger.info("the %s engine is built without our operators: %s", backend.name, error)
        return backend.build(generator, example, precision, path)

    return cache.add(*cache_key(generator, sha, backend, precision, example), f"engine{backend.suffix}", build)


@dataclasses.dataclass(frozen=True)
class Exported:
    """An engine in a file that `python -m engine.export` wrote.

    Attributes:
        path: the file that its backend loads.
        backend, precision: what it runs on and in.
        of, made_by, files, facts: as in `engine.cache.Entry`.
    """

    path: Path
    backend: FileBackend
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
        if self.facts.get("operators") and (reason := self.backend.operators_unavailable()):
            raise BackendError(f"{self.path} needs this project's operators: {reason}")
        low, high = self.facts.get("smallest_side", 1), self.facts.get("largest_side", max(height, width))
        if min(height, width) < low or max(height, width) > high:
            raise BackendError(f"{self.path} takes frames with sides from {low} to {high}, not {width}x{height}")
        then, now = self.made_by.get("runtime"), self.backend.version(example.device)
        if self.backend.same_runtime and then != now:
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
        return self.backend.load(self.path, example, self.precision)


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
        of, made_by, files = (
            {str(name): str(value) for name, value in values[part].items()} for part in ("of", "made_by", "files")
        )
        name, precision, facts = of["backend"], of["precision"], dict(values["facts"])
    except OSError as error:
        raise BackendError(
            f"{description} can't be read, without which an engine is not loaded: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(f"{description} does not describe an engine: export it again") from error
    backend = BACKENDS.get(name)
    if not isinstance(backend, FileBackend):
        raise BackendError(f"{path} is no engine but a file for elsewhere: {name}")
    if path.name not in files or any(Path(file).name != file for file in files):
        raise BackendError(f"{description} does not describe {path.name}")
    return Exported(path, backend, precision, of, made_by, files, facts)
