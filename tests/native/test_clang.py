"""The native code built with clang: every source without a warning, and the operators' tests on that build."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
import pytest
import torch

from tests.native.symbols import check_tiers

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "clang"
TESTS = [
    "tests/ops",
    "tests/engine/fused/test_lowering.py",
    "tests/engine/fused/test_algorithms.py",
    "tests/engine/fused/test_programs.py",
    "tests/engine/fused/test_matrix.py::test_every_family",
    "-k",
    "not operator_like and not elsewhere",
]


def program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))


def find_clang(*, least_version: int = 16) -> str | None:
    for path in map(shutil.which, ("clang++-16", "clang++")):
        if path:
            answer = subprocess.run([path, "-dumpversion"], capture_output=True, text=True).stdout
            if int(answer.split(".")[0]) >= least_version:
                return path
    return None


CMAKE, COMPILER = program("cmake") or "cmake", find_clang()

pytestmark = [
    pytest.mark.time_limit(900),
    pytest.mark.skipif(COMPILER is None, reason="clang 16 or newer not found: install clang-16"),
]


def run(command: list[str], folder: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def configured() -> Path:
    """The folder of a build of everything but what is for CUDA, kept for the next time."""
    ninja = program("ninja")
    options = {
        "CMAKE_CXX_COMPILER": COMPILER,
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "CMAKE_INSTALL_PREFIX": BUILD / "engine",
        "Python_EXECUTABLE": sys.executable,
        "STREAMGAN_TORCH_DIR": Path(torch.__file__).parent,
        "STREAMGAN_CUDA": "OFF",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        **({"CMAKE_MAKE_PROGRAM": ninja} if ninja else {}),
    }
    generator = ["-GNinja"] if ninja else []
    run([CMAKE, "-S", str(ROOT), "-B", str(BUILD / "cmake"), *generator, *(f"-D{k}={v}" for k, v in options.items())])
    return BUILD / "cmake"


def test_every_source_compiles_without_a_warning() -> None:
    commands = json.loads((configured() / "compile_commands.json").read_text())
    assert sum("csrc/cpu/tiers/" in command["file"] for command in commands) >= 3

    def check(command: dict[str, str]) -> None:
        run([*shlex.split(command["command"]), "-fsyntax-only"], Path(command["directory"]))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, commands))


@pytest.mark.slow
def test_the_operators_pass_their_tests() -> None:
    """The package and its tests are copied to where clang's libraries are."""
    cmake = configured()
    run([CMAKE, "--build", str(cmake)])
    check_tiers(cmake)
    for name in ("engine", "csrc", "tests"):
        shutil.rmtree(BUILD / name, ignore_errors=True)
        shutil.copytree(ROOT / name, BUILD / name, ignore=shutil.ignore_patterns("lib", "*.so", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", BUILD)
    run([CMAKE, "--install", str(cmake)])
    facts = "from engine import _native; print(_native.__file__, _native.build_info()['compiler'])"
    answer = run([sys.executable, "-c", facts], BUILD, PYTHONPATH=str(BUILD))
    assert answer.startswith(str(BUILD))
    assert " Clang " in answer
    run([sys.executable, "-m", "pytest", *TESTS], BUILD, PYTHONPATH=str(BUILD))
