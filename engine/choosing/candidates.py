"""What may be tried: backends in precisions, in the order in which they are worth it."""

from __future__ import annotations

import dataclasses
import logging

import torch

from engine import engine_files
from engine.backends import BACKENDS, get_backend
from engine.choosing.request import Request
from engine.errors import BackendError
from engine.precision import PRECISIONS, auto_precisions, fastest_precision, is_emulated
from engine.runners.base import RunnerInfo

logger = logging.getLogger("streamgan")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A backend in a precision, or the engine in a file that the user names."""

    backend: str
    precision: str
    file: engine_files.Exported | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


def ladder(request: Request, device: torch.device) -> list[Candidate]:
    """What to try until one runs, best first. The last is eager float32, which can't fail the parity check.

    Raises:
        BackendError: unknown names, a backend that can't run here, or a file that isn't what was asked for.
    """
    backend, precision = request.backend, request.precision
    if precision not in ("auto", *PRECISIONS):
        raise BackendError(f"unknown precision {precision!r}: accepted are auto, {', '.join(PRECISIONS)}")
    if backend != "auto" and (reason := get_backend(backend).unavailable(device)):
        raise BackendError(f"backend {backend!r} can't run here: {reason}")
    exported = engine_files.read_exported(request.engine_file) if request.engine_file else None
    if exported is not None:
        for name, asked, found in (
            ("of the backend", backend, exported.backend.name),
            ("in", precision, exported.precision),
        ):
            if asked not in ("auto", found):
                raise BackendError(f"{request.engine_file} is an engine {name} {found}, not {asked}")
    elsewhere = backend != "auto" and get_backend(backend).computes_elsewhere
    found_here = _elsewhere(backend, precision, device) if elsewhere else _here(backend, precision, device)
    if exported is not None:
        return [Candidate(exported.backend.name, exported.precision, exported), *found_here]
    return list(dict.fromkeys(found_here))


def _here(backend: str, precision: str, device: torch.device) -> list[Candidate]:
    fastest = fastest_precision(device)
    first = fastest if precision == "auto" else precision
    if is_emulated(first, device):
        logger.warning("this processor has no %s arithmetic: it may be slower than fp32", first)
    best_ready = "fused" if BACKENDS["fused"].unavailable(device) is None else "eager"
    half = [fastest] if first == "fast" else []
    if first == "fp16" and precision == "auto":
        half = ["bf16"]  # has the range of float32, for generators whose values outgrow float16
    asked = best_ready if backend == "auto" else backend
    found = [Candidate(asked, first)]
    found += [Candidate(asked, tried) for tried in (*half, "fp32") if tried in get_backend(asked).precisions]
    if asked not in ("eager", best_ready):
        found.append(Candidate(best_ready, first))
    return [*found, Candidate("eager", first), Candidate("eager", "fp32")]


def _elsewhere(backend: str, precision: str, device: torch.device) -> list[Candidate]:
    """For a backend that does not compute on the device: our own follow in precisions that the device has."""
    own = get_backend(backend).precisions
    if precision not in ("auto", *own):
        raise BackendError(f"backend {backend!r} runs in {' and '.join(own)}, not in {precision}")
    found = [Candidate(backend, one) for one in own if precision in ("auto", one)]
    if BACKENDS["fused"].unavailable(device) is None:
        here = (fastest_precision(device), "fp32") if precision == "auto" else ("fp32",)
        found += [Candidate("fused", one) for one in here]
    return [*found, Candidate("eager", "fp32")]


def taken_precisions(request: Request, device: torch.device) -> tuple[str, ...]:
    """The precisions that may be taken, the one to try first in front."""
    return auto_precisions(device) if request.precision == "auto" else (request.precision,)


def other_precisions(first: RunnerInfo, precisions: tuple[str, ...]) -> list[Candidate]:
    """The backend of `first` in those of `precisions` that it was not tried in."""
    backend = get_backend(first.backend)
    if backend.computes_elsewhere or first.precision not in precisions:
        return []
    return [
        Candidate(first.backend, precision)
        for precision in precisions
        if precision != first.precision and precision in backend.precisions
    ]


def slow_backends(device: torch.device) -> list[str]:
    """The backends that `auto` may build for minutes, best first."""
    return [
        name
        for name, backend in BACKENDS.items()
        if backend.build_cost == "minutes" and not backend.only_when_named and device.type in backend.devices
    ]


def quick_backends() -> list[str]:
    """The backends beside our own that are built in seconds, best first."""
    return [
        name for name, backend in BACKENDS.items() if backend.build_cost == "seconds" and not backend.only_when_named
    ]


def distributions(request: Request, device: torch.device) -> list[str]:
    """The distributions whose versions a choice depends on."""
    considered = [
        backend
        for name, backend in BACKENDS.items()
        if name == request.backend
        or (request.backend == "auto" and not backend.only_when_named and device.type in backend.devices)
    ]
    return sorted({name for backend in considered for name in backend.distributions})
