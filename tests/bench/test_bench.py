"""The benchmarks run and report what they should; nothing here judges a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import ops, results, training
from bench.__main__ import main
from bench.generators import make_generator
from bench.layers import layers
from bench.tutorial_steps import Batch, CycleGanTutorial
from engine.errors import EngineError
from engine.fused.lowering import fuse
from engine.fused.program import steps_of
from engine.generators.flops import count_flops
from training.presets import PRESETS

pytestmark = pytest.mark.time_limit(900)


def test_ops_puts_every_operator_beside_what_it_replaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ops.json"
    arguments = ["--size", "65x33", "--rounds", "2", "--processes", "1", "--threads", "1", "--json", str(path)]
    assert main(["ops", *arguments]) == 0
    report = results.read(path)
    assert len(report.groups) == 13
    for group in report.groups:
        rows = {row.contender: row for row in report.group(group)}
        assert set(rows) == {"operator", "expression", "torch.compile", "copy"}
        assert [name for name, row in rows.items() if row.ours] == ["operator"]
        assert all(len(row.measured) == 2 for row in rows.values())
    # 65 * 33 pixels of 3 bytes, read once, and as many values of four bytes, written once.
    first = report.group("frames_to_tensor float32 65x33")[0]
    assert first.facts["bytes_moved"] == 65 * 33 * 3 * (1 + 4)


@pytest.mark.slow
def test_ops_joins_the_rounds_of_several_processes(tmp_path: Path) -> None:
    path = tmp_path / "ops.json"
    chosen = ["--ops", "frames_to_tensor float32", "--size", "64x48", "--rounds", "2", "--processes", "2"]
    assert main(["ops", *chosen, "--threads", "1", "--json", str(path)]) == 0
    report = results.read(path)
    assert len(report.groups) == 1
    assert all(len(row.measured) == 4 for row in report.rows)


def test_ops_times_nothing_that_is_wrong() -> None:
    frame = torch.zeros(4, 4, 3, dtype=torch.uint8)
    wrong = ops.Operator("frames_to_tensor", "float32", lambda x: x.float() + 1, lambda x: x.float(), (frame,), 240)
    with pytest.raises(EngineError, match="different values"):
        ops.measure(wrong, "4x4", rounds=1)


def test_an_unknown_operator_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "--ops", "nothing", "--processes", "1", "--size", "8x8"]) == 1
    assert capsys.readouterr().err.count("error: no operator has") == 1


def test_scaling_measures_every_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import scaling

    monkeypatch.setattr(scaling, "_AREAS", ((32, 32), (64, 32)))
    monkeypatch.setattr(scaling, "_WIDTHS", (4, 8))
    monkeypatch.setattr(scaling, "_DEPTHS", (0, 1))
    monkeypatch.setattr(scaling, "_BATCHES", (1, 2))
    path = tmp_path / "scaling.json"
    assert main(["scaling", "--rounds", "1", "--seconds", "0.01", "--threads", "2", "--json", str(path)]) == 0
    report = results.read(path)
    assert report.groups == ["area", "width", "depth", "threads", "batch"]
    assert all(len(row.measured) == 1 and row.facts["units"] > 0 for row in report.rows)
    assert [row.facts["x"] for row in report.group("threads")] == [1, 2]


@pytest.fixture
def small_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"cyclegan": "resnet_1blocks", "pix2pix": "unet_16"}
    for preset, generator in small.items():
        monkeypatch.setitem(PRESETS, preset, f"{PRESETS[preset]} --netG {generator} --ngf 8 --ndf 8")


@pytest.mark.usefixtures("small_presets")
def test_training_takes_the_same_step_as_the_tutorial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "training.json"
    assert main(["training", "--size", "64", "--rounds", "2", "--device", "cpu", "--json", str(path)]) == 0
    report = results.read(path)
    assert report.groups == ["cycle_gan resnet_9blocks 64x64", "pix2pix unet_256 64x64"]
    for group in report.groups:
        tutorial, *ours = report.group(group)
        assert (tutorial.contender, tutorial.ours) == ("tutorial fp32", False)
        assert "training fp32" in [row.contender for row in ours]
        assert all(row.ours and len(row.measured) == 2 for row in ours)
        fp32 = next(row for row in ours if row.contender == "training fp32")
        assert fp32.facts["first_loss"] == pytest.approx(tutorial.facts["first_loss"], rel=1e-3)
    assert "x as fast" in capsys.readouterr().out


@pytest.mark.usefixtures("small_presets")
def test_training_times_no_other_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Lazy(CycleGanTutorial):
        def step(self, batch: Batch) -> float:
            return super().step(batch) / 2

    monkeypatch.setitem(training.WORKS, "cycle_gan resnet_9blocks", training.Work("cyclegan", Lazy))
    assert main(["training", "--size", "64", "--works", "cyclegan", "--device", "cpu"]) == 1
    assert "has a loss of" in capsys.readouterr().err


def test_layers_are_those_of_the_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "layers.json"
    arguments = ["--generator", "resnet6-16", "--size", "64x48", "--rounds", "2", "--threads", "1", "--json", str(path)]
    assert main(["layers", *arguments, "--tile", "2x2"]) == 0
    report = results.read(path)
    assert len(report.rows) == 3 + 2 * 6 + 3
    defined = count_flops(make_generator("resnet6-16"), (1, 3, 48, 64)) / 1e9
    # The picture's three channels are stored as four.
    assert sum(row.facts["gflop"] for row in report.rows) == pytest.approx(defined, rel=0.1)
    blocks = [row for row in report.rows if "F(2x2)" in row.contender]
    assert len(blocks) == 12
    assert all(row.facts["multiplied_gflop"] == pytest.approx(row.facts["gflop"] * 4 / 9, rel=1e-4) for row in blocks)
    assert all(len(row.measured) == 2 for row in report.rows)
    assert "of the peak" in capsys.readouterr().out


@pytest.mark.parametrize(("precision", "products"), [("bf16", 1), ("fp32", 3)])
def test_layers_of_the_matrix_unit(precision: str, products: int) -> None:
    generator = make_generator("resnet6-16")
    found = list(layers(steps_of(fuse(generator, precision, matrix=True)), 48, 64))
    defined = count_flops(generator, (1, 3, 48, 64)) / 1e9
    assert sum(layer.gflop for layer in found) == pytest.approx(defined, rel=0.1)
    blocks = [layer for layer in found if layer.name.startswith("tiles 64->64")]
    assert len(blocks) == 12
    assert all(layer.multiplied_gflop == pytest.approx(products * layer.gflop) for layer in blocks)
