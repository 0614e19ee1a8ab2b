"""Our plugins, as TensorRT's own parser takes them: in its Python, with empty libraries in place of NVIDIA's."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from engine.backends.tensorrt_plugin import NAMESPACE, PLUGINS
from tests.contract.surface import stand_in_libraries
from tests.contract.wheels import unpacked

ROOT = Path(__file__).parents[2]
VERSIONS = ("11.0", "11.1", "11.4")


@functools.cache
def parsed(version: str, rules: str) -> dict[str, Any]:
    folder = unpacked(f"tensorrt-cu13-bindings=={version}.*")
    (extension,) = folder.glob("tensorrt_bindings/*.so")
    with tempfile.TemporaryDirectory() as libraries:
        stand_in_libraries(extension, Path(libraries))
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
        command = [sys.executable, "-m", "tests.contract.plugin_child", rules]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("rules", ["today", "newest"])
@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt_takes_our_plugins(version: str, rules: str) -> None:
    """With this Python and NumPy, and as Python 3.13 and NumPy 2.5 are."""
    found = parsed(version, rules)
    assert found["ours"] == ""
    expected = {f"{NAMESPACE}::{name}": {"inputs": list(inputs), "run": True} for name, inputs in PLUGINS.items()}
    assert {name: plugin for name, plugin in found["plugins"].items() if name in expected} == expected


@pytest.mark.parametrize(("version", "refused"), [("11.0", True), ("11.1", True), ("11.4", False)])
def test_the_newest_rules_refuse_arrays(version: str, refused: bool) -> None:
    """As TensorRT does under Python 3.13 and NumPy 2.5; from 11.4 on it knows the new alias."""
    assert parsed(version, "today")["array"] == ""
    said = "TypeError: issubclass() arg 1 must be a class"
    assert parsed(version, "newest")["array"] == (said if refused else "")
