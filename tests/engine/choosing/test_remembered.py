"""The second run: it starts from what the first has proven, without torch, and makes the same frames."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import Translator
from engine.cache import EngineCache
from engine.choosing import measuring, remembered
from engine.choosing.request import Request
from engine.generators import SRVGGConfig
from engine.parity import PARITY_DB, psnr_db
from tests.engine.choosing.runs import SIZE, Run, frame, loads, saved
from tests.ops.cases import threads


def test_the_second_run_needs_no_translator(style: Path) -> None:
    first, second = Run(style), None
    expected = [first(frame(number)) for number in (0, 60)]
    second = Run(style)
    actual = [second(frame(number)) for number in (0, 60)]
    np.testing.assert_array_equal(actual, expected)
    assert (first.loads, second.loads) == (1, 0)
    engine = second.translator.engine
    assert engine is not None
    assert str(engine) == "fused fp32"
    assert engine.proven_before
    assert engine.parity_db == pytest.approx(first.translator.engine.parity_db)  # type: ignore[union-attr]


def test_super_resolution(tmp_path: Path) -> None:
    """The second run knows the scale before its first frame."""
    style = saved(tmp_path / "enlarge.safetensors", seed=0, config=SRVGGConfig(width=8, convolutions=1, scale=2))
    expected = Run(style)(frame())
    assert expected.shape == (2 * SIZE[0], 2 * SIZE[1], 3)
    second = Run(style)
    assert second.translator.scale == 2
    np.testing.assert_array_equal(second(frame()), expected)
    assert second.loads == 0


@pytest.mark.parametrize("precision", ["bf16", "fast"])
def test_half_precision_is_proven_on_each_video(style: Path, precision: str) -> None:
    """Against float32 of our own, which an earlier run has proven."""
    first = Run(style, precision=precision)
    first(frame(0))
    second = Run(style, precision=precision)
    other = frame(60)
    translated = second(other)
    engine = second.translator.engine
    assert engine is not None
    assert (second.loads, str(engine), engine.proven_before) == (0, f"fused {precision}", False)
    exact = Translator(style, backend="eager", precision="fp32")(other)
    assert engine.parity_db == pytest.approx(psnr_db(translated, exact), abs=0.5)
    np.testing.assert_array_equal(translated, first(other))
    assert len(EngineCache().entries()) == 2  # of that precision, and of float32


def test_a_video_that_half_precision_is_not_enough_for(
    style: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is chosen again; what was kept stays for others."""
    Run(style, precision="bf16")(frame(0))
    monkeypatch.setitem(PARITY_DB, "bf16", 150.0)
    second = Run(style, precision="bf16")
    expected = Translator(style, backend="eager", precision="fp32")(frame(60))
    assert psnr_db(second(frame(60)), expected) > PARITY_DB["fp32"]
    assert second.loads == 1
    assert "the engine is chosen again: this video's first frame in fused bf16 is at " in caplog.text
    assert second.translator.engine.precision == "fp32"  # type: ignore[union-attr]
    monkeypatch.setitem(PARITY_DB, "bf16", 45.0)
    third = Run(style, precision="bf16")
    third(frame(60))
    assert (third.loads, str(third.translator.engine)) == (0, "fused bf16")


def test_a_batch(style: Path) -> None:
    Run(style)(frame())
    second = Run(style)
    batch = np.stack([frame(0), frame(60)])
    np.testing.assert_array_equal(second.translator(batch), np.stack([second(image) for image in batch]))
    assert second.translator.choose_batch(frame()) == 1


def test_a_nearly_uniform_frame_runs_in_eager_float32(style: Path) -> None:
    Run(style)(frame())
    second, black = Run(style), np.full((*SIZE, 3), 7, dtype=np.uint8)
    second(frame())
    assert second.loads == 0
    expected = Translator(style, backend="eager", precision="fp32")(black)
    assert second.translator.engine_for(black).is_stand_in
    np.testing.assert_array_equal(second.translator(black), expected)
    assert (second.loads, second.translator.uniform_frames) == (1, 1)
    engine = second.translator.engine_for(frame())
    assert engine.proven_before


def test_a_first_frame_that_is_nearly_uniform_proves_nothing(style: Path) -> None:
    black = np.zeros((*SIZE, 3), dtype=np.uint8)
    Run(style)(black)
    assert loads(style) == 1


def test_another_frame_size_is_proven_by_itself(style: Path) -> None:
    Run(style)(frame())
    second = Run(style)
    other = frame(size=(64, 64))
    second(other)
    assert second.loads == 1
    third = Run(style)
    np.testing.assert_array_equal(third(other), second(other))
    third(frame())
    assert third.loads == 0
    assert len(EngineCache().entries()) == 1  # the weights are the same


@pytest.mark.parametrize("asked", [{"precision": "fast"}, {"norm_mode": "batch"}, {"backend": "fused"}])
def test_whatever_else_is_asked_for_is_proven_by_itself(style: Path, asked: dict[str, str]) -> None:
    Run(style)(frame())
    assert loads(style, **asked) == 1


def test_float32_with_little_to_spare_is_not_kept(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remembered._MARGIN_DB, "fp32", 1000.0)
    Run(style)(frame())
    assert loads(style) == 1


def test_a_runtime_that_was_not_there_is_measured(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(style)(frame())
    installed = remembered.installed_versions
    monkeypatch.setattr(
        remembered, "installed_versions", lambda name: "openvino 1.0" if name == "openvino" else installed(name)
    )
    assert loads(style) == 1


@pytest.mark.parametrize("asked", [{"expected_frames": 10**9}, {"live": True}])
def test_a_long_job_measures_first(style: Path, asked: dict[str, object]) -> None:
    """What a short one took without measuring may not be the fastest."""
    Run(style)(frame())
    assert remembered.start(EngineCache(), Request(style, precision="fp32", **asked), SIZE) is None  # type: ignore[arg-type]
    assert loads(style) == 0


def test_threads_are_those_of_the_proof(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of them, asked for or there, is another proof."""
    asked: list[int] = []

    class Watched(remembered.PackedRunner):
        def __init__(self, *arguments: Any, threads: int, **others: Any) -> None:
            asked.append(threads)
            super().__init__(*arguments, threads=threads, **others)

    monkeypatch.setattr(remembered, "PackedRunner", Watched)
    with threads(2):
        Run(style)(frame())
    with threads(1):
        Run(style, threads=1)(frame())
    asked.clear()
    with threads(2):
        assert [loads(style), loads(style, threads=1), loads(style, threads=2)] == [0, 0, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert loads(style) == 1
    assert asked == [2, 1]


def test_the_first_run_goes_on_with_what_it_keeps(style: Path) -> None:
    """Two frames at a time, and one that waits."""
    with threads(2):
        first, frames = Run(style), [frame(number) for number in range(5)]
        assert first.translator.frames_under_way == 1
        first(frame())
        assert first.translator.frames_under_way == 3
        waiting = [first.translator.submit(image) for image in frames]
        second = Run(style)
        for image, translated in zip(frames, waiting, strict=True):
            np.testing.assert_array_equal(translated(), second(image))
    assert (first.loads, second.loads) == (1, 0)


@pytest.mark.parametrize("options", [{"live": True}, {"expected_frames": 1}])
def test_a_stream_or_a_single_frame_is_worked_on_by_all_threads(style: Path, options: dict[str, Any]) -> None:
    Run(style, **options)(frame())
    assert Run(style, **options).translator.frames_under_way == 1


def test_a_precision_that_this_video_made_necessary_is_not_kept(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(PARITY_DB, "bf16", 150.0)
        first = Run(style, precision="bf16")
        first(frame())
        assert first.translator.engine.precision == "fp32"  # type: ignore[union-attr]
    second = Run(style, precision="bf16")
    second(frame())
    assert (second.loads, second.translator.engine.precision) == (1, "bf16")  # type: ignore[union-attr]
    assert loads(style, precision="bf16") == 0


def test_another_engine_that_was_measured_to_be_faster_replaces_it(
    style: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(style)(frame())
    long = Translator(style, device="cpu", precision="fp32", expected_frames=10**9)
    monkeypatch.setattr(
        measuring, "timed", lambda engine, batch: (engine.runner.submit(batch)(), speeds[engine.backend])
    )
    speeds = {"fused": 20.0, "torchscript": 5.0, "openvino": 50.0, "onnxruntime": 50.0, "aoti": 50.0}
    long(frame())
    assert str(long.engine) == "torchscript fp32"
    assert remembered.start(EngineCache(), Request(style, precision="fp32"), SIZE) is None
    assert str(Translator(style, device="cpu", precision="fp32").engine_for(frame())) == "torchscript fp32"


def test_few_sizes_keep_their_memory(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(32, 32), (32, 48), (48, 32), (48, 48), (64, 32)]
    first = Run(style)
    expected = [first(frame(size=size)) for size in sizes]
    released: list[tuple[int, int]] = []
    second = Run(style)
    for size, translated in zip(sizes, expected, strict=True):
        np.testing.assert_array_equal(second(frame(size=size)), translated)
        runner = second.translator._engines[size].runner
        monkeypatch.setattr(runner, "release", functools.partial(released.append, size))
    assert second.loads == 0
    assert released == sizes[:2]
    for size, translated in zip(sizes, expected, strict=True):
        np.testing.assert_array_equal(second(frame(size=size)), translated)
    assert released == [*sizes[:2], *sizes[2:], *sizes[:2]]


def test_the_engine_of_the_last_frame_is_named(style: Path) -> None:
    Run(style)(frame())
    second = Run(style)
    second(frame())
    assert second.translator.engine.proven_before  # type: ignore[union-attr]
    second.translator(frame(size=(64, 64)))
    assert not second.translator.engine.proven_before  # type: ignore[union-attr]


def test_a_live_stream_has_the_translator_ready_for_a_nearly_uniform_frame(style: Path) -> None:
    Run(style, backend="fused")(frame())
    second = Run(style, backend="fused", live=True)
    assert second.loads == 0
    second(frame())
    for thread in threading.enumerate():
        if thread.name == "prepare translator":
            thread.join()
    assert second.loads == 1
    second(np.zeros((*SIZE, 3), dtype=np.uint8))
    assert second.loads == 1
