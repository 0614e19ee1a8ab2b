"""Engines that are files: kept in the cache, built once, made anew where they are damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.backends import BACKENDS
from engine.cache import EngineCache
from engine.errors import BackendError
from engine.generators import Generator
from engine.parity import PARITY_DB, psnr_db
from engine.translator import Translator
from tests.engine.choosing.frames import AOTI, FRAME, HALF, OTHER, TORCHSCRIPT, exact

pytestmark = pytest.mark.usefixtures("auto_is_one_precision", "on_the_cpu")


@pytest.mark.parametrize("backend", ["torchscript"])
@pytest.mark.parametrize("precision", ["fp32", HALF])
def test_engines_in_files_keep_parity_and_are_built_once(
    resnet: Generator, backend: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for frame in (FRAME, OTHER[:39, :23]):
        translator = Translator(resnet, backend=backend, precision=precision)
        assert psnr_db(translator(frame), exact(resnet, frame)) >= PARITY_DB[precision]
        assert str(translator.engine) == f"{backend} {precision}"
    assert len(EngineCache().entries()) == 2
    monkeypatch.setattr(BACKENDS[backend], "build", lambda *arguments: pytest.fail("built again"))
    assert str(Translator(resnet, backend=backend, precision=precision).engine_for(FRAME)) == f"{backend} {precision}"


def test_aoti_compiles_once_and_loads_without_compiling(resnet: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := AOTI.unbuildable(torch.device("cpu")):
        pytest.skip(reason)
    translator = Translator(resnet, backend="aoti", precision="fp32")
    assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_DB["fp32"]
    assert str(translator.engine) == "aoti fp32"
    monkeypatch.setattr(AOTI, "build", lambda *arguments: pytest.fail("built again"))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # an engine takes the threads of the process that runs it
        again = Translator(resnet, backend="aoti", precision="fp32")
        assert psnr_db(again(FRAME), exact(resnet, FRAME)) >= PARITY_DB["fp32"]
        assert str(again.engine) == "aoti fp32"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("damage", [b"", b"no archive at all", None])
def test_a_damaged_engine_is_made_anew(
    resnet: Generator, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    Translator(resnet, backend="torchscript")(FRAME)
    entry = EngineCache().entries()[0]
    path = entry.folder / entry.main
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    translator = Translator(resnet, backend="torchscript")
    assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_DB[HALF]
    assert translator.engine is not None
    assert translator.engine.backend == "torchscript"
    assert [message for message in caplog.messages if "built again" in message]
    assert len(caplog.messages) == 1


def test_an_engine_that_does_not_load_is_made_anew(
    resnet: Generator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a change that the key does not know of: the sums are right, and it can't be run."""
    Translator(resnet, backend="torchscript")(FRAME)
    load, calls = TORCHSCRIPT.load, []

    def once_not(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise BackendError("made for another GPU")
        return load(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TORCHSCRIPT, "load", once_not)
    translator = Translator(resnet, backend="torchscript")
    translator(FRAME)
    assert translator.engine is not None
    assert translator.engine.backend == "torchscript"
    assert caplog.messages == ["the cached torchscript engine is built again: made for another GPU"]


def test_a_cache_that_can_not_be_written_leaves_a_working_translation(
    resnet: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMGAN_CACHE", str(tmp_path / "file" / "cache"))
    translator = Translator(resnet, backend="torchscript")
    assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_DB[HALF]
    assert translator.engine is not None
    assert translator.engine.backend == "fused"
    assert f"torchscript {HALF} is not used: the engine can't be kept in" in caplog.messages[0]


_LITTLE_SPACE = """
import resource, sys, numpy as np, torch
from engine.generators import ResNetConfig, build
from engine.translator import Translator

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
frame = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
translator = Translator(build(ResNetConfig(width=16, blocks=1)).eval(), backend="torchscript", precision="fp32")
translator(frame)
print(translator.engine)
"""


def test_no_room_for_an_engine_leaves_a_working_translation(engine_cache: Path) -> None:
    """The real writers meet a real limit: torch's own, on a file, would end the process."""
    ran = subprocess.run([sys.executable, "-c", _LITTLE_SPACE], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "fused fp32"), ran.stderr
    assert "torchscript fp32 is not used: the engine can't be kept in" in ran.stderr
    assert list(engine_cache.iterdir()) == []
