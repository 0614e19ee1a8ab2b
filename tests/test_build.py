"""What the installation says when something that it needs is missing, and what it has built."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from engine import _native, ops

pytestmark = pytest.mark.time_limit(900)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup_module() -> ModuleType:
    """setup.py, imported without running the setup."""
    spec = importlib.util.spec_from_file_location("streamgan_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(**environment: str) -> subprocess.CompletedProcess[str]:
    """Starts the build as pip does; every call here has to fail before anything is compiled."""
    variables = {name: value for name, value in os.environ.items() if name != "CXX"}
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        env={**variables, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CXX": "/nonexistent/g++"}, r"CXX=/nonexistent/g\+\+, which is no program here"),
        ({"PATH": "/nonexistent"}, r"no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+\) is in PATH"),
    ],
    ids=["CXX is wrong", "nothing in PATH"],
)
def test_missing_compiler_is_one_clear_message(environment: dict[str, str], reason: str) -> None:
    done = build(**environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "CMake Error" not in done.stdout + done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(f"error: streamgan needs a C\\+\\+17 compiler to build its operators: {reason}. .*", message)
    for hint in ("sudo apt install build-essential cmake", "sudo dnf install gcc-c++", "xcode-select", "make wheel"):
        assert hint in message


def test_compiler_with_a_launcher_is_taken_as_it_is(setup_module: ModuleType, tmp_path: Path) -> None:
    _write_program(tmp_path / "ccache", "")
    environment = {"CXX": "ccache g++", "PATH": str(tmp_path)}
    assert setup_module.find_compiler(environment) == "ccache g++"


def test_missing_cmake(setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup_module.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(setup_module.BuildToolError, match=r"needs CMake >= 3\.24, and no cmake is in PATH\."):
        setup_module.find_cmake({"PATH": str(tmp_path)})


def test_old_cmake(setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _write_program(tmp_path / "cmake", "echo cmake version 3.16.3")
    monkeypatch.setattr(setup_module.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(setup_module.BuildToolError, match=r"needs CMake >= 3\.24, and .*cmake is 3\.16\. `pip install"):
        setup_module.find_cmake({"PATH": str(tmp_path)})


def test_missing_package(setup_module: ModuleType) -> None:
    with pytest.raises(setup_module.BuildToolError, match=r"built against no_such_package, which .* can't import"):
        setup_module.find_package("no_such_package")


def test_torch_that_an_isolated_build_hides(
    setup_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find_spec = setup_module.importlib.util.find_spec
    monkeypatch.setattr(setup_module, "installed_torch", lambda: tmp_path)
    assert f"-DSTREAMGAN_TORCH_DIR={tmp_path}" not in setup_module.cmake_arguments()
    monkeypatch.setattr(
        setup_module.importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )
    assert f"-DSTREAMGAN_TORCH_DIR={tmp_path}" in setup_module.cmake_arguments()


def test_libraries_hold_no_path_of_the_machine_that_built_them() -> None:
    for library in (ops.LIBRARY, Path(_native.__file__)):
        assert str(ROOT).encode() not in library.read_bytes(), library


def test_missing_library_is_one_clear_message(tmp_path: Path) -> None:
    """As in a checkout where nothing has been built."""
    for name in ("__init__.py", "errors.py", "ops.py", "reference.py"):
        target = tmp_path / "engine" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((ROOT / "engine" / name).read_bytes())
    code = "\n".join(
        [
            "from engine.errors import BackendError",
            "try: import engine.ops",
            "except BackendError as error: print(error)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("the operators aren't built ("), done.stderr
    assert "run `pip install -e .`" in done.stdout


def _write_program(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
