"""Exceptions of libraries in one line."""

from __future__ import annotations

import av
import pytest

from engine.errors import first_line, last_line

COMPILER = RuntimeError("\n  in file a.cpp:3\n\n  no such operator \n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (COMPILER, "in file a.cpp:3"),
        (OSError(28, "No space left on device", "/tmp/out.mp4"), "No space left on device"),
        (OSError("libcuda.so.1: not found"), "libcuda.so.1: not found"),
        (av.error.InvalidDataError(1, "Invalid data", "in.mp4"), "Invalid data"),
        (
            av.error.InvalidDataError(1, "Invalid data", "in.mp4", (16, "h264", "no frame!\n")),
            "Invalid data: no frame!",
        ),
        (MemoryError(), "MemoryError"),
    ],
)
def test_first_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_last_line() -> None:
    assert last_line(COMPILER) == "no such operator"
    assert last_line(MemoryError()) == "MemoryError"
