"""Keeps the workers of a Ray cluster busy: starts them, gives them parts to make, and replaces those that die."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from engine.cluster.worker import Worker, versions
from engine.errors import ClusterError, EngineError, first_line, last_line
from engine.part_files import MadePart
from engine.video.frame_index import IrregularError

logger = logging.getLogger("streamgan")

CONNECT_SECONDS = 20.0
"""How long Ray may take to answer."""

MOST_UNDER_WAY = 2
"""Parts that a worker has at a time: one that it makes, and one that waits."""

MOST_ATTEMPTS = 4
"""How often a part is tried, on other workers if there are any, before its job is given up."""

MOST_STARTS = 3
"""How often a worker that dies without having done anything is started."""

# How often nodes are looked for that have come, and for how long workers may wait before that is said.
_LOOK_SECONDS = 3.0
_PATIENCE_SECONDS = 10.0

# Ray's own client tries for minutes, or for ever, where nobody or somebody else answers.
_TRY = """
import sys, ray
try:
    ray.init(sys.argv[1], logging_level="error", log_to_driver=False)
except Exception as error:
    sys.exit(str(error).splitlines()[0])
"""


@dataclasses.dataclass(eq=False)
class Task:
    """A part to be made.

    Attributes:
        orders: references to an `Order` in Ray's object store, by whether a worker has a GPU.
        first, end: number of its first frame, and of the one behind its last.
        done: called with the part.
        failed: called with what made it impossible.
        excluded: workers that can't make parts of this order; the same set for all of its tasks.
    """

    orders: dict[bool, Any]
    first: int
    end: int
    done: Callable[[MadePart], None]
    failed: Callable[[EngineError], None]
    excluded: set[Any]
    attempts: int = 0
    is_dropped: bool = False

    def __str__(self) -> str:
        return f"frames {self.first} to {self.end - 1}"


@dataclasses.dataclass(eq=False)
class _Slot:
    """A place for a worker on a node.

    Attributes:
        actor: the worker, None where one has to be started.
        cpus, gpus: what it takes of the node.
        is_ready: it has answered.
        under_way: what was asked of it, the task being None for the greeting; the first is being worked on.
        starts: how often it was started since it last did something.
        refusal: why no worker can be had here.
    """

    node_id: str
    name: str
    cpus: float
    gpus: int
    actor: Any = None
    is_ready: bool = False
    under_way: collections.deque[tuple[Any, Task | None]] = dataclasses.field(default_factory=collections.deque)
    starts: int = 0
    refusal: str = ""


class Cluster:
    """The workers of a running Ray cluster: one for each GPU, and on nodes without one for each `threads` cores.

    Args:
        address: HOST:PORT of its head, or "auto": the cluster that runs on this machine.
        threads: cores of a worker without a GPU; None: all of its node.
        use_gpus: False makes workers without GPUs everywhere.

    Raises:
        ClusterError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str, *, threads: int | None, use_gpus: bool) -> None:
        self._ray = _connected(address)
        self._threads = threads
        self._use_gpus = use_gpus
        self._slots: dict[str, list[_Slot]] = {}  # by node
        self._waiting: collections.deque[Task] = collections.deque()
        self._started = time.monotonic()
        self._looked = float("-inf")
        self._was_impatient = False

    @property
    def worker_count(self) -> int:
        """Workers that have answered."""
        return sum(slot.is_ready for slot in self._all())

    @property
    def waiting_count(self) -> int:
        """Tasks that no worker has yet."""
        return len(self._waiting)

    def put(self, value: Any) -> Any:
        """Puts something into Ray's object store."""
        return self._ray.put(value)

    def submit(self, task: Task) -> None:
        """Has a part made, after those that were submitted before."""
        self._waiting.append(task)

    def drop(self, tasks: list[Task]) -> None:
        """Forgets tasks; what workers still make of them is thrown away."""
        for task in tasks:
            task.is_dropped = True
        self._waiting = collections.deque(task for task in self._waiting if not task.is_dropped)

    def step(self, seconds: float) -> None:
        """Gives workers what to do, and waits up to so long until one of them has done something.

        Raises:
            ClusterError: no worker can be had.
        """
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look()
            self._looked = time.monotonic()
        self._assign()
        references = {reference: slot for slot in self._all() for reference, _ in slot.under_way}
        if not references:
            time.sleep(min(seconds, 0.1))
            return
        ready, _ = self._ray.wait(list(references), num_returns=1, timeout=seconds)
        for reference in ready:
            self._finish(references[reference], reference)
        if not ready and not self.worker_count and not self._was_impatient and self._seconds() > _PATIENCE_SECONDS:
            self._was_impatient = True
            logger.warning("no worker has started yet: the cluster may have no free cores")

    def close(self) -> None:
        """Ends the workers and leaves the cluster."""
        self._ray.shutdown()

    # --- workers ---

    def _all(self) -> list[_Slot]:
        return [slot for slots in self._slots.values() for slot in slots]

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _look(self) -> None:
        """Starts workers where there are none, on nodes that have come as well."""
        nodes = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        for gone in self._slots.keys() - nodes.keys():
            for slot in self._slots.pop(gone):
                self._replace(slot, "its node is gone")
        for node_id, node in nodes.items():
            if node_id not in self._slots:
                self._slots[node_id] = self._places(node_id, node)
            for slot in self._slots[node_id]:
                if slot.actor is None and not slot.refusal:
                    self._start(slot)
        refusals = [slot.refusal for slot in self._all()]
        if not refusals:
            raise ClusterError(f"no node of the cluster has the {self._threads or 1} cores of a worker (--threads)")
        if all(refusals):
            raise ClusterError(f"no worker can be used: {refusals[-1]}")

    def _places(self, node_id: str, node: dict[str, Any]) -> list[_Slot]:
        cpus, gpus = node["Resources"].get("CPU", 0), int(node["Resources"].get("GPU", 0)) if self._use_gpus else 0
        name = str(node["NodeManagerHostname"])
        if gpus:
            return [_Slot(node_id, name, min(1, cpus // gpus), 1) for _ in range(gpus)]
        each = self._threads or int(cpus)
        return [_Slot(node_id, name, each, 0) for _ in range(int(cpus // each) if each else 0)]

    def _start(self, slot: _Slot) -> None:
        options = {"num_cpus": slot.cpus, "num_gpus": slot.gpus, "max_restarts": 0, "max_task_retries": 0}
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(slot.node_id, soft=False)
        slot.actor = self._ray.remote(**options)(Worker).options(scheduling_strategy=here).remote()
        slot.is_ready = False
        slot.starts += 1
        slot.under_way.append((slot.actor.greet.remote(versions()), None))

    def _replace(self, slot: _Slot, why: str) -> None:
        """Takes back what a worker that is gone had to do; the part that it was making counts as tried."""
        was_making = slot.under_way[0][1] if slot.under_way else None
        tasks = [task for _, task in slot.under_way if task is not None]
        slot.under_way.clear()
        if slot.actor is not None:
            self._ray.kill(slot.actor)  # it may only be out of reach
        slot.actor = None
        slot.is_ready = False
        for task in reversed(tasks):
            self._put_back(task)
        if was_making is not None:
            logger.warning("a worker on %s died (%s): %s are done again", slot.name, why, was_making)
            was_making.attempts += 1
            if was_making.attempts >= MOST_ATTEMPTS:
                self._fail(was_making, ClusterError(f"{MOST_ATTEMPTS} workers died of {was_making}: {why}"))
        if slot.starts >= MOST_STARTS:
            self._refuse(slot, why)
        self._looked = float("-inf")

    def _refuse(self, slot: _Slot, why: str) -> None:
        slot.refusal = f"worker on {slot.name}: {why}"
        logger.warning("left out: %s", slot.refusal)
        self._looked = float("-inf")

    # --- tasks ---

    def _assign(self) -> None:
        """First every worker gets a part to make, then one that waits, as long as there are enough for all."""
        ready = [slot for slot in self._all() if slot.is_ready]
        for most in range(1, MOST_UNDER_WAY + 1):
            for slot in ready:
                if len(slot.under_way) < most and (most == 1 or len(self._waiting) > len(ready)):
                    self._give(slot)

    def _give(self, slot: _Slot) -> None:
        task = next((task for task in self._waiting if slot not in task.excluded), None)
        if task is not None:
            self._waiting.remove(task)
            order = task.orders[bool(slot.gpus)]
            slot.under_way.append((slot.actor.make.remote(order, task.first, task.end), task))

    def _finish(self, slot: _Slot, reference: Any) -> None:
        """Takes a result."""
        errors = self._ray.exceptions
        task = next(task for other, task in slot.under_way if other == reference)
        try:
            result = self._ray.get(reference)
        except errors.RayTaskError as error:
            self._take_back(slot, reference)
            self._refused(slot, task, error.cause)
            return
        except errors.RayError as error:
            self._replace(slot, _why_dead(error))
            return
        self._take_back(slot, reference)
        slot.starts = 0
        if task is None:
            slot.is_ready = True
        elif not task.is_dropped:
            task.done(result)

    def _take_back(self, slot: _Slot, reference: Any) -> None:
        slot.under_way = collections.deque(item for item in slot.under_way if item[0] != reference)

    def _refused(self, slot: _Slot, task: Task | None, cause: BaseException | None) -> None:
        """A worker could not do what it was asked to."""
        if not isinstance(cause, EngineError):
            cause = ClusterError(f"unexpected {type(cause).__name__}: {first_line(cause) if cause else ''}")
        if task is None:
            self._refuse(slot, str(cause))
            self._ray.kill(slot.actor)
        elif isinstance(cause, IrregularError):
            self._fail(task, cause)
        elif not task.is_dropped:
            task.attempts += 1
            task.excluded.add(slot)
            others = [other for other in self._all() if not other.refusal and other not in task.excluded]
            if task.attempts >= MOST_ATTEMPTS or not others:
                self._fail(task, ClusterError(f"worker on {slot.name}: {cause}"))
                return
            logger.warning("worker on %s: %s: left to %d others", slot.name, cause, len(others))
            self._put_back(task)

    def _put_back(self, task: Task) -> None:
        if not task.is_dropped:
            self._waiting.appendleft(task)

    def _fail(self, task: Task, error: EngineError) -> None:
        if task in self._waiting:
            self._waiting.remove(task)
        if not task.is_dropped:
            task.failed(error)


def _connected(address: str) -> Any:
    """Ray, connected to a cluster."""
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ClusterError('--cluster needs Ray: python -m pip install "streamgan[cluster]"') from error
    if address != "auto":
        _check_address(address)
    reason = _why_not_connected(address)
    if reason:
        raise ClusterError(
            f"no cluster at {address} ({reason}): start it with `ray start --head`, and on this machine, if that is "
            "another one, with `ray start --address=HOST:PORT`"
        )
    with _signal_handlers_kept():
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    return ray


def _check_address(address: str) -> None:
    """Raises ClusterError where nobody answers."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or "/" in host:
        raise ClusterError(f"{address!r} is no cluster: give auto, or HOST:PORT of its head, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no cluster at {address} ({first_line(error)}): start one with `ray start --head --port={port}`"
        ) from error


def _why_not_connected(address: str) -> str:
    """Why Ray can't connect, asked of another process, which can be given up; "" if it can."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", _TRY, address], capture_output=True, text=True, timeout=CONNECT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"Ray does not answer within {CONNECT_SECONDS:.0f} s"
    if tried.returncode == 0:
        return ""
    return (tried.stderr.strip().splitlines() or [f"status {tried.returncode}"])[-1].rstrip(".")


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Ray sets its own for SIGTERM."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _why_dead(error: BaseException) -> str:
    """Ray's report of a death in one line."""
    text = str(error)
    if "No module named" in text:
        return next(line for line in text.splitlines() if "No module named" in line).strip()
    return last_line(error).split(". ")[0].rstrip(".")
