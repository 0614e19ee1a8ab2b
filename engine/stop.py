"""Stopping a job: a signal keeps what is done."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.pipeline import Pipeline

# A second signal counts after so long.
_SAME_SIGNAL_SECONDS = 1.0


class StopRequest:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a stop of the running pipeline.

    A second one ends the process at once, unless it comes within a second: one Ctrl-C can arrive twice.
    """

    def __init__(self) -> None:
        self.pipeline: Pipeline | None = None
        self.signal_number: int | None = None
        self._stopped = 0.0

    @property
    def exit_status(self) -> int:
        return 128 + (self.signal_number or signal.SIGINT)

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Signals are handled here inside the `with` block, and as before after it."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores that the terminal is gone
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, stack: FrameType | None) -> None:
        if self.signal_number is not None:
            if time.monotonic() - self._stopped < _SAME_SIGNAL_SECONDS:
                return
            os._exit(128 + number)
        self.signal_number, self._stopped = number, time.monotonic()
        if self.pipeline is None:
            raise KeyboardInterrupt
        self.pipeline.stop()
        if self.pipeline.is_starting:
            raise KeyboardInterrupt  # a compilation would go on for a minute
