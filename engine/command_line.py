"""What all command lines share: the name that their help shows, and how their process ends."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, ParamSpec

from engine.errors import EngineError

PROGRAM = "streamgan"
_Arguments = ParamSpec("_Arguments")


def command_name(module: str) -> str:
    """The `prog` of a module's parser: `streamgan run` if `engine.cli` runs it, else `python -m engine.run`."""
    return sys.argv[0] if sys.argv[0].startswith(f"{PROGRAM} ") else f"python -m {module}"


def errors_in_one_line(main: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
    """`main`, which prints an EngineError or OSError as `error: ...` on stderr and then returns 1."""

    @functools.wraps(main)
    def run(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> int:
        try:
            return main(*arguments, **options)
        except (EngineError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return run


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Ends the process with the status that `main` returns, also if nobody reads what was printed."""
    _open_standard_streams()
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


def _open_standard_streams() -> None:
    """Opens those that the caller has closed (`>&-`): a video must not become the file that a library prints to."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # noqa: PERF203
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
