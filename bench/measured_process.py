"""Runs a command to its end and says what it took: wall time, processor time, and memory while it ran."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_SAMPLE_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        status: its exit status; negative: the signal that ended it.
        seconds: from its start to its end.
        cpu_seconds: user and system time, of its children too.
        memory: (seconds since the start, resident bytes of the process and its children); empty where there is no
            /proc. Pages that they share count once for each.
        printed: its standard output.
        last_line: the last line of its standard error.
    """

    status: int
    seconds: float
    cpu_seconds: float
    memory: list[tuple[float, int]]
    printed: str
    last_line: str


def run_process(command: list[str], folder: Path, variables: Mapping[str, str] | None = None) -> Ended:
    """Runs a command to its end, with its scratch files in `folder`; leaves no process behind, whatever happens.

    Args:
        variables: of its environment, beside those of this process.
    """
    # `python -m bench` sets THP_MEM_ALLOC_ENABLE for itself; contenders have their own settings.
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")  # every run compiles anew, as a first one does
    environment["TMPDIR"] = str(folder)
    environment |= variables or {}
    printed, complaints = folder / "stdout", folder / "stderr"
    with printed.open("wb") as out, complaints.open("wb") as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=_ROOT,
            env=environment,
            start_new_session=True,
        )
        memory = MemorySampler(process.pid, start)
        try:
            memory.start()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            memory.stop()
            if process.returncode != 0:
                _kill_tree(process.pid)
                process.wait()
    lines = complaints.read_text(errors="replace").replace("\r", "\n").split("\n")
    return Ended(
        status=process.returncode,
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        memory=memory.samples,
        printed=printed.read_text(errors="replace"),
        last_line=next((line.strip()[:200] for line in reversed(lines) if line.strip()), ""),
    )


class MemorySampler(threading.Thread):
    """Notes the resident memory of a process and its children every half second, from /proc."""

    def __init__(self, pid: int, start: float) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []
        self._pid, self._start, self._stop_event = pid, start, threading.Event()

    def run(self) -> None:
        while not self._stop_event.is_set():
            size = sum(tree_bytes(self._pid).values())
            if size:
                self.samples.append((round(time.perf_counter() - self._start, 2), size))
            self._stop_event.wait(_SAMPLE_SECONDS)

    def stop(self) -> None:
        """Ends the sampling."""
        self._stop_event.set()
        if self.is_alive():
            self.join()


def tree_bytes(root: int) -> dict[int, int]:
    """Resident bytes of a process and its descendants by their ids; empty where there is no /proc."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            values = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        pid = int(entry.parent.name)
        parents[pid], sizes[pid] = int(values[1]), int(values[21]) * os.sysconf("SC_PAGE_SIZE")
    tree = [root] if root in parents else []
    for pid in tree:  # grows while it is walked
        tree += [child for child, parent in parents.items() if parent == pid]
    return {pid: sizes[pid] for pid in tree}


def _kill_tree(pid: int) -> None:
    """Kills a process, its descendants and its process group."""
    calls: list[tuple[Callable[[int, int], None], int]] = [(os.kill, each) for each in tree_bytes(pid)]
    for kill, target in [*calls, (os.killpg, pid)]:
        try:
            kill(target, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # noqa: PERF203 - it has ended already
            continue
