"""The wheel: what is in it, and that it works where there is no compiler."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import engine
from engine import _native
from engine.samples import SAMPLE
from tests.media import read

pytestmark = pytest.mark.time_limit(900)

ROOT = Path(__file__).parents[1]
COMPILERS = ("c++", "g++", "gcc", "cc", "clang++", "clang", "nvcc")


def pip(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs pip, which must not need the package index."""
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", "pip", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, as `make wheel` builds it; what is compiled already is not compiled again."""
    folder = tmp_path_factory.mktemp("dist")
    done = pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), ".")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_contains_the_packages_and_their_data(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    packages = [ROOT / name for name in ("engine", "training", "bench")]
    expected = {path.relative_to(ROOT).as_posix() for package in packages for path in package.rglob("*.py")}
    for pattern in (
        "py.typed",
        "*.pyi",
        "_native*.so",
        "lib/*.so",
        "styles/*.safetensors",
        "styles/*.md",
        "samples/*.m*",
        "serve/page/*",
    ):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "engine").glob(pattern)}
        assert files, pattern
        expected |= files
    assert inside == expected


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("streamgan", engine.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    assert metadata["Summary"]
    assert metadata["Requires-Python"]
    assert metadata.get_payload().startswith("# StreamGAN")
    assert "Operating System :: POSIX :: Linux" in metadata.get_all("Classifier", [])
    assert b"streamgan = engine.cli:console_script" in wheel.read(f"{folder}/entry_points.txt")
    tag = re.search(rb"^Tag: (.*)$", wheel.read(f"{folder}/WHEEL"), re.MULTILINE)
    assert tag is not None
    assert tag[1].startswith(b"cp%d%d-" % sys.version_info[:2])


def test_extras_are_those_that_messages_name(wheel: zipfile.ZipFile) -> None:
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    extras = email.message_from_bytes(wheel.read(f"{folder}/METADATA")).get_all("Provides-Extra", [])
    sources = [path.read_text() for name in ("engine", "training", "bench") for path in (ROOT / name).rglob("*.py")]
    named = {extra for text in sources for extra in re.findall(r"streamgan\[([a-z-]+)\]", text)}
    assert named <= set(extras)


def test_native_code_is_independent_of_the_machine_that_built_it(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    assert "-march=" not in _native.build_info()["flags"]
    places = [str(ROOT), sysconfig.get_path("purelib")]
    for name in (name for name in wheel.namelist() if name.endswith(".so")):
        content = wheel.read(name)
        for place in places:
            assert place.encode() not in content, (name, place)
        if shutil.which("readelf"):
            header = subprocess.run(["readelf", "-d", wheel.extract(name, tmp_path)], capture_output=True, text=True)
            paths = re.findall(r"Library r(?:un)?path: \[(.*)\]", header.stdout)
            assert set(paths) <= {"$ORIGIN", "$ORIGIN/lib"}, name


@pytest.fixture(scope="module")
def environment(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel, and with the packages of the running one: torch, numpy, PyAV, ..."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    done = pip("--python", str(python), "install", "--no-deps", "--ignore-installed", str(wheel.filename))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(environment: Path, program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program of the environment; nothing else is in PATH, no compiler either."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CXX", "CC")}
    variables["PATH"] = str(environment / "bin")
    assert not [name for name in COMPILERS if shutil.which(name, path=variables["PATH"])]
    command = [str(environment / "bin" / program), *arguments]
    return subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("command", ["streamgan run", "python -m engine.run"])
def test_installed_wheel_translates_the_sample(environment: Path, tmp_path: Path, command: str) -> None:
    done = run(environment, *command.split(), "--frames", "6", "--json", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert (result["frames"], result["backend"]) == (6, "fused")
    translated, sample = read(tmp_path / result["output"]), read(SAMPLE)
    assert translated.times == sample.times[:6]
    assert translated.size == sample.size


def test_installed_wheel_is_what_runs(environment: Path, tmp_path: Path) -> None:
    code = "import bench, engine, training; from engine import _native, ops; print(engine, training, bench, _native)"
    done = run(environment, "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(environment)) == 4
    assert run(environment, "streamgan", "--version", cwd=tmp_path).stdout == f"streamgan {engine.__version__}\n"


def test_source_install_without_a_compiler_is_one_line() -> None:
    """Whether pip would have to download first what a build needs, or that is installed already."""
    hook = "import build_backend; build_backend.get_requires_for_build_wheel()"
    variables = {**{name: value for name, value in os.environ.items() if name != "CXX"}, "PATH": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", hook], env=variables, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"error: streamgan needs a C\+\+17 compiler .*: no C\+\+ compiler .*\n", done.stderr)

    done = pip("wheel", "--no-deps", "--no-build-isolation", ".", PATH="/nonexistent", CXX="")
    assert done.returncode == 1
    assert done.stderr.count("error: streamgan needs a C++17 compiler") == 1
    assert "Traceback" not in done.stderr
    assert "CMake Error" not in done.stderr
    (lines,) = re.findall(r"\[(\d+) lines of output\]", done.stderr)
    assert int(lines) <= 5  # "running bdist_wheel", "running build", the error


@pytest.mark.parametrize("installed", [True, False])
def test_build_requires_what_it_uses(installed: bool) -> None:
    """An installed torch is built against: the index may serve another one, of several GB."""
    hidden = "" if installed else "import setup; setup.installed_torch = lambda: None; "
    code = f"{hidden}import build_backend; print(*build_backend.get_requires_for_build_wheel())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    required = {text.partition(">")[0] for text in done.stdout.split()}
    assert required >= {"pybind11", "cmake", "ninja"}
    assert ("torch" in required) != installed


@pytest.mark.parametrize(("version", "is_built_against"), [("2.11.0", True), ("3.0.0+cpu", True), ("2.9.1", False)])
def test_installed_torch_is_new_enough(version: str, is_built_against: bool, tmp_path: Path) -> None:
    metadata = tmp_path / f"torch-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    hidden = f"import sysconfig; sysconfig.get_path = lambda name: {str(tmp_path)!r}"
    code = f"{hidden}; import setup; print(setup.installed_torch())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == (str(tmp_path / "torch") if is_built_against else "None"), done.stderr
