"""OpenVINO on Intel's GPUs, integrated ones too, in float16 or float32.

Not run on one yet: tests put OpenVINO's CPU plugin in its place.
"""

from __future__ import annotations

import functools

from engine.backends import openvino_compiled

__all__ = ["PRECISIONS", "SAME_RUNTIME", "SUFFIX", "build", "load", "unavailable", "unbuildable", "version"]

PRECISIONS = ("fp16", "fp32")
SUFFIX = ".blob"
SAME_RUNTIME = True

unavailable = functools.partial(openvino_compiled.unavailable, plugin="GPU")
unbuildable = functools.partial(openvino_compiled.unbuildable, plugin="GPU")
version = functools.partial(openvino_compiled.version, plugin="GPU")
build = functools.partial(openvino_compiled.build, plugin="GPU")
load = functools.partial(openvino_compiled.load, plugin="GPU")
