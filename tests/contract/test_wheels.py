"""Downloading wheels, from a folder in place of the network."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.contract import wheels

METADATA = """Metadata-Version: 2.1
Name: small
Version: 1.2
Requires-Dist: bigger-bindings (<11.2.0,>=11.1.0)
Requires-Dist: other>=1 ; extra == "all"
"""


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel, which is all that pip can find."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "small-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small/__init__.py", "value = 1\n")
        wheel.writestr("small-1.2.dist-info/METADATA", METADATA)
        wheel.writestr("small-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("small-1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(wheels, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(wheels, "_given_up", [])
    monkeypatch.setattr(wheels, "_spent", {"seconds": 0.0})
    return folder


def test_a_wheel_is_downloaded_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = wheels.unpacked.__wrapped__("small==1.*")
    assert (folder / "small" / "__init__.py").read_text() == "value = 1\n"
    assert wheels.requirements(folder) == ["bigger-bindings<11.2.0,>=11.1.0"]
    monkeypatch.setattr(wheels, "download", lambda *_: pytest.fail("downloaded again"))
    assert wheels.unpacked.__wrapped__("small==1.*") == folder
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_a_wheel_that_can_not_be_had_skips_the_test_and_all_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"small==2\.\* could not be downloaded: No matching distribution found for small==2\.\*"
    with pytest.raises(pytest.skip.Exception, match=said):
        wheels.unpacked.__wrapped__("small==2.*")
    monkeypatch.setattr(wheels, "download", lambda *_: pytest.fail("tried again"))
    with pytest.raises(pytest.skip.Exception, match=said):
        wheels.unpacked.__wrapped__("small==1.*")


def test_a_slow_download_skips_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_spent", {"seconds": wheels.SECONDS})
    with pytest.raises(pytest.skip.Exception, match="took too long"):
        wheels.unpacked.__wrapped__("small==1.*")
