"""Engines that are built in the background, and replace the one that runs while frames go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.backends import BACKENDS
from engine.cache import EngineCache
from engine.choosing import background, chooser
from engine.errors import BackendError
from engine.generators import Generator
from engine.parity import PARITY_DB, psnr_db
from engine.translator import Translator
from tests.engine.choosing.frames import AOTI, FRAME, HALF, OTHER, TORCHSCRIPT, exact
from tests.engine.choosing.rivals import only_rivals

pytestmark = pytest.mark.usefixtures("auto_is_one_precision", "on_the_cpu")


def wait_for(condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def may_build() -> threading.Event:
    """Set: builds of `quick_aoti` go on."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def quick_aoti(monkeypatch: pytest.MonkeyPatch, may_build: threading.Event) -> list[str]:
    """`aoti` engines that are traced instead of compiled, and built in this process; the list tells each build."""
    builds: list[str] = []

    def build_traced(generator: Generator, example: Tensor, precision: str, path: Path, **options: object) -> dict:  # type: ignore[type-arg]
        builds.append(f"{precision} {example.shape[3]}x{example.shape[2]}")
        return TORCHSCRIPT.build(generator, example, precision, path)

    monkeypatch.setattr(AOTI, "build", build_traced)
    monkeypatch.setattr(AOTI, "load", TORCHSCRIPT.load)
    monkeypatch.setattr(AOTI, "unbuildable", lambda device: None)
    # An attempt builds what is not in the cache.
    monkeypatch.setattr(background, "build", lambda *arguments: may_build.wait(120))
    return builds


def test_a_live_stream_runs_while_an_engine_is_built(
    resnet: Generator, quick_aoti: list[str], may_build: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    may_build.clear()
    translator = Translator(resnet, backend="aoti", live=True)
    assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_DB[HALF]
    assert translator.engine is not None
    assert translator.engine.backend == "fused"
    assert f"the aoti {HALF} engine is built while another one runs" in caplog.messages

    may_build.set()

    def translated_by_aoti() -> bool:
        assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_DB[HALF]
        return translator.engine is not None and translator.engine.backend == "aoti"

    wait_for(translated_by_aoti)
    assert quick_aoti == [f"{HALF} 48x32"]

    # Another frame size in the running stream: the same again, and no frame is wrong meanwhile.
    may_build.clear()
    for _ in range(3):
        assert psnr_db(translator(OTHER), exact(resnet, OTHER)) >= PARITY_DB[HALF]
        assert translator.engine.backend == "fused"
        assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_DB[HALF]
    may_build.set()

    def other_by_aoti() -> bool:
        assert psnr_db(translator(OTHER), exact(resnet, OTHER)) >= PARITY_DB[HALF]
        return translator.engine is not None and translator.engine.backend == "aoti"

    wait_for(other_by_aoti)
    assert quick_aoti == [f"{HALF} 48x32", f"{HALF} 24x40"]


@pytest.mark.parametrize(("expected_frames", "builds"), [(None, 0), (1, 0), (10_000_000, 1)])
def test_auto_builds_beside_a_long_job_where_no_fused_engine_runs(
    unfused: Generator,
    quick_aoti: list[str],
    expected_frames: int | None,
    builds: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only_rivals(monkeypatch)
    translator = Translator(unfused, expected_frames=expected_frames)
    first = translator(FRAME)
    assert translator.engine is not None
    assert translator.engine.backend == "eager"
    if builds:
        wait_for(lambda: bool(quick_aoti))
        wait_for(lambda: bool(translator(FRAME).any() and translator._trials))
        while translator._trials:  # both engines take real frames in turn
            assert psnr_db(translator(FRAME), first) >= PARITY_DB[HALF]
        assert translator.engine.backend in ("eager", "aoti")
        winner = str(translator.engine)
        again = Translator(unfused, expected_frames=expected_frames)
        again(FRAME)
        assert str(again.engine) == winner
    assert len(quick_aoti) == builds


def test_a_choice_that_is_remembered_does_not_keep_a_long_job_from_building(
    unfused: Generator, quick_aoti: list[str], may_build: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job long enough to measure, but not to build, has left a note of the fastest without it."""
    only_rivals(monkeypatch, "torchscript")
    with monkeypatch.context() as patched:
        patched.setattr(chooser, "BUILDING_PAYS_AFTER_SECONDS", 1e12)
        Translator(unfused, expected_frames=10_000_000)(FRAME)
    assert not quick_aoti
    may_build.clear()
    unfinished = Translator(unfused, expected_frames=10_000_000)
    unfinished(FRAME)
    assert not unfinished.choice  # remembered
    assert unfinished._chooser()._preparing
    may_build.set()  # what was built is in the cache, and this job ends before it has had a frame
    wait_for(lambda: not unfinished._chooser()._preparing[FRAME.shape[:2]].is_alive())
    assert len(quick_aoti) == 1

    third = Translator(unfused, expected_frames=10_000_000)
    third(FRAME)
    wait_for(lambda: bool(third(FRAME).any() and third._trials))
    while third._trials:
        third(FRAME)
    fourth = Translator(unfused, expected_frames=10_000_000)
    fourth(FRAME)
    assert str(fourth.engine) == str(third.engine)
    assert not fourth._chooser()._preparing
    assert len(quick_aoti) == 1


def test_a_build_that_fails_leaves_the_engine_that_runs(
    resnet: Generator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise BackendError("the engine can't be kept in a folder: No space left on device")

    monkeypatch.setattr(background, "build", fail)
    translator = Translator(resnet, backend="aoti", live=True)
    translator(FRAME)
    wait_for(lambda: any("No space left" in message for message in caplog.messages))
    for _ in range(5):
        assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_DB[HALF]
    assert translator.engine is not None
    assert translator.engine.backend == "fused"
    assert [message for message in caplog.messages if "is not used" in message] == [
        f"aoti {HALF} is not used: the engine can't be kept in a folder: No space left on device"
    ]


def test_a_process_of_its_own_builds_into_the_cache(resnet: Generator) -> None:
    example = torch.zeros(1, 3, 32, 48).to(memory_format=torch.channels_last)
    background.build(EngineCache(), resnet, "torchscript", "fp32", example)
    assert [entry.of["backend"] for entry in EngineCache().entries()] == ["torchscript"]
    with pytest.raises(BackendError, match="unknown backend 'nothing'"):
        background.build(EngineCache(), resnet, "nothing", "fp32", example)


def test_a_build_ends_with_the_process_that_wants_it(engine_cache: Path) -> None:
    """The one that translates is killed; its build must not go on for minutes, and leaves nothing that is read."""
    if reason := BACKENDS["inductor"].unavailable(torch.device("cpu")):
        pytest.skip(reason)
    code = (
        "import torch\nfrom engine.choosing import background\nfrom engine.cache import EngineCache\n"
        "from engine.generators import ResNetConfig, build\n"
        "generator = build(ResNetConfig(width=32, blocks=9)).eval()\n"
        "background.build(EngineCache(), generator, 'aoti', 'fp32', torch.zeros(1, 3, 64, 64))\n"
    )
    translating = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for(lambda: any(engine_cache.glob("*.part")))
        builder = next(
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit() and _is_child(path, translating.pid)
        )
        translating.send_signal(signal.SIGKILL)
        translating.wait()
        wait_for(lambda: not Path(f"/proc/{builder}").exists() or _is_zombie(builder), seconds=20)
    finally:
        translating.kill()
    assert EngineCache().entries() == []


def _is_child(process: Path, parent: int) -> bool:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent
    except (OSError, ValueError):
        return False


def _is_zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
