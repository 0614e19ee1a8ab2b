"""Programs that are damaged or no good are refused, and what the lowering does not know is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.errors import BackendError
from engine.fused.lowering import fuse
from engine.fused.program import FusedGenerator, Packing, steps_of
from engine.generators import Generator, ResNet, ResNetConfig
from tests.engine.fused.cases import CONFIGS, damaged, made, picture_for, runs_on, with_steps, writing_bfloat16


def test_too_small_an_image_is_one_line() -> None:
    fused = fuse(made(CONFIGS["resnet"]), "fp32")
    with pytest.raises(RuntimeError, match="too small for this generator"):
        fused(torch.zeros(1, 3, 4, 4))


def test_what_it_does_not_know_is_named() -> None:
    with pytest.raises(BackendError, match="no form of Generator"):
        fuse(Generator(), "fp32")
    generator = made(ResNetConfig(width=8, blocks=1))
    assert isinstance(generator, ResNet)
    generator.model[3] = nn.Softplus()
    with pytest.raises(BackendError, match="does not know Softplus"):
        fuse(generator, "fp32")


def test_a_damaged_program_is_refused() -> None:
    """Every number of it made nonsense: an error, or a result, and nothing outside of its memory."""
    generator = made(CONFIGS["unet"])
    fused, image = fuse(generator, "fp32"), picture_for(generator, height=16, width=16)
    runs = [runs_on(damaged(fused, p, value), image) for p in range(len(fused.program)) for value in (-7, 10**9)]
    assert runs.count(False) > len(runs) / 4
    with pytest.raises(RuntimeError, match="version"):
        damaged(fused, 0, 99)(image)
    with pytest.raises(RuntimeError, match="weights"):
        FusedGenerator(fused.weights[:100], fused.program, 3)(image)


def test_tiles_of_the_image_are_refused() -> None:
    """Its three channels are not a block of them."""
    fused = fuse(made(ResNetConfig(width=32, blocks=1, downsamplings=0)), "fp32")
    first, *others = steps_of(fused)
    first.packing, first.taps, first.pad_before, first.pad_after = Packing.WINOGRAD2, 3, 1, 1
    with pytest.raises(RuntimeError, match="Winograd step of an unknown shape"):
        with_steps(fused, [first, *others])(torch.zeros(1, 3, 32, 32))


def test_a_step_after_the_picture_is_refused() -> None:
    generator = made(CONFIGS["resnet"])
    fused = fuse(generator, "fp32")
    steps = steps_of(fused)
    longer = with_steps(fused, [*steps, steps[-1]])
    longer.program[3] = len(steps) + 1
    with pytest.raises(RuntimeError, match="after the one that makes the picture"):
        longer(picture_for(generator))


def test_keeping_the_image_is_refused() -> None:
    """Its three channels are not a block of them."""
    fused = fuse(made(CONFIGS["resnet"]), "fp32")
    first, *others = steps_of(fused)
    first.save = int(fused.program[2]) - 1
    with pytest.raises(RuntimeError, match="keeps the image"):
        with_steps(fused, [first, *others])(torch.zeros(1, 3, 64, 64))


def test_bfloat16_is_refused_where_nothing_writes_or_adds_it() -> None:
    animegan = fuse(made(CONFIGS["animegan"]), "fp32")
    steps = steps_of(animegan)
    next(step for step in steps if step.packing == Packing.DEPTHWISE).writes_bfloat16 = 1
    with pytest.raises(RuntimeError, match="on single channels writes float32 only"):
        with_steps(animegan, steps)(torch.zeros(1, 3, 32, 32))
    resnet = writing_bfloat16(fuse(made(CONFIGS["resnet"]), "fp32"))
    steps = steps_of(resnet)
    adding = next(step for step in steps if step.residual >= 0)
    adding.residual = adding.source
    with pytest.raises(RuntimeError, match="a residual in bfloat16"):
        with_steps(resnet, steps)(torch.zeros(1, 3, 32, 32))
