"""Builds csrc/ with CMake into engine/lib/ and engine/_native; the rest is in pyproject.toml."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
MINIMUM_CMAKE = (3, 24)
MINIMUM_TORCH = (2, 11)
INSTALL_HINT = (
    "Install one and try again: Debian/Ubuntu `sudo apt install build-essential cmake`, "
    "Fedora `sudo dnf install gcc-c++ cmake`, macOS `xcode-select --install && brew install cmake`. "
    "CXX chooses another compiler. A wheel from `make wheel` on another machine needs none."
)


class BuildToolError(Exception):
    """Something the build needs is missing; the message says what, and how to get it."""


def find_compiler(environment: Mapping[str, str] = os.environ) -> str:
    """The C++ compiler that CMake will take: CXX, or a name."""
    chosen = environment.get("CXX", "").split()
    for name in chosen[:1] or ["c++", "g++", "clang++"]:
        if shutil.which(name, path=environment.get("PATH", "")):
            return " ".join(chosen) or name
    what = f"CXX={chosen[0]}, which is no program here" if chosen else "no C++ compiler (c++, g++, clang++) is in PATH"
    raise BuildToolError(f"streamgan needs a C++17 compiler to build its operators: {what}. {INSTALL_HINT}")


def find_cmake(environment: Mapping[str, str] = os.environ) -> str:
    """Path of a CMake that is new enough."""
    path = shutil.which("cmake", path=_search_path(environment))
    needed = ".".join(map(str, MINIMUM_CMAKE))
    if path is None:
        raise BuildToolError(f"streamgan needs CMake >= {needed}, and no cmake is in PATH. {INSTALL_HINT}")
    answer = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"(\d+)\.(\d+)", answer)
    if found is None or tuple(map(int, found.groups())) < MINIMUM_CMAKE:
        version = found[0] if found else "broken"
        raise BuildToolError(
            f"streamgan needs CMake >= {needed}, and {path} is {version}. `pip install cmake` has a new one."
        )
    return path


def installed_torch() -> Path | None:
    """Folder of the torch in this Python's site-packages, also where pip's isolated build hides it."""
    for found in importlib.metadata.distributions(name="torch", path=[sysconfig.get_path("platlib")]):
        if tuple(map(int, found.version.split(".")[:2])) >= MINIMUM_TORCH:
            return Path(str(found.locate_file("torch")))
    return None


def find_package(name: str, *, otherwise: Path | None = None) -> Path:
    """Folder of an importable package, found without importing it; `otherwise` if it can't be imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        if otherwise:
            return otherwise
        raise BuildToolError(
            f"streamgan is built against {name}, which {sys.executable} can't import; "
            f"`pip install {name}` first, or install without --no-build-isolation."
        )
    return Path(spec.submodule_search_locations[0])


def cmake_arguments(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What to configure with; CMake reads CXX and CXXFLAGS itself."""
    arguments = [
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DSTREAMGAN_TORCH_DIR={find_package('torch', otherwise=installed_torch())}",
        f"-Dpybind11_DIR={find_package('pybind11') / 'share' / 'cmake' / 'pybind11'}",
        f"-DSTREAMGAN_SANITIZE={environment.get('STREAMGAN_SANITIZE', 'OFF')}",
        f"-DSTREAMGAN_CUDA={environment.get('STREAMGAN_CUDA', 'AUTO')}",
        f"-DSTREAMGAN_CUDA_ARCHITECTURES={environment.get('STREAMGAN_CUDA_ARCHITECTURES', '')}",
    ]
    if ninja := shutil.which("ninja", path=_search_path(environment)):
        arguments += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    return arguments


def _search_path(environment: Mapping[str, str]) -> str:
    """PATH, after the programs that pip has installed beside this Python."""
    return os.pathsep.join([sysconfig.get_path("scripts"), environment.get("PATH", "")])


def require_tools() -> tuple[str, str, list[str]]:
    """The compiler, CMake, and its arguments; ends the process with one line where something is missing."""
    try:
        return find_compiler(), find_cmake(), cmake_arguments()
    except BuildToolError as error:
        raise SystemExit(f"error: {error}") from None


class Build(build):
    """Starts with an empty folder: otherwise a wheel would contain modules that an earlier build has left there."""

    def run(self) -> None:
        require_tools()
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    """Runs CMake in build/cmake-<Python>-<compiler>, kept for the next build, and installs into `engine`."""

    def build_extension(self, ext: Extension) -> None:
        compiler, self.cmake, arguments = require_tools()
        compiler_tag = "-".join(Path(word).name for word in compiler.split())
        self.build_folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}-{compiler_tag}"
        self._run(["-S", str(ROOT), "-B", str(self.build_folder), *arguments], "configuring")
        self._run(["--build", str(self.build_folder), "--config", "Release"], "compiling")
        self._install(Path(self.get_ext_fullpath(ext.name)).parent)

    def copy_extensions_to_source(self) -> None:
        """What `pip install --editable` and `build_ext --inplace` want."""
        self._install(ROOT / "engine")

    def _install(self, folder: Path) -> None:
        self._run(
            ["--install", str(self.build_folder), "--config", "Release", "--prefix", str(folder.resolve())], "copying"
        )

    def _run(self, arguments: list[str], step: str) -> None:
        done = subprocess.run([self.cmake, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            print(done.stdout[max(done.stdout.find("CMake Error"), 0) :])
            raise SystemExit(f"error: {step} streamgan's operators failed; the output above says why.")


if __name__ == "__main__":
    setup(ext_modules=[Extension("engine._native", sources=[])], cmdclass={"build": Build, "build_ext": CMakeBuild})
