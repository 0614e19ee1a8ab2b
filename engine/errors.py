"""Every error a user can cause. Each message is one line: what was passed, what is accepted, what to do next."""

from __future__ import annotations

from pathlib import Path


class EngineError(Exception):
    """Base of all errors that are reported as one line instead of a traceback.

    Attributes:
        partial: where the output up to the error has been kept, if a pipeline was running and there was any.
    """

    partial: Path | None = None


class CheckpointError(EngineError):
    """The file holds no generator that can be loaded: missing, damaged, unsafe or of an unknown architecture."""


class BackendError(EngineError):
    """The backend, precision or device asked for can't run here or can't run this generator."""


class ParityError(BackendError):
    """A compiled generator differs from eager float32 by more than its precision allows."""


class EngineLostError(BackendError):
    """An engine that ran can't go on: its device is gone, or refuses."""


class SourceError(EngineError):
    """The source can't be opened or holds no picture: missing, empty, damaged, audio only, no such camera."""


class SinkError(EngineError):
    """The output can't be written: exists, read-only, full disk, unknown container or codec."""


class FrameSizeError(EngineError):
    """The frame is too small or too large for the generator, the codec or the memory."""
