"""A CUDA device whose memory is the host's, for what can be checked of a GPU's way of running without a GPU.

Streams, events and graphs do nothing but note what was asked of them: what is captured runs once, at that time.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)


class OnTheHost(TorchFunctionMode):
    """Tensors that are asked for on a CUDA device lie on the host; all but a checkpoint's say that they are on it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.device.__get__:
            found = func(*args)
            is_in_a_file = sys._getframe(1).f_globals["__name__"].startswith("engine.checkpoint")
            return CUDA if found.type == "cpu" and not is_in_a_file else found
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        options = {name: _host(value) for name, value in (kwargs or {}).items()}
        if options.get("pin_memory"):
            options["pin_memory"] = False
        return func(*map(_host, args), **options)


def _host(value: Any) -> Any:
    is_cuda = isinstance(value, torch.device) and value.type == "cuda"
    return torch.device("cpu") if is_cuda or (isinstance(value, str) and value.split(":")[0] == "cuda") else value


class Stream:
    def __init__(self, device: Any = None) -> None:
        self.cuda_stream = id(self)

    def wait_stream(self, other: Stream) -> None: ...

    def synchronize(self) -> None: ...


class Event:
    def record(self, stream: Stream) -> None: ...

    def synchronize(self) -> None: ...


class Device(contextlib.nullcontext[None]):
    """What makes a device the current one."""


class Captures:
    """What was captured: the mode and the stream of each graph. `running` is true while one is."""

    def __init__(self) -> None:
        self.modes: list[str] = []
        self.streams: list[Stream] = []
        self.running = False


@contextlib.contextmanager
def cuda_on_the_host(architecture: tuple[int, int] = (8, 9)) -> Iterator[Captures]:
    """Lets torch have one CUDA device, of a compute capability."""
    captures, default, streams = Captures(), Stream(), threading.local()

    @contextlib.contextmanager
    def on_stream(stream: Stream) -> Iterator[None]:
        before, streams.current = getattr(streams, "current", default), stream
        try:
            yield
        finally:
            streams.current = before

    @contextlib.contextmanager
    def graph(graph: Any, *, stream: Stream | None = None, capture_error_mode: str = "global") -> Iterator[None]:
        stream = stream or Stream()
        captures.modes.append(capture_error_mode)
        captures.streams.append(stream)
        captures.running = True
        try:
            with on_stream(stream):
                yield
        finally:
            captures.running = False

    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: architecture,
        "get_device_name": lambda device=None: "Stand-in",
        "mem_get_info": lambda device=None: (2**33, 2**33),
        "synchronize": lambda device=None: None,
        "current_stream": lambda device=None: getattr(streams, "current", default),
        "device": Device,
        "stream": on_stream,
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": graph,
    }
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def in_thread(thread: threading.Thread) -> None:
        with OnTheHost():  # a mode is of one thread
            bootstrap(thread)

    with pytest.MonkeyPatch.context() as patch, OnTheHost():
        for name, stand_in in replaced.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(threading.Thread, "_bootstrap_inner", in_thread)
        yield captures
