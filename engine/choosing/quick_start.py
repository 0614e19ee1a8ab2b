"""What a later run needs to start a chosen engine without importing torch; `remembered.start` is that start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.backends import get_backend
from engine.cache import EngineCache
from engine.choosing import remembered
from engine.choosing.attempts import Attempts
from engine.choosing.candidates import Candidate
from engine.choosing.request import Request
from engine.files import sha256
from engine.runners.base import Engine, FrameFacts
from engine.runners.packed import PackedRunner
from engine.runners.tensors import TensorRunner

_Kept = dict[str, Any] | None


def can_be_kept(request: Request, chosen: Engine, *, wanted: str, is_fastest: bool) -> bool:
    """Whether a CPU's engine may be started so: not what this frame made necessary, nor one with little to spare.

    The next video is another proof.

    Args:
        wanted: the precision that was asked for.
        is_fastest: whether its precision is the fastest of all that may be taken.
    """
    is_asked = chosen.backend == request.backend or (request.backend == "auto" and chosen.backend == "fused")
    return (
        request.checkpoint is not None
        and is_asked
        and get_backend(chosen.backend).runs_without_torch
        and (chosen.precision == wanted or is_fastest)
        and remembered.has_to_spare(chosen)
    )


def keep(
    cache: EngineCache,
    request: Request,
    chosen: Engine,
    attempts: Attempts,
    engines: Sequence[Engine],
    batch: np.ndarray,
    expected: np.ndarray,
    architecture: str,
) -> tuple[_Kept, _Kept]:
    """Keeps weights in the cache; returns how `remembered.start` makes the runner and its float32 reference.

    Args:
        engines: that are ready; the reference may be among them.
        batch, expected: real frames and their translation in eager float32, uint8 [N, H, W, 3].

    Returns:
        None, None: it can't be started so. The reference is None where the engine needs no more proof.
    """
    assert request.checkpoint is not None
    reference: Engine | None = None
    if str(chosen) != "fused fp32":
        float32 = [engine for engine in engines if str(engine) == "fused fp32"]
        reference = float32[0] if float32 else attempts.engine(Candidate("fused", "fp32"), batch, expected)
        if reference is None or not remembered.has_to_spare(reference):
            return None, None
    if sha256(request.checkpoint) != request.generator["generator"]:
        return None, None  # it has been rewritten meanwhile
    if isinstance(chosen.runner, PackedRunner):
        kept = remembered.keep_weights(cache, request, chosen, chosen.runner, architecture)
    else:
        assert isinstance(chosen.runner, TensorRunner)
        size = batch.shape[1:3]
        facts: FrameFacts = chosen.runner.facts
        kept = {
            "package": attempts.cache_key(Candidate(chosen.backend, chosen.precision), batch),
            "facts": dataclasses.asdict(facts),
            "dtype": str(chosen.runner.dtype).removeprefix("torch."),
            "size": facts.padded_size(*size),
            "frame_bytes": chosen.runner.needed_bytes(1, *size),
        }
    if reference is None:
        return kept, None
    assert isinstance(reference.runner, PackedRunner)
    return kept, remembered.keep_weights(cache, request, reference, reference.runner, architecture)
