"""OpenVINO on Intel's NPUs, in float16.

Not run on one yet: tests put OpenVINO's CPU plugin in its place.
"""

from __future__ import annotations

import functools

from engine.backends import openvino_compiled

__all__ = ["PRECISIONS", "SAME_RUNTIME", "SUFFIX", "build", "load", "unavailable", "unbuildable", "version"]

PRECISIONS = ("fp16",)
SUFFIX = ".blob"
SAME_RUNTIME = True

unavailable = functools.partial(openvino_compiled.unavailable, plugin="NPU")
unbuildable = functools.partial(openvino_compiled.unbuildable, plugin="NPU")
version = functools.partial(openvino_compiled.version, plugin="NPU")
build = functools.partial(openvino_compiled.build, plugin="NPU")
load = functools.partial(openvino_compiled.load, plugin="NPU")
