"""What `auto` measures before it chooses, for how long, and what counts as faster; needs no torch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from engine.runners.base import Engine, RunnerInfo

AUTO_SECONDS = 4.0
"""`--backend auto` measures other backends for so long at most, and for no more than a twentieth of the job."""
_SHARE_OF_JOB = 0.05
_LEAST_SECONDS = 1.0

COMPARING_SECONDS = 0.4
"""How long the precisions of one backend are measured for, unless a few calls of each take longer."""
# Comparing takes about seven frames; a job of fewer frames than this can't win them back.
_COMPARING_PAYS_AFTER_FRAMES = 16

# An engine replaces the one before it in the list only if it is faster by this share. Less can be chance.
_WORTH_CHANGING = 0.1

# Calls of each engine that are measured, in turn, and how many of them even when the time is up. An engine whose first
# call took so many times the best is left out.
_ROUNDS = 5
_LEAST_ROUNDS = 3
_HOPELESS = 3.0

COMPARED, ONLY_ONE, SKIPPED = "compared", "only one", "skipped"

AnyEngine = TypeVar("AnyEngine", bound=RunnerInfo)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a choice was based on.

    Attributes:
        precisions: `COMPARED`: the backend was measured in all precisions that `auto` takes. `ONLY_ONE`: it runs in
            one of them only, or the user named it. `SKIPPED`: the job was too short to compare them.
        backends: whether other backends were measured too.
    """

    precisions: str = ONLY_ONE
    backends: bool = False

    def suffices(self, *, frame_ms: float, expected_frames: int | None, live: bool, others: bool) -> bool:
        """Whether a job like this one would measure no more than that.

        Args:
            frame_ms: time of a frame in the chosen engine.
            others: whether other backends may be taken.
        """
        if self.precisions == SKIPPED and comparing_pays(expected_frames):
            return False
        wants_backends = others and measuring_seconds(frame_ms, expected_frames=expected_frames, live=live) > 0
        return self.backends or not wants_backends


def measuring_seconds(frame_ms: float, *, expected_frames: int | None, live: bool) -> float:
    """For how long `--backend auto` measures other backends beside the first one.

    Args:
        frame_ms: of the first one.
        expected_frames: how many frames will come; None: unknown.
        live: whether frames come as long as they are wanted.

    Returns:
        Seconds; 0 where it would not be worth it.
    """
    if live:
        return AUTO_SECONDS
    if expected_frames is None:
        return 0.0
    share = _SHARE_OF_JOB * expected_frames * frame_ms / 1e3
    return min(AUTO_SECONDS, share) if share >= _LEAST_SECONDS else 0.0


def comparing_pays(expected_frames: int | None) -> bool:
    """Whether a job of so many frames is worth comparing the precisions of a backend; None: unknown, and it is."""
    return expected_frames is None or expected_frames >= _COMPARING_PAYS_AFTER_FRAMES


def fastest_of(engines: Sequence[AnyEngine]) -> AnyEngine:
    """The fastest engine if it is clearly faster than the first, else the first."""
    fastest = min(engines, key=lambda engine: engine.frame_ms)
    return fastest if fastest.frame_ms < (1 - _WORTH_CHANGING) * engines[0].frame_ms else engines[0]


def timed(engine: Engine, batch: np.ndarray) -> tuple[np.ndarray, float]:
    """An engine's translation of a batch, and the milliseconds that it takes for each of its frames."""
    start = time.perf_counter()
    translated = engine.runner.submit(batch)()
    return translated, 1e3 * (time.perf_counter() - start) / len(batch)


def timed_in_turn(engines: list[Engine], batch: np.ndarray, deadline: float) -> list[Engine]:
    """The engines with the best time of some calls, all in turn: what else the machine does hits all of them."""
    best_ms = [math.inf] * len(engines)
    for number in range(_ROUNDS):
        for place, engine in enumerate(engines):
            if engine.frame_ms <= _HOPELESS * min(best_ms):
                best_ms[place] = min(best_ms[place], timed(engine, batch)[1])
        if number + 1 >= _LEAST_ROUNDS and time.monotonic() > deadline:
            break
    return [
        dataclasses.replace(engine, frame_ms=min(ms, engine.frame_ms))
        for engine, ms in zip(engines, best_ms, strict=True)
    ]
