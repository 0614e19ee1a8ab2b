"""Which engine runs: measured, remembered, dropped where it fails."""

from __future__ import annotations

import os
import subprocess
import sys
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
from engine.choosing import candidates, chooser
from engine.choosing.trial import Trial
from engine.errors import BackendError
from engine.generators import Generator, ResNetConfig, build
from engine.parity import PARITY_DB, psnr_db
from engine.runners.base import Engine, Measurement, describe_measurements
from engine.translator import Translator
from tests.engine.choosing.frames import FRAME, HALF, TORCHSCRIPT, exact, random_frame
from tests.engine.choosing.rivals import only_rivals

pytestmark = pytest.mark.usefixtures("auto_is_one_precision", "on_the_cpu")
NO_RUNNER: Any = None


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
