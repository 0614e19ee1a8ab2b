"""A bounded queue between two threads of a pipeline."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

# Seconds between looks at the stop event while a thread waits for a neighbour.
_POLL_SECONDS = 0.1

_Item = TypeVar("_Item")


class Stopped(Exception):  # noqa: N818 (a request, not an error)
    """Unwinds a worker thread whose pipeline has been stopped."""


class Channel(Generic[_Item]):
    """A bounded queue between two threads that ends, and that raises `Stopped` when the pipeline is stopped."""

    _END = object()

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[object] = queue.Queue(size)
        self._stop = stop

    def put(self, item: _Item | object) -> None:
        while True:
            if self._stop.is_set():
                raise Stopped
            try:
                return self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def put_all(self, items: Iterable[_Item]) -> None:
        for item in items:
            self.put(item)

    def end(self) -> None:
        self.put(self._END)

    def __iter__(self) -> Iterator[_Item]:
        while True:
            if self._stop.is_set():
                raise Stopped
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if item is self._END:
                return
            yield item  # type: ignore[misc]
