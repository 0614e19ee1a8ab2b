"""The second run: it starts from what the first has proven, without torch, and makes the same frames."""

from __future__ import annotations

import functools
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from engine import Translator, save_generator
from engine.cache import EngineCache
from engine.choosing import measuring, remembered
from engine.choosing.request import Request
from engine.errors import CheckpointError, EngineError, FrameSizeError
from engine.files import sha256
from engine.generators import GeneratorConfig, SRVGGConfig, build
from engine.generators.resnet import ResNetConfig
from engine.parity import PARITY_DB, psnr_db
from engine.run import main
from engine.samples import SAMPLE
from tests.ops.cases import threads

SIZE = (90, 160)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    return saved(tmp_path / "tiny.safetensors", seed=0)


def saved(path: Path, *, seed: int, config: GeneratorConfig | None = None) -> Path:
    torch.manual_seed(seed)
    save_generator(build(config or ResNetConfig(width=8, blocks=1)), path, metadata={})
    return path


def frame(number: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    capture = cv2.VideoCapture(str(SAMPLE))
    capture.set(cv2.CAP_PROP_POS_FRAMES, number)
    read, image = capture.read()
    assert read
    return cv2.resize(image, (size[1], size[0]))


class Run:
    """A translator as a run of the command line makes it; `loads` says whether it needed torch."""

    def __init__(self, style: Path, **asked: Any) -> None:
        options = {"precision": "fp32", "frames_at_once": 2, **asked}
        self.translator = Translator(style, device="cpu", **options)

    @property
    def loads(self) -> int:
        return int(self.translator._loaded is not None)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.translator.engine_for(image)
        return self.translator(image)


def loads(style: Path, **asked: Any) -> int:
    """Whether a run that begins with that frame needs torch."""
    run = Run(style, **asked)
    run(frame())
    return run.loads


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


def test_another_checkpoint_under_the_same_name(style: Path) -> None:
    expected = Run(style)(frame())
    saved(style, seed=1)
    second = Run(style)
    assert second.loads == 1
    assert not np.array_equal(second(frame()), expected)


def test_a_checkpoint_that_changes_while_it_is_loaded_is_not_kept(style: Path) -> None:
    first = Run(style)
    saved(style, seed=1)
    first(frame())
    assert EngineCache().entries() == []


def test_float32_with_little_to_spare_is_not_kept(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(remembered._MARGIN_DB, "fp32", 1000.0)
    Run(style)(frame())
    assert loads(style) == 1


def test_other_kernels_prove_anew(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(style)(frame())
    monkeypatch.setattr(remembered, "kernel_facts", lambda: {"kernels": "others", "isa": "scalar"})
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


def test_damaged_weights_are_made_anew(style: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = Run(style)(frame())
    (entry,) = EngineCache().entries()
    content = bytearray((entry.folder / entry.main).read_bytes())
    content[-1] ^= 1
    (entry.folder / entry.main).write_bytes(content)
    second = Run(style)
    np.testing.assert_array_equal(second(frame()), expected)
    assert second.loads == 1
    assert "the cached fused engine is built again" in caplog.text
    assert loads(style) == 0


def engine_note() -> Path:
    """The one note of an engine; beside it lies one of the generator's scale."""
    (note,) = (path for path in EngineCache().folder.glob("*.json") if isinstance(json.loads(path.read_text()), dict))
    return note


@pytest.mark.parametrize(
    "damage",
    [
        {"runner": {}},
        {"runner": {"weights": "x"}},
        {"runner": 1},
        {"reference": 1},
        {"precision": None},
        {"threads": "x"},
        {"frame_ms": "x"},
        {"versions": None},
    ],
)
def test_a_damaged_note(style: Path, damage: dict[str, object]) -> None:
    Run(style)(frame())
    note = engine_note()
    note.write_text(json.dumps({**json.loads(note.read_text()), **damage}))
    assert loads(style) == 1


def test_a_cache_that_cant_be_written_to(style: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMGAN_CACHE", str(tmp_path / "file" / "cache"))
    Run(style)(frame())
    assert Run(style)(frame()).shape == (*SIZE, 3)


@pytest.mark.parametrize("error", [ImportError("not built"), ValueError("STREAMGAN_ISA is 'mmx'")])
def test_kernels_that_cant_be_used_are_no_error_here(
    style: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As where nothing has been built, and eager runs."""

    def build() -> dict[str, str]:
        raise error

    monkeypatch.setattr(remembered, "kernel_facts", build)
    for backend in ("fused", "eager"):
        first = Run(style, backend=backend)
        assert first(frame()).shape == (*SIZE, 3)
        assert first.loads == 1
    assert EngineCache().entries() == []


def test_no_memory_is_told(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(style)(frame())
    monkeypatch.setattr(remembered.memory, "available_bytes", lambda device: 1000)
    with pytest.raises(FrameSizeError, match="use smaller frames"):
        Run(style)(frame())


def test_no_such_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Run(tmp_path / "none.pth")


def test_what_is_no_frame(style: Path) -> None:
    Run(style)(frame())
    with pytest.raises(EngineError, match="uint8"):
        Run(style).translator(np.zeros((4, 4, 3)))


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


def test_weights_that_were_packed_otherwise_are_kept_apart(style: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by another version of the packing: no program runs on weights that it was not written for."""
    Run(style)(frame())
    note = engine_note()
    values = json.loads(note.read_text())
    values["runner"]["weights"] = "0" * 64
    note.write_text(json.dumps(values))
    second = Run(style)
    second(frame())
    assert second.loads == 1
    assert loads(style) == 0


def test_other_weights_in_the_place_of_those_that_were_proven(style: Path) -> None:
    """Their own sums are right: another form of the file, say."""
    Run(style)(frame())
    cache, request = EngineCache(), Request(style, precision="fp32")
    found = remembered.start(cache, request, SIZE)
    assert found is not None
    (entry,) = cache.entries()
    path = entry.folder / entry.main
    sums = entry.folder / "entry.json"
    before = sha256(path)
    path.write_bytes(b"header" + path.read_bytes())
    assert before in sums.read_text()
    sums.write_text(sums.read_text().replace(before, sha256(path)))
    assert cache.entries()[0].files[entry.main] == sha256(path)
    assert remembered.start(cache, request, SIZE) is None


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


PROGRAM = """
import sys
from engine.run import main
status = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(status)
"""


def command_line(*arguments: str) -> tuple[list[str], str]:
    """What it prints to both."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_the_command_line_starts_without_torch(style: Path, tmp_path: Path) -> None:
    """The first run imports it, the second doesn't; both write the same file."""
    outputs = [tmp_path / "first.mp4", tmp_path / "second.mp4"]
    arguments = (str(SAMPLE), "--style", str(style), "--frames", "12")
    said = [command_line(*arguments, "-o", str(output)) for output in outputs]
    assert [lines[-1] for lines, _ in said] == ["True", "False"]
    assert all("dB of float32" in text for _, text in said)
    frames = [list(decoded(output)) for output in outputs]
    assert len(frames[0]) == len(frames[1]) == 12
    np.testing.assert_array_equal(frames[0], frames[1])


FROM_PYTHON = """
import sys, numpy as np
from engine import Translator
np.save(sys.argv[3], Translator(sys.argv[1])(np.load(sys.argv[2])))
print("torch" in sys.modules)
"""


def test_python_starts_without_torch(style: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "frame.npy", frame())
    outputs = [tmp_path / "first.npy", tmp_path / "second.npy"]
    for output, needs_torch in zip(outputs, ["True", "False"], strict=True):
        arguments = [str(path) for path in (style, tmp_path / "frame.npy", output)]
        done = subprocess.run([sys.executable, "-c", FROM_PYTHON, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout.strip()) == (0, needs_torch), done.stderr
    np.testing.assert_array_equal(np.load(outputs[0]), np.load(outputs[1]))


def decoded(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (result := capture.read())[0]:
        frames.append(result[1])
    return frames


def test_explain_measures_again(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(SAMPLE), "--style", str(style), "--frames", "2", "--precision", "fp32", "--benchmark"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert "in an earlier run" in capsys.readouterr().err
    assert main([*arguments, "--explain"]) == 0
    assert "in an earlier run" not in capsys.readouterr().err
    logging.getLogger("streamgan").handlers = []
