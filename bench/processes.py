"""The other end of `bench.worker`: a contender's process, asked over its pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from engine.errors import EngineError

_ROOT = Path(__file__).parents[1]


class ContenderError(EngineError):
    """A contender failed; the message is the reason that tables give."""


class WorkerProcess:
    """One `python -m bench.worker`.

    Args:
        threads: for OpenMP and the libraries that follow its variable.
        environment: variables set for it alone.
    """

    def __init__(self, *, threads: int, environment: dict[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (lives as long as the process)
        self.started = time.time()
        # A session of its own: Ctrl-C goes to us, and we end it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker"],
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def ask(self, *, timeout_seconds: float, **request: Any) -> dict[str, Any]:
        """Sends one request and returns its answer.

        Raises:
            ContenderError: it failed, died, or took longer than that.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Timer(timeout_seconds, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timed_out = not late.is_alive()
            late.cancel()
        if not line:
            status = self._process.wait()
            reason = f"took longer than {timeout_seconds:.0f} s" if timed_out else f"its process died ({status})"
            raise ContenderError(f"{reason}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return f": {lines[-1]}"[:200] if lines else ""
