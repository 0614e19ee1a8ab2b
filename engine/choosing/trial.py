"""Two engines translate frames of the running video in turn; the faster one stays."""

from __future__ import annotations

import dataclasses
import math

from engine.runners.base import Engine

# Frames that each of the two translates.
_FRAMES = 4


class Trial:
    """Decides between the engine that runs and a rival that has become ready."""

    def __init__(self, current: Engine, rival: Engine) -> None:
        self.rival = rival
        self._engines = (current, rival)
        self._best_ms = [math.inf, math.inf]
        self._frames = 0

    @property
    def engine(self) -> Engine:
        """The one whose turn it is."""
        return self._engines[self._frames % 2]

    def add(self, frame_ms: float) -> None:
        """Records the time of a frame for the engine whose turn it was."""
        turn = self._frames % 2
        self._best_ms[turn] = min(self._best_ms[turn], frame_ms)
        self._frames += 1

    @property
    def winner(self) -> Engine | None:
        """The faster one; None until both have had their frames."""
        if self._frames < 2 * _FRAMES:
            return None
        faster = int(self._best_ms[1] < self._best_ms[0])
        return dataclasses.replace(self._engines[faster], frame_ms=self._best_ms[faster])
