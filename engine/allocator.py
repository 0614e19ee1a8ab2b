"""Settings of the C library's and torch's memory allocators, for programs that run generators."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

# mallopt's names for its settings, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Makes this process keep the memory of freed activations for the next frame, and take it in huge pages.

    Giving memory back and getting it again is a page fault for every 4 KiB, 150,000 of them for one frame of 1920x1080
    in the bundled style, a fifth of its time. All threads share one arena: with one for each, what remained of freed
    blocks in them added up to 2 % of the memory over a film of 300,000 frames. For programs, which own their process;
    a library does not set this. To be called before torch is imported. Has an effect on Linux with glibc only.
    """
    if sys.platform != "linux":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: huge pages for tensors of 2 MiB and more
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_ARENA_MAX, 1)


@contextlib.contextmanager
def importing_torch() -> Iterator[None]:
    """Collects no garbage while torch is imported inside, which saves a tenth of that second.

    If torch was not there before, later collections don't look at what the import made: a tenth of a second each.
    """
    was_enabled, is_first = gc.isenabled(), "torch" not in sys.modules
    gc.disable()
    try:
        yield
        if is_first:
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
