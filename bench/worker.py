"""`python -m bench.worker`: one contender in a process of its own, told what to do over a pipe.

Every contender has its own process, so that thread pools don't meet, a crash ends nobody else, and the memory it took
is its own. One JSON request a line comes on stdin, one JSON answer a line goes to what was stdout; whatever libraries
print goes to stderr. The requests:

    {"do": "convert", "folder": ..., "contender": {...}, "spec": {...}}
    {"do": "load", ...the same, "output": FILE}     makes ready, runs the first frame, writes its output
    {"do": "run", "seconds": S, "least": N}         seconds of each frame after the first, about S seconds, N or more
    {"do": "rest"}                                  gives freed memory back to the system

An answer is {"error": LINE} where it went wrong.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from engine.allocator import keep_freed_memory
from engine.errors import first_line
from engine.memory import peak_process_bytes

EXAMPLE = "example.npy"


class Worker:
    """Carries out requests."""

    def __init__(self) -> None:
        self._session: Any = None

    def convert(self, request: dict[str, Any]) -> dict[str, Any]:
        """From the generator in the folder to the contender's own files there."""
        import numpy as np

        from bench.contenders import Contender
        from bench.peers import Spec, load_weights

        folder = Path(request["folder"])
        example, generator = np.load(folder / EXAMPLE), load_weights(folder)
        start = time.perf_counter()
        implementation = Contender(**request["contender"]).implementation()
        os.chdir(folder)  # some converters leave files behind
        implementation.convert(generator, example, folder, Spec(**request["spec"]))
        return {"seconds": time.perf_counter() - start}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Makes ready to run and runs the first frame."""
        import importlib

        import numpy as np

        from bench.peers import Spec

        folder = Path(request["folder"])
        spec = Spec(**request["spec"])
        implementation = importlib.import_module(f"bench.peers.{request['contender']['module']}")
        self._session = implementation.load(folder, np.load(folder / EXAMPLE), spec)
        output = self._session.run()
        ready = time.time()
        np.save(request["output"], self._session.fetch(output))
        return {"ready": ready, "peak_memory_bytes": peak_process_bytes()}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Frames one after the other. The first, which may find cold caches and memory given back, is not counted."""
        run, clock = self._session.run, time.perf_counter
        run()
        seconds: list[float] = []
        begin = clock()
        while len(seconds) < request["least"] or clock() - begin < request["seconds"]:
            start = clock()
            run()
            seconds.append(clock() - start)
        return {"seconds": seconds, "peak_memory_bytes": peak_process_bytes()}

    def rest(self, request: dict[str, Any]) -> dict[str, Any]:
        """Gives freed memory back, since many contenders wait at the same time."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)
        return {}


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answers each request until there are no more."""
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(worker, request["do"])(request)
        except Exception as error:  # whatever the libraries raise: the contender is listed with it
            answer = {"error": f"{type(error).__name__}: {first_line(error)}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    keep_freed_memory()
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, pipe)
