"""Which engine runs: measured, remembered, built in the background, replaced while frames go on."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import save_generator
from engine.backends import BACKENDS
from engine.cache import EngineCache
from engine.choosing import background, candidates, chooser
from engine.choosing.trial import Trial
from engine.errors import BackendError
from engine.export import export
from engine.generators import Generator, ResNetConfig, build
from engine.parity import PARITY_DB, psnr_db
from engine.precision import fastest_precision
from engine.runners.base import Engine, Measurement, describe_measurements
from engine.translator import Translator
from tests.engine.choosing.rivals import only_rivals
from tests.engine.small_generators import unfused_generator

pytestmark = pytest.mark.usefixtures("auto_is_one_precision")


def random_frame(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


NO_RUNNER: Any = None
FRAME = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, (40, 24, 3), dtype=np.uint8)
AOTI, TORCHSCRIPT = BACKENDS["aoti"], BACKENDS["torchscript"]
HALF = fastest_precision(torch.device("cpu"))


@pytest.fixture(scope="module")
def resnet() -> Generator:
    torch.manual_seed(0)
    return build(ResNetConfig(width=8, blocks=1)).eval()


@pytest.fixture(scope="module")
def unfused() -> Generator:
    """With a layer that no fused engine of ours knows."""
    return unfused_generator()


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def exact(generator: Generator, frame: np.ndarray) -> np.ndarray:
    return Translator(generator, backend="eager", precision="fp32")(frame)


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


# --- measured and remembered ---


def test_a_long_job_measures_and_the_next_run_remembers(
    resnet: Generator, engine_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        candidates, "slow_backends", lambda device: []
    )  # nothing goes on in the background after the test
    monkeypatch.setattr(chooser, "measuring_seconds", lambda *_, **__: 60.0)  # time for all, on a busy machine too
    first = Translator(resnet, expected_frames=10_000_000)
    first(FRAME)
    tried = {(row.backend, row.precision) for row in first.choice if row.frame_ms is not None}
    assert ("fused", HALF) in tried
    assert ("torchscript", HALF) in tried
    chosen = [row for row in first.choice if row.chosen]
    assert [(row.backend, row.precision) for row in chosen] == [(first.engine.backend, first.engine.precision)]  # type: ignore[union-attr]
    assert "measuring which engine is the fastest here" in caplog.messages[0]
    assert "is the fastest" in caplog.messages[1]

    caplog.clear()
    second = Translator(resnet, expected_frames=10_000_000)
    second(FRAME)
    assert str(second.engine) == str(first.engine)
    assert not caplog.messages

    def worse(*arguments: object) -> None:
        raise BackendError("not today")

    for name in ("fused", "torchscript", "aoti", "openvino", "onnxruntime"):
        monkeypatch.setattr(BACKENDS[name], "load" if BACKENDS[name].is_file else "compile", worse)
    third = Translator(resnet, expected_frames=10_000_000)
    assert psnr_db(third(FRAME), exact(resnet, FRAME)) >= PARITY_DB[HALF]
    assert third.engine is not None
    assert third.engine.backend == "eager"


def test_the_fastest_within_the_limit_wins(resnet: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    load = TORCHSCRIPT.load

    def slowly(path: Path, example: Tensor, precision: str) -> Callable[[Tensor], Tensor]:
        run = load(path, example, precision)

        def wait_and_run(image: Tensor) -> Tensor:
            time.sleep(0.05)
            return run(image)

        return wait_and_run

    only_rivals(monkeypatch, "torchscript")
    only_rivals(monkeypatch, build_cost="minutes")
    monkeypatch.setattr(chooser, "measuring_seconds", lambda *_, **__: 60.0)  # time for all, on a busy machine too
    monkeypatch.setattr(TORCHSCRIPT, "load", slowly)
    translator = Translator(resnet, expected_frames=10_000_000)
    translator(FRAME)
    assert translator.engine is not None
    assert translator.engine.backend == "fused"
    rows = {row.backend: row for row in translator.choice if row.precision == HALF}
    assert rows["torchscript"].frame_ms is not None
    assert rows["torchscript"].frame_ms > 50

    monkeypatch.setattr(TORCHSCRIPT, "load", load)
    fused_compile = BACKENDS["fused"].compile

    def slowly_fused(*arguments: object) -> Callable[[Tensor], Tensor]:
        run = fused_compile(*arguments)

        def wait_and_run(image: Tensor) -> Tensor:
            time.sleep(0.05)
            return run(image)

        return wait_and_run

    monkeypatch.setattr(BACKENDS["fused"], "compile", slowly_fused)
    monkeypatch.setenv("STREAMGAN_CACHE", os.environ["STREAMGAN_CACHE"] + "/another")
    translator = Translator(resnet, expected_frames=10_000_000)
    translator(FRAME)
    assert translator.engine.backend == "torchscript"  # type: ignore[union-attr]


def test_short_jobs_do_not_measure(resnet: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TORCHSCRIPT, "build", lambda *arguments: pytest.fail("tried"))
    for expected_frames in (None, 1, 100):
        translator = Translator(resnet, expected_frames=expected_frames)
        translator(FRAME)
        assert translator.engine is not None
        assert translator.engine.backend == "fused"


def test_explain_tells_of_every_backend(resnet: Generator) -> None:
    translator = Translator(resnet, explain=True)
    translator(FRAME)
    assert {row.backend for row in translator.choice} >= {"fused", "eager", "torchscript", "aoti"}
    lines = "\n".join(describe_measurements(translator.choice))
    assert "takes minutes to build: run once with --backend aoti" in lines
    assert lines.count("*") == 1


def test_rows_are_lines_for_people() -> None:
    rows = [
        Measurement("fused", "bf16", frame_ms=12.345, parity_db=48.3, ready_seconds=0.1, chosen=True),
        Measurement("eager", "fp32", frame_ms=100.0, parity_db=float("inf"), ready_seconds=0.0),
        Measurement("openvino", "bf16", remark="not installed"),
    ]
    assert describe_measurements(rows) == [
        "  engine               ms a frame    parity  ready in",
        "* fused bf16                 12.3   48.3 dB     0.1 s",
        "  eager fp32                100.0     exact     0.0 s",
        "  openvino bf16        not installed",
    ]


def test_a_trial_keeps_the_faster_engine() -> None:
    slow, fast = (Engine(name, "fp32", NO_RUNNER) for name in ("slow", "fast"))
    trial = Trial(slow, fast)
    turns = []
    while trial.winner is None:
        turns.append(trial.engine.backend)
        trial.add({"slow": 20.0, "fast": 10.0}[trial.engine.backend] + len(turns))
    assert turns == ["slow", "fast"] * 4
    assert trial.winner.backend == "fast"
    assert trial.winner.frame_ms == 12.0


# --- kept as files ---


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


def test_a_backend_that_breaks_on_the_first_frame_is_dropped(
    resnet: Generator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> Callable[[Tensor], Tensor]:
        def run(image: Tensor) -> Tensor:
            raise RuntimeError("CUDA error: an illegal memory access\nmore lines")

        return run

    monkeypatch.setattr(TORCHSCRIPT, "load", broken)
    translator = Translator(resnet, backend="torchscript")
    translator(FRAME)
    assert translator.engine is not None
    assert translator.engine.backend == "fused"
    assert f"torchscript {HALF} is not used: CUDA error: an illegal memory access" in caplog.messages


# --- a file of the user's ---


def exported(generator: Generator, path: Path, *, dynamic: bool = False, size: tuple[int, int] = (48, 32)) -> Path:
    export(generator, "torchscript", path, size=size, precision="fp32", dynamic=dynamic)
    return path


def test_a_file_of_the_users_is_run(resnet: Generator, tmp_path: Path) -> None:
    translator = Translator(resnet, engine_file=exported(resnet, tmp_path / "e.pt", dynamic=True))
    for frame in (FRAME, OTHER):
        assert psnr_db(translator(frame), exact(resnet, frame)) >= PARITY_DB["fp32"]
        assert str(translator.engine) == "torchscript fp32"


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("truncated", "is damaged: its SHA-256 differs"),
        ("another generator", "is an engine of another generator"),
        ("another size", "takes frames of 48x32, not 24x40"),
        ("foreign version", "can't be run by TorchScript of this torch"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_and_the_next_engine_runs(
    resnet: Generator,
    tmp_path: Path,
    trouble: str,
    message: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING, "streamgan")
    path = exported(resnet, tmp_path / "e.pt")
    frame, generator = FRAME, resnet
    if trouble == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif trouble == "another generator":
        generator = build(ResNetConfig(width=8, blocks=1)).eval()
    elif trouble == "another size":
        frame = OTHER
    else:

        def refuse(*arguments: object, **options: object) -> None:
            raise RuntimeError("Legacy model format is not supported")

        monkeypatch.setattr(torch.jit, "load", refuse)
    translator = Translator(generator, engine_file=path)
    assert psnr_db(translator(frame), exact(generator, frame)) >= PARITY_DB[HALF]
    assert translator.engine is not None
    assert translator.engine.backend == "fused"
    assert len(caplog.messages) == 1
    assert message in caplog.messages[0]


def test_a_size_outside_of_what_a_file_was_built_for(
    resnet: Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Packages of AOTInductor do not check their input: what is written beside them does."""
    path = exported(resnet, tmp_path / "e.pt", dynamic=True)
    description = tmp_path / "e.pt.json"
    told = json.loads(description.read_text())
    told["facts"] = {"smallest_side": 28, "largest_side": 48}
    description.write_text(json.dumps(told))
    translator = Translator(resnet, engine_file=path)
    translator(FRAME)
    assert str(translator.engine) == "torchscript fp32"
    assert not caplog.messages
    for frame in (OTHER, random_frame(32, 52)):
        assert psnr_db(translator(frame), exact(resnet, frame)) >= PARITY_DB[HALF]
        assert translator.engine.backend == "fused"  # type: ignore[union-attr]
    assert "takes frames with sides from 28 to 48, not 24x40" in caplog.messages[0]
    assert "takes frames with sides from 28 to 48, not 52x32" in caplog.messages[1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("made_by", {"runtime": "torch 2.11"}, f"was made by torch 2.11, here is torch {torch.__version__}: export it"),
        ("facts", {"processor": ["avx2", "avx1024"]}, "was compiled for a processor with avx1024: export it here"),
    ],
)
def test_machine_code_for_another_machine_is_not_run(
    field: str,
    value: dict[str, object],
    message: str,
    resnet: Generator,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = exported(resnet, tmp_path / "e.pt")
    description = tmp_path / "e.pt.json"
    told = json.loads(description.read_text())
    told[field] = value
    description.write_text(json.dumps(told))
    monkeypatch.setattr(TORCHSCRIPT, "same_runtime", True)
    translator = Translator(resnet, engine_file=path)
    assert psnr_db(translator(FRAME), exact(resnet, FRAME)) >= PARITY_DB[HALF]
    assert translator.engine.backend == "fused"  # type: ignore[union-attr]
    assert len(caplog.messages) == 1
    assert message in caplog.messages[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "aoti"}, "is an engine of the backend torchscript, not aoti"),
        ({"precision": "bf16"}, "is an engine in fp32, not bf16"),
    ],
)
def test_a_file_of_another_kind_than_asked_for_is_refused(
    resnet: Generator, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    path = exported(resnet, tmp_path / "e.pt")
    with pytest.raises(BackendError, match=message):
        Translator(resnet, engine_file=path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [None, "", "{}", '{"of": {"backend": "x", "precision": "y"}}', "[]"])
def test_a_file_without_its_description_is_refused(resnet: Generator, tmp_path: Path, text: str | None) -> None:
    path = exported(resnet, tmp_path / "e.pt")
    description = tmp_path / "e.pt.json"
    description.unlink() if text is None else description.write_text(text)
    with pytest.raises(BackendError, match="not loaded" if text is None else "does not describe an engine"):
        Translator(resnet, engine_file=path)
    with pytest.raises(BackendError, match="no such engine"):
        Translator(resnet, engine_file=tmp_path / "none.pt")


# --- in the background ---


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


def test_no_compiler_is_imported_to_choose_among_engines(tmp_path: Path) -> None:
    """torch's takes more than a second of each first run."""
    np.save(tmp_path / "frame.npy", random_frame(48, 64))
    torch.manual_seed(0)
    save_generator(build(ResNetConfig(width=4, blocks=1)), tmp_path / "style.safetensors")
    program = "\n".join(
        [
            "import sys, numpy as np",
            "from engine import Translator",
            "translator = Translator(sys.argv[1] + '/style.safetensors', device='cpu')",
            "translator(np.load(sys.argv[1] + '/frame.npy'))",
            "assert translator.engine.backend == 'fused'",
            "print('torch._inductor' in sys.modules)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr
