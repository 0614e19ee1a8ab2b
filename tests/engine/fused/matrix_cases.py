"""What the tests of generators on the matrix unit share."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from engine.fused.program import FusedGenerator
from engine.generators import Generator, ResNet, ResNetConfig, build
from tests.engine.fused.cases import error_db, expected_of, with_weights
from tests.ops.cases import ISAS, MATRIX_ISA, forced_isa
from tests.tolerances import MATRIX_BF16_BELOW_EAGER_DB, MATRIX_BF16_DB, MATRIX_FP32_DB, MATRIX_OTHER_ROUNDING_DB

HAS_UNIT = MATRIX_ISA in ISAS

# Tiers whose vectors round as each other's.
ALIKE = [isa for isa in ISAS if isa != "scalar"]
PRECISIONS = ["fp32", "bf16"]
LEAST = {"fp32": MATRIX_FP32_DB, "bf16": MATRIX_BF16_DB}


def bfloat16_least(generator: Generator, image: Tensor) -> float:
    eager = copy.deepcopy(generator).bfloat16()(image.bfloat16())
    return error_db(eager, expected_of(generator, image)) - MATRIX_BF16_BELOW_EAGER_DB


def same_on_every_tier(fused: FusedGenerator, image: Tensor, precision: str) -> Tensor:
    """The result, which is the same bits on every tier with fused multiplication and addition."""
    results = {}
    for isa in ISAS:
        with forced_isa(isa):
            results[isa] = fused(image)
    expected = results[ISAS[-1]]
    for isa in ALIKE:
        assert torch.equal(results[isa], expected), isa
    if image.numel() > 100:
        assert error_db(results["scalar"], expected.double()) > MATRIX_OTHER_ROUNDING_DB[precision]
    return expected


def chained(*layers: nn.Module, pictures: int = 3, scale: int = 1) -> Generator:
    """A generator of these layers alone."""
    generator = build(ResNetConfig(width=8, blocks=0, out_channels=pictures))
    assert isinstance(generator, ResNet)
    generator.model, generator.scale = nn.Sequential(*layers), scale
    torch.manual_seed(0)
    return with_weights(generator)
