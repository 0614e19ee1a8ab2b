"""Contenders run in processes of their own, are checked before they are timed, and fail in one line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import contenders as table
from bench import generators, model, results
from bench.__main__ import main
from bench.contenders import Contender, contenders
from bench.peers import missing
from bench.processes import ContenderError, WorkerProcess
from bench.worker import Worker
from engine import save_generator
from engine.backends import BACKENDS
from engine.generators import ResNetConfig, build
from engine.generators.flops import count_flops
from engine.sizes import parse_size

pytestmark = pytest.mark.time_limit(900)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    save_generator(build(ResNetConfig(width=8, blocks=1)), path)
    return path


@pytest.mark.parametrize("frame_seconds", [0.001, 0.05])
def test_the_first_frame_of_a_turn_does_not_count(frame_seconds: float) -> None:
    """Neither where the others take longer than the turn nor where there are many."""

    class Session:
        frames = 0

        def run(self) -> None:
            self.frames += 1
            time.sleep(0.2 if self.frames == 1 else frame_seconds)

    worker, session = Worker(), Session()
    worker._session = session
    seconds = worker.run({"seconds": 0.02, "least": 2})["seconds"]
    assert len(seconds) == session.frames - 1 >= 2
    assert min(seconds) >= frame_seconds


def test_every_peer_that_is_installed_is_timed(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    # Those that compile for half a minute are left out; they are the same few lines of torch.
    names = ["engine eager fp32", "eager fp32", "torchscript", "onnxruntime", "openvino", "ncnn", "mnn"]
    arguments = ["--generators", str(tiny), "--sizes", "64x48", "--rounds", "2", "--starts", "1", "--seconds", "0.01"]
    assert main(["model", *arguments, "--contenders", *names, "--json", str(path)]) == 0
    report = results.read(path)
    rows = {row.contender: row for row in report.rows}
    assert len(report.peaks) == 2
    needed = {"pytorch eager fp32": ["torch"], "engine eager fp32": ["torch"], "torchscript fp32": ["torch"]}
    needed |= {f"{name} fp32": [name, "onnxscript"] for name in ("onnxruntime", "openvino")}
    needed |= {"ncnn fp32": ["ncnn", "pnnx"], "mnn fp32": ["MNN", "onnxscript"]}
    for name, packages in needed.items():
        if any(missing(package, package) for package in packages):
            assert "not installed" in (rows[name].failure or "")
        else:
            assert rows[name].failure is None, rows[name].failure
            assert rows[name].measured
            assert rows[name].facts["first_frame_seconds"] > 0
    assert rows["engine eager fp32"].ours
    assert not rows["pytorch eager fp32"].ours


def test_processes_start_anew_after_every_few_rounds(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start is checked, the first frame is that of the first, and the memory the largest of all."""
    started: list[WorkerProcess] = []

    class Counted(WorkerProcess):
        def __init__(self, *, threads: int, environment: dict[str, str] | None = None) -> None:
            super().__init__(threads=threads, environment=environment)
            started.append(self)

        def ask(self, *, timeout_seconds: float, **request: object) -> dict[str, Any]:
            answer = super().ask(timeout_seconds=timeout_seconds, **request)
            start = started.index(self)
            if request["do"] == "load":
                answer["ready"] = self.started + 10.0 + start
            elif request["do"] == "run":
                answer = {"seconds": [1.0 + start], "peak_memory_bytes": (5, 9, 7)[start]}
            return answer | ({"peak_memory_bytes": 1} if request["do"] == "load" else {})

    monkeypatch.setattr(model, "WorkerProcess", Counted)
    path = tmp_path / "model.json"
    arguments = ["--generators", str(tiny), "--sizes", "64x48", "--rounds", "5", "--starts", "3"]
    assert main(["model", *arguments, "--contenders", "engine eager fp32", "--json", str(path)]) == 0
    report = results.read(path)
    assert report.rows[0].seconds == [1.0, 2.0, 2.0, 3.0, 3.0]
    assert report.rows[0].facts["first_frame_seconds"] == pytest.approx(10.0)
    assert report.rows[0].facts["peak_memory_bytes"] == 9
    assert [peak["round"] for peak in report.peaks] == [0, 1, 2, 3, 4]
    assert report.arguments["starts"] == 3


def test_a_wrong_output_is_listed_and_not_timed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model, "output_bytes", lambda generator, output: np.roll(_bytes(generator, output), _roll()))
    path = tmp_path / "model.json"
    arguments = ["--generators", str(tiny), "--sizes", "64x48", "--rounds", "1", "--contenders", "engine eager fp32"]
    assert main(["model", *arguments, "--json", str(path)]) == 0
    row = results.read(path).rows[0]
    assert "not timed" in (row.failure or "")
    assert not row.measured
    assert "not timed" in capsys.readouterr().out


_bytes = generators.output_bytes
_shifts = iter(range(1, 100))


def _roll() -> int:
    return next(_shifts)  # each call shifts by another amount, so that no two pictures agree


def test_a_contender_that_dies_or_hangs_or_fails_says_so(tmp_path: Path) -> None:
    process = WorkerProcess(threads=1)
    with pytest.raises(ContenderError, match="AttributeError"):
        process.ask(do="nothing", timeout_seconds=60)
    with pytest.raises(ContenderError, match=r"FileNotFoundError|No such file"):
        process.ask(
            do="load",
            folder=str(tmp_path / "none"),
            contender={"module": "pytorch_eager"},
            spec={"precision": "fp32", "threads": 1},
            timeout_seconds=60,
        )
    process._process.kill()
    with pytest.raises(ContenderError, match="died"):
        process.ask(do="rest", timeout_seconds=60)
    process.close()


def test_a_contender_that_hangs_is_ended() -> None:
    process = WorkerProcess(threads=1)
    with pytest.raises(ContenderError, match="longer than"):
        process.ask(do="rest", timeout_seconds=0.001)
    process.close()


def test_float32_is_far_behind_the_fastest_in_float32_only() -> None:
    rows = [
        results.Row("group", name, name.startswith("engine"), [seconds], facts={"precision": name.split()[-1]})
        for name, seconds in (("engine fused fast", 0.1), ("engine fused fp32", 0.2), ("b fp32", 0.6), ("b bf16", 0.5))
    ]
    assert [round(model._times_slower(row, rows), 3) for row in rows] == [1.0, 1.0, 3.0, 5.0]


def test_a_new_backend_or_peer_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newest(type(BACKENDS["eager"])):  # type: ignore[misc]
        name = "newest"

    monkeypatch.setitem(BACKENDS, "newest", Newest())
    monkeypatch.setattr(table, "_PEERS", (*table._PEERS, ("another tool", "another", ("fp32",), ("fp16",))))
    names = {contender.name: contender for contender in contenders("cpu")}
    assert names["engine newest bf16"].ours
    assert names["another tool fp32"] == Contender("another tool fp32", "another", "fp32")
    assert "another tool fp16" in {contender.name for contender in contenders("cuda")}


def test_ours_stay_out_of_emulated_precisions() -> None:
    names = {contender.name for contender in contenders("cpu", emulated=("fp16",))}
    assert "engine eager fp16" not in names
    assert "pytorch eager fp16" in names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "640"], "WIDTHxHEIGHT"),
        (["--sizes", "0x3"], "WIDTHxHEIGHT"),
        (["--generators", "no-such"], "no-such"),
        (["--contenders", "nobody"], "no contender has"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_flops_are_those_of_the_definition() -> None:
    generator = generators.make_generator("resnet9-64")
    # 49.5 G multiply-adds at 256x256, of which the 18 convolutions of the blocks are 18 * 64 * 64 * 256 * 256 * 9.
    blocks = 2 * 18 * 64 * 64 * 256 * 256 * 9
    flops = count_flops(generator, (1, 3, 256, 256))
    assert blocks < flops < blocks * 1.15
    assert count_flops(generator, (2, 3, 256, 256)) == 2 * flops


@pytest.mark.parametrize("name", list(generators.GENERATORS))
def test_every_generator_takes_every_size(name: str) -> None:
    generator = generators.make_generator(name)
    for size in generators.SIZES[:2]:
        image = generators.generator_input(generator, generators.real_frame(*parse_size(size)))
        assert image.dtype == np.float32
        assert all(side % generator.multiple == 0 for side in image.shape[2:])
        low, high = generator.input_range
        assert low <= image.min() < image.max() <= high


def test_a_peer_that_is_absent_says_how_to_get_it() -> None:
    assert missing("no_such_module", "the-package") == "not installed: pip install the-package"
