"""What all command lines share: the name that their help shows, and how their process ends."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

PROGRAM = "streamgan"


def command_name(module: str) -> str:
    """The `prog` of a module's parser: `streamgan run` if `engine.cli` runs it, else `python -m engine.run`."""
    return sys.argv[0] if sys.argv[0].startswith(f"{PROGRAM} ") else f"python -m {module}"


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Ends the process with the status that `main` returns, also if nobody reads what was printed."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - closed by the caller (`>&-`)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    status = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # noqa: PERF203 - the interpreter must not complain at its end that nobody reads it
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    # CPython ends with the signal itself, whatever the status, if KeyboardInterrupt was raised inside an exec() once.
    if status > 128 or threading.active_count() > 1:
        os._exit(status)  # a stopped run may still be inside the generator; the interpreter must not wait for it
    sys.exit(status)
