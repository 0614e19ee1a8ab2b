"""What all tests share."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import torch

# Seconds that one test may take, its fixtures included; the mark `time_limit` gives another number.
TIME_LIMIT_SECONDS = 120
SLOW_TIME_LIMIT_SECONDS = 3600

# A test that is stuck in native code doesn't get to handle the signal: after so many seconds more, the run ends.
GRACE_SECONDS = 60

# A shell that is no terminal starts what runs in the background with SIGINT ignored, and so do all its children: tests
# that send the signal would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of engines of each test's own, not the user's."""
    folder = tmp_path_factory.mktemp("engines")
    monkeypatch.setenv("STREAMGAN_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def notes_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the command line of an earlier test has made of them; and not what torch's compilers trace."""
    logging.getLogger("streamgan").handlers = []
    caplog.set_level(logging.WARNING, "streamgan")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """A fixture that takes too long fails."""
    with time_limit(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that takes too long fails."""
    with time_limit(item):
        return (yield)


@contextlib.contextmanager
def time_limit(item: pytest.Item) -> Iterator[None]:
    """Fails what is done inside the `with` block when it takes longer than the test may."""
    mark = item.get_closest_marker("time_limit")
    default = SLOW_TIME_LIMIT_SECONDS if item.get_closest_marker("slow") else TIME_LIMIT_SECONDS
    seconds = mark.args[0] if mark else default

    def fail(number: int, stack: FrameType | None) -> None:
        pytest.fail(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips CUDA tests where there is no device, unless one is required."""
    if torch.cuda.is_available() or os.environ.get("STREAMGAN_REQUIRE_CUDA") == "1":
        return
    for item in items:
        if item.get_closest_marker("needs_cuda"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
