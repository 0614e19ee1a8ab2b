"""The build backend: that of setuptools. Before pip downloads torch, it looks for a compiler and an installed torch."""

from __future__ import annotations

from collections.abc import Mapping

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 - the other hooks of PEP 517 and PEP 660

from setup import BuildToolError, find_compiler, installed_torch

_REQUIRED = ["wheel", "pybind11>=2.13", "cmake>=3.24", "ninja"]


def get_requires_for_build_wheel(config_settings: Mapping[str, str] | None = None) -> list[str]:
    """The packages that a build needs. Without a compiler, the process ends with one line before pip downloads them."""
    try:
        find_compiler()
    except BuildToolError as error:
        raise SystemExit(f"error: {error}") from None
    torch = [] if installed_torch() else ["torch>=2.11"]
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_REQUIRED, *torch]


get_requires_for_build_editable = get_requires_for_build_wheel
