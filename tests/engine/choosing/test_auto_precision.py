"""`--precision auto` on a CPU: the precisions are measured, the fastest that keeps parity wins and is remembered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import Translator, device
from engine.backends import BACKENDS
from engine.cache import EngineCache
from engine.choosing import candidates, chooser, measuring, remembered
from engine.choosing.measuring import COMPARED, ONLY_ONE, SKIPPED, Measured, comparing_pays, fastest_of
from engine.choosing.remembered import Remembered
from engine.errors import BackendError
from engine.generators import Generator
from engine.parity import PARITY_DB
from engine.runners.base import Engine, RunnerInfo, describe_measurements
from tests.engine.choosing.rivals import only_rivals
from tests.engine.small_generators import unfused_generator

FRAME = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
SIZE = (32, 48)
TORCHSCRIPT = BACKENDS["torchscript"]


class Times:
    """Milliseconds that a frame takes, by engine, instead of measured ones; `calls` are those that were timed."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self.calls: list[str] = []

    def timed(self, engine: Engine, batch: np.ndarray) -> tuple[np.ndarray, float]:
        """As `measuring.timed`."""
        self.calls.append(str(engine))
        return engine.runner.submit(batch)(), self.ms.get(str(engine), 1000.0)


@pytest.fixture(autouse=True)
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    """Half precision takes 20 ms and float32 30 where the test says nothing else; both are in every device."""
    fake = Times()
    fake.ms = {"fused bf16": 20.0, "fused fp32": 30.0, "eager bf16": 200.0, "eager fp32": 300.0}
    monkeypatch.setattr(measuring, "timed", fake.timed)
    monkeypatch.setattr(candidates, "auto_precisions", lambda device: ("bf16", "fp32"))
    for module in (candidates, chooser):
        monkeypatch.setattr(module, "fastest_precision", lambda device: "bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return fake


@pytest.fixture
def float32_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused engine's float32 is far off."""
    compile_fused = BACKENDS["fused"].compile

    def compiled(*arguments: object) -> object:
        run = compile_fused(*arguments)
        return run if arguments[2] != "fp32" else lambda image: run(image) + 0.1

    monkeypatch.setattr(BACKENDS["fused"], "compile", compiled)


def chosen(generator: Generator, **options: object) -> Translator:
    """A translator that has chosen."""
    translator = Translator(generator, device="cpu", **options)  # type: ignore[arg-type]
    translator(FRAME)
    return translator


# --- the rule ---


@pytest.mark.parametrize(
    ("half_ms", "float32_ms", "winner"),
    [
        (20.0, 30.0, "bf16"),
        (20.0, 20.0, "bf16"),
        (20.0, 18.5, "bf16"),  # less than a tenth may be chance
        (20.0, 17.0, "fp32"),
        (50.0, 30.0, "fp32"),
    ],
)
def test_the_clearly_faster_precision_is_taken(
    resnet: Generator, times: Times, half_ms: float, float32_ms: float, winner: str
) -> None:
    times.ms |= {"fused bf16": half_ms, "fused fp32": float32_ms}
    translator = chosen(resnet)
    assert str(translator.engine) == f"fused {winner}"
    assert translator.measured == Measured(COMPARED, backends=False)
    assert translator.engine.frame_ms == min(half_ms, float32_ms) or winner == "bf16"  # type: ignore[union-attr]


def test_both_take_the_frame_in_turn(resnet: Generator, times: Times) -> None:
    """What else the machine does hits both."""
    chosen(resnet)
    assert times.calls[:2] == ["fused bf16", "fused fp32"]  # proven
    measured = times.calls[2:]
    assert len(measured) >= 4
    assert measured == ["fused bf16", "fused fp32"] * (len(measured) // 2)


@pytest.mark.parametrize("expected_frames", [None, 144, 16])
def test_short_clips_and_streams_compare_precisions_but_no_other_backends(
    resnet: Generator, times: Times, expected_frames: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TORCHSCRIPT, "build", lambda *arguments: pytest.fail("another backend was tried"))
    times.ms["fused fp32"] = 10.0
    assert str(chosen(resnet, expected_frames=expected_frames).engine) == "fused fp32"


def test_live_streams_compare_precisions(resnet: Generator, times: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    only_rivals(monkeypatch)
    times.ms["fused fp32"] = 10.0
    assert str(chosen(resnet, live=True).engine) == "fused fp32"


@pytest.mark.parametrize("expected_frames", [1, 15])
def test_a_few_pictures_are_not_worth_comparing_for(resnet: Generator, times: Times, expected_frames: int) -> None:
    times.ms["fused fp32"] = 1.0
    translator = chosen(resnet, expected_frames=expected_frames)
    assert str(translator.engine) == "fused bf16"
    assert translator.measured == Measured(SKIPPED)
    assert times.calls == ["fused bf16"]


@pytest.mark.parametrize("precision", ["bf16", "fp32", "fast"])
def test_a_precision_that_is_named_is_obeyed(resnet: Generator, times: Times, precision: str) -> None:
    times.ms |= {"fused bf16": 100.0, "fused fp32": 90.0 if precision == "fp32" else 1.0, "fused fast": 100.0}
    translator = chosen(resnet, precision=precision)
    assert str(translator.engine) == f"fused {precision}"
    assert set(times.calls) == {f"fused {precision}"}


@pytest.mark.parametrize("backend", ["fused", "eager"])
def test_a_backend_that_is_named_runs_in_its_faster_precision(resnet: Generator, times: Times, backend: str) -> None:
    times.ms[f"{backend} fp32"] = 5.0
    assert str(chosen(resnet, backend=backend).engine) == f"{backend} fp32"


def test_where_nothing_is_fused_eager_is_compared(times: Times) -> None:
    unfused = unfused_generator()
    assert str(chosen(unfused).engine) == "eager bf16"
    times.ms["eager fp32"] = 100.0
    assert str(chosen(unfused, expected_frames=50).engine) == "eager bf16"  # remembered
    EngineCache().clear()
    assert str(chosen(unfused, expected_frames=50).engine) == "eager fp32"


# --- parity ---


def test_a_fast_precision_that_fails_parity_is_not_taken(resnet: Generator, times: Times, float32_unfit: None) -> None:
    times.ms["fused fp32"] = 1.0
    translator = chosen(resnet)
    assert str(translator.engine) == "fused bf16"
    assert translator.measured == Measured(ONLY_ONE)


def test_half_precision_that_fails_parity_leaves_float32(
    resnet: Generator, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARITY_DB, "bf16", 150.0)
    times.ms["fused bf16"] = 1.0
    assert str(chosen(resnet).engine) == "fused fp32"
    monkeypatch.setitem(PARITY_DB, "bf16", 45.0)
    assert str(chosen(resnet).engine) == "fused bf16"  # that one video's failure was not remembered


# --- remembered ---


def test_the_next_run_does_not_measure(resnet: Generator, times: Times) -> None:
    times.ms["fused fp32"] = 10.0
    chosen(resnet)
    times.ms["fused fp32"] = 1000.0
    times.calls.clear()
    again = chosen(resnet, expected_frames=144)
    assert str(again.engine) == "fused fp32"
    assert times.calls == ["fused fp32"]  # proven on this video
    assert again.choice == []
    assert again.measured == Measured(COMPARED)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(remembered, "kernel_facts", lambda: {"kernels": "others", "isa": "avx512_bf16"}),
        lambda patch: patch.setattr(remembered, "kernel_facts", lambda: {"kernels": "same", "isa": "avx2"}),
        lambda patch: patch.setattr(remembered, "processor_fingerprint", lambda: "another processor"),
        lambda patch: patch.setattr(remembered, "available_cores", lambda: 96),
        lambda patch: patch.setattr(torch, "get_num_threads", lambda: 7),
    ],
    ids=["kernels", "instruction tier", "processor", "cores", "threads"],
)
def test_another_machine_measures_anew(
    resnet: Generator,
    times: Times,
    change: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remembered, "kernel_facts", lambda: {"kernels": "same", "isa": "avx512_bf16"})
    times.ms["fused fp32"] = 10.0
    chosen(resnet)
    times.ms["fused fp32"] = 1000.0
    change(monkeypatch)
    assert str(chosen(resnet).engine) == "fused bf16"


def test_a_remembered_precision_does_not_keep_a_long_job_from_measuring_backends(
    resnet: Generator, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_rivals(monkeypatch, "torchscript")
    only_rivals(monkeypatch, build_cost="minutes")
    times.ms["fused fp32"] = 10.0
    chosen(resnet)
    times.ms["torchscript bf16"] = 5.0
    long = chosen(resnet, expected_frames=10_000_000)
    assert str(long.engine) == "torchscript bf16"  # in a precision that is slower in the first backend
    assert long.measured == Measured(COMPARED, backends=True)
    assert {f"{row.backend} {row.precision}" for row in long.choice if row.frame_ms is not None} == {
        *("fused bf16", "fused fp32", "torchscript bf16", "torchscript fp32"),
    }
    assert str(chosen(resnet).engine) == "torchscript bf16"  # and short ones profit from it


def test_a_few_pictures_leave_no_answer_for_a_video(resnet: Generator, times: Times) -> None:
    times.ms["fused fp32"] = 10.0
    chosen(resnet, expected_frames=1)
    assert str(chosen(resnet, expected_frames=144).engine) == "fused fp32"
    assert str(chosen(resnet, expected_frames=1).engine) == "fused fp32"


@pytest.mark.parametrize(
    "damage", [None, [], {}, {"measured": {"x": 1}}, {"frame_ms": "fast"}, {"backend": "none"}, {"precision": "int4"}]
)
def test_a_damaged_note_is_measured_anew(
    resnet: Generator, times: Times, damage: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    times.ms["fused fp32"] = 10.0
    chosen(resnet)
    note = EngineCache.note

    def damaged(self: EngineCache, *key: object) -> object:
        kept = note(self, *key)  # type: ignore[arg-type]
        return {**kept, **damage} if isinstance(damage, dict) and damage else damage

    monkeypatch.setattr(EngineCache, "note", damaged)
    assert chosen(resnet).choice


def test_what_stands_in_for_a_backend_is_not_remembered_for_it(
    resnet: Generator, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: object) -> None:
        raise BackendError("no room on the disk")

    with monkeypatch.context() as patch:
        patch.setattr(TORCHSCRIPT, "build", lost)
        assert str(chosen(resnet, backend="torchscript").engine) == "fused bf16"
    assert str(chosen(resnet, backend="torchscript", precision="auto").engine) == "torchscript bf16"


# --- told ---


def test_explain_shows_each_precision_with_its_time_and_parity(
    resnet: Generator, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_rivals(monkeypatch)
    times.ms["fused fp32"] = 12.0
    translator = chosen(resnet, explain=True, expected_frames=1)
    lines = describe_measurements(translator.choice)
    (float32,) = [line for line in lines if "fused fp32" in line]
    (half,) = [line for line in lines if "fused bf16" in line]
    assert float32.startswith("* ")
    assert half.startswith("  ")
    assert " 12.0 " in float32
    assert " 20.0 " in half
    assert "dB" in half


def test_explain_says_why_a_precision_is_out(
    resnet: Generator, float32_unfit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_rivals(monkeypatch)
    lines = describe_measurements(chosen(resnet, explain=True).choice)
    (float32,) = [line for line in lines if "fused fp32" in line]
    assert "60 dB is the least for fp32" in float32


# --- the start without torch ---


class Run:
    """A translator as a run of the command line makes it; `loads` says whether it needed torch."""

    def __init__(self, style: Path, **asked: Any) -> None:
        self.translator = Translator(style, device="cpu", **asked)
        self.translator.engine_for(FRAME)
        self.translator(FRAME)
        self.engine = str(self.translator.engine)
        self.loads = int(self.translator._loaded is not None)


@pytest.mark.parametrize("backend", ["auto", "fused"])
@pytest.mark.parametrize(("float32_ms", "winner", "kept"), [(10.0, "fp32", 1), (30.0, "bf16", 2)])
def test_the_second_run_starts_with_the_winner(
    style: Path, times: Times, backend: str, float32_ms: float, winner: str, kept: int
) -> None:
    """A float32 winner needs no reference beside it, so only its weights are kept."""
    times.ms["fused fp32"] = float32_ms
    first = Run(style, backend=backend)
    second = Run(style, backend=backend)
    assert (first.loads, second.loads) == (1, 0)
    assert first.engine == second.engine == f"fused {winner}"
    assert len(EngineCache().entries()) == kept


def test_what_was_packed_for_the_comparison_is_not_packed_again(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []
    compile_fused = BACKENDS["fused"].compile

    def counted(*arguments: object) -> object:
        packed.append(arguments[2])
        return compile_fused(*arguments)

    monkeypatch.setattr(BACKENDS["fused"], "compile", counted)
    Run(style)
    assert packed == ["bf16", "fp32"]


def test_a_few_pictures_leave_a_quick_start_for_pictures_alone(style: Path, times: Times) -> None:
    times.ms["fused fp32"] = 10.0
    assert Run(style, expected_frames=1).engine == "fused bf16"
    assert Run(style, expected_frames=1).loads == 0
    video = Run(style, expected_frames=144)
    assert (video.loads, video.engine) == (1, "fused fp32")
    picture = Run(style, expected_frames=1)
    assert (picture.loads, picture.engine) == (0, "fused fp32")


def test_float32_that_one_video_made_necessary_is_not_the_winner(
    style: Path, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(PARITY_DB, "bf16", 150.0)
        assert Run(style).engine == "fused fp32"
    second = Run(style)
    assert (second.loads, second.engine) == (1, "fused bf16")


def test_another_processor_starts_from_the_beginning(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache may lie on a disk that several machines share."""
    Run(style)
    monkeypatch.setattr(remembered, "processor_fingerprint", lambda: "another")
    assert Run(style).loads == 1


# --- the parts ---


def test_the_first_of_equals_stays() -> None:
    engines = [RunnerInfo(name, "fp32", frame_ms=10.0) for name in ("a", "b")]
    assert fastest_of(engines) is engines[0]
    clearly = dataclasses.replace(engines[1], frame_ms=8.9)
    assert fastest_of([engines[0], clearly]) is clearly


@pytest.mark.parametrize(
    ("measured", "expected_frames", "others", "enough"),
    [
        (Measured(SKIPPED), 1, True, True),
        (Measured(SKIPPED), 144, True, False),
        (Measured(SKIPPED), None, False, False),
        (Measured(COMPARED), 144, True, True),
        (Measured(COMPARED), 10_000, True, False),
        (Measured(COMPARED), 10_000, False, True),
        (Measured(COMPARED, backends=True), 10_000, True, True),
        (Measured(ONLY_ONE), None, True, True),
    ],
)
def test_what_was_measured_is_enough_or_not(
    measured: Measured, expected_frames: int | None, others: bool, enough: bool
) -> None:
    assert measured.suffices(frame_ms=30.0, expected_frames=expected_frames, live=False, others=others) == enough


def test_a_live_stream_wants_backends_measured() -> None:
    assert not Measured(COMPARED).suffices(frame_ms=30.0, expected_frames=None, live=True, others=True)


def test_comparing_pays_for_a_clip_and_not_for_a_picture() -> None:
    assert [comparing_pays(frames) for frames in (None, 1, 15, 16, 144)] == [True, False, False, True, True]


def test_a_remembered_choice_survives_json() -> None:
    choice = Remembered(
        "fused",
        "fp32",
        parity_db=90.5,
        frame_ms=1.5,
        measured=Measured(COMPARED),
        measured_slow=("aoti bf16",),
        threads=2,
        versions={"torch": "2.13.0", "openvino": ""},
    )
    assert Remembered.from_json(json.loads(json.dumps(dataclasses.asdict(choice)))) == choice


def test_a_processor_has_one_fingerprint_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    here = device.processor_fingerprint()
    assert here == device.processor_fingerprint()
    assert len(here) == 16

    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert len(device.processor_fingerprint()) == 16
