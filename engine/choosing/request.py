"""What a user asks for, as far as the choice of an engine depends on it; needs no torch."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from engine.files import sha256

if TYPE_CHECKING:
    from engine.checkpoint import NormMode


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of `engine.Translator`.

    Attributes:
        checkpoint: the generator's file; None: it was given as a module.
        weights: `engine.engine_files.generator_hash` of a module.
    """

    checkpoint: Path | None
    backend: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    norm_mode: NormMode = "eval"
    engine_file: Path | None = None
    expected_frames: int | None = None
    live: bool = False
    explain: bool = False
    threads: int | None = None
    frames_at_once: int = 1
    weights: str = ""

    @property
    def is_auto(self) -> bool:
        """Whether any backend may be taken."""
        return self.backend == "auto" and self.engine_file is None

    @functools.cached_property
    def generator(self) -> dict[str, str]:
        """Tells the generator from others, in keys of the cache."""
        if self.checkpoint is None:
            return {"generator": self.weights}
        return {"generator": sha256(self.checkpoint), "norm_mode": self.norm_mode}
