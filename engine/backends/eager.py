"""PyTorch as it is, operator by operator: no start-up time, and the reference that every other backend is held to."""

from __future__ import annotations

from torch import Tensor

from engine.backends.base import CompiledGenerator, InMemoryBackend, ParityMeasure, in_channels_last
from engine.generators import Generator


class Eager(InMemoryBackend):
    """Returns the generator itself."""

    name = "eager"
    build_cost = "none"

    def compile(
        self, generator: Generator, example: Tensor, precision: str, parity_db: ParityMeasure
    ) -> CompiledGenerator:
        return in_channels_last(generator, example.dtype)
