"""StreamGAN's engine: load a GAN image-to-image generator, compile it, run it on video.

import engine
generator = engine.load_generator("latest_net_G.pth")
translator = engine.Translator("latest_net_G.pth")
translated = translator(frame)  # uint8 [H, W, 3] BGR -> the same
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engine.errors import (
    BackendError,
    CheckpointError,
    EngineError,
    FrameSizeError,
    ParityError,
    SinkError,
    SourceError,
)

if TYPE_CHECKING:
    from engine.checkpoint import inspect_checkpoint, load_generator, save_generator
    from engine.translator import Translator

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CheckpointError",
    "EngineError",
    "FrameSizeError",
    "ParityError",
    "SinkError",
    "SourceError",
    "Translator",
    "__version__",
    "inspect_checkpoint",
    "load_generator",
    "save_generator",
]

# Resolved on first use, so that `python -m engine.run --help` answers without loading torch.
_LAZY = {
    "Translator": "engine.translator",
    "load_generator": "engine.checkpoint",
    "inspect_checkpoint": "engine.checkpoint",
    "save_generator": "engine.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
