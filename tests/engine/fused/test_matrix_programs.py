"""Programs for the matrix unit that are damaged or no good are refused."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from engine.errors import BackendError
from engine.fused.lowering import fuse
from engine.fused.program import NONE, FusedGenerator, Packing, Step, steps_of
from engine.generators import GeneratorConfig, ResNetConfig, RRDBNetConfig, SRVGGConfig
from tests.engine.fused.cases import damaged, made, picture_for, runs_on, with_steps
from tests.engine.fused.matrix_cases import HAS_UNIT, PRECISIONS, chained
from tests.ops.cases import threads

DAMAGED: dict[str, GeneratorConfig] = {
    "resnet": ResNetConfig(width=8, blocks=1, downsamplings=1),
    "srvgg": SRVGGConfig(width=8, convolutions=0, scale=2),
    "rrdbnet": RRDBNetConfig(width=8, growth=8, blocks=1, scale=2),
}


@pytest.mark.parametrize("most", [pytest.param(None, marks=pytest.mark.slow, id="all"), pytest.param(400, id="some")])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_program_is_refused(name: str, precision: str, most: int | None) -> None:
    """Every number of it, or that many, made nonsense: an error, or a result, and nothing outside of its memory."""
    generator = made(DAMAGED[name])
    fused, image = fuse(generator, precision, matrix=True), picture_for(generator, height=4, width=6)
    values = (-7, 1, 10**9) if HAS_UNIT else (-7, 10**9)
    positions = random.Random(0).sample(range(len(fused.program)), min(most or 10**9, len(fused.program)))
    with threads(1):
        runs = [runs_on(damaged(fused, position, value), image) for position in positions for value in values]
    assert runs.count(False) > len(runs) / 8


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGED)
def test_programs_damaged_in_several_places(name: str) -> None:
    """Numbers that could stand there, among the steps' own."""
    generator = made(DAMAGED[name])
    fused, image = fuse(generator, "bf16", matrix=True), picture_for(generator, height=4, width=6)
    chance = random.Random(0)
    numbers = sorted({*fused.program.tolist(), 0, 2, 3, 5, 9, 16, 17, 31, 32, 33, 48, 64, 1000})
    for _ in range(4000):
        changed = fused
        for _ in range(chance.randint(1, 4)):
            changed = damaged(changed, chance.randrange(4, len(fused.program)), chance.choice(numbers))
        runs_on(changed, image)


def test_a_padding_by_name_is_refused_in_one_line() -> None:
    generator = chained(nn.Conv2d(3, 16, 3, padding="same"), nn.Conv2d(16, 3, 3, padding=1))
    with pytest.raises(BackendError, match="does not know the padding"):
        fuse(generator, "bf16", matrix=True)


class TestRefused:
    @staticmethod
    def first_of(packing: int) -> tuple[FusedGenerator, list[Step], Step]:
        fused = fuse(made(DAMAGED["resnet"]), "bf16", matrix=True)
        steps = steps_of(fused)
        return fused, steps, next(step for step in steps if step.packing == packing)

    @pytest.mark.parametrize("parts", [0, 3, -1])
    def test_weights_in_other_parts(self, parts: int) -> None:
        fused, steps, step = self.first_of(Packing.MATRIX)
        step.weight_terms = parts
        with pytest.raises(RuntimeError, match="a step of the matrix unit of an unknown shape"):
            with_steps(fused, steps)(torch.zeros(1, 3, 16, 16))

    def test_float32_in_one_part(self) -> None:
        fused, steps, step = self.first_of(Packing.MATRIX)
        step.multiplies_float32 = 1
        step.weight_terms = 1
        with pytest.raises(RuntimeError, match="a step of the matrix unit of an unknown shape"):
            with_steps(fused, steps)(torch.zeros(1, 3, 16, 16))

    def test_two_residuals_of_different_types(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("engine.fused.steps._FINISHED", ())
        fused = fuse(made(RRDBNetConfig(width=16, growth=16, blocks=1, scale=1)), "bf16", matrix=True)
        steps = steps_of(fused)
        adding = next(step for step in steps if step.second_residual != NONE)
        for step in steps:
            if (step.output == adding.second_residual and step.appends) or step.save == adding.second_residual:
                step.saves_bfloat16 = step.writes_bfloat16 = 0
        with pytest.raises(RuntimeError, match="two residuals of different types"):
            with_steps(fused, steps)(torch.zeros(1, 3, 16, 16))

    @pytest.mark.parametrize("block", [0, 17, 5])
    def test_blocks_of_another_size(self, block: int) -> None:
        """5: more picture channels than there are."""
        fused, steps, step = self.first_of(Packing.MATRIX_LAST)
        step.block = block
        with pytest.raises(RuntimeError, match="a last layer of an unknown shape"):
            with_steps(fused, steps)(torch.zeros(1, 3, 16, 16))
