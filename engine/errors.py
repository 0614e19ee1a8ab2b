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


class ClusterError(EngineError):
    """The cluster can't be used: it is not there, or its workers can't do the job."""


class FrameSizeError(EngineError):
    """The frame is too small or too large for the generator, the codec or the memory."""


def first_line(error: BaseException) -> str:
    """Describes an exception of a library or the system in one line: its reason without a file name, or its first line.

    PyAV's exceptions also carry what FFmpeg logged last.
    """
    text = getattr(error, "strerror", None) or str(error)
    log = getattr(error, "log", None)
    if isinstance(log, tuple) and len(log) == 3:
        text = f"{text}: {log[2]}"
    return _lines(text, error)[0]


def last_line(error: BaseException) -> str:
    """The last line of an exception's message, for libraries that first tell where in their sources it was raised."""
    return _lines(str(error), error)[-1]


def _lines(text: str, error: BaseException) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
