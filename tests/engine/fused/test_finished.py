"""Generators without norms on the matrix unit in bfloat16: activations are finished when they are written.

Steps multiply them as they lie in memory, with zeros around them in place of padding.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from engine.fused.lowering import fuse, has_matrix_unit
from engine.fused.program import NONE, Activation, Packing, Step, float_bits, steps_of
from engine.generators import GeneratorConfig, RRDBNetConfig, SRResNetConfig, SRVGGConfig
from tests.engine.fused.cases import error_db, expected_of, made, picture_for, with_steps
from tests.engine.fused.matrix_cases import HAS_UNIT, bfloat16_least, same_on_every_tier
from tests.ops.cases import CACHES, forced_caches, threads

# Of whole blocks of 32 channels, which are read as they lie there.
CONFIGS: dict[str, GeneratorConfig] = {
    "srvgg": SRVGGConfig(width=32, convolutions=3),
    "srvgg x2, 64 wide": SRVGGConfig(width=64, convolutions=1, scale=2),
    "srresnet": SRResNetConfig(width=32, blocks=2),
    "srresnet x3": SRResNetConfig(width=32, blocks=1, scale=3),
    "rrdbnet": RRDBNetConfig(width=32, growth=32, blocks=2),
    "rrdbnet x2": RRDBNetConfig(width=64, growth=32, blocks=1, scale=2),
}


def steps_for(name: str) -> list[Step]:
    return steps_of(fuse(made(CONFIGS[name]), "bf16", matrix=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_left_to_do_on_reading(name: str) -> None:
    steps = steps_for(name)
    for step in steps:
        assert step.activation == Activation.NONE
        assert step.residual == step.second_residual == NONE
    assert all(step.border > 0 for step in steps[:-1] if not step.appends)


def test_slopes_and_residuals_are_where_they_belong() -> None:
    srvgg, rrdbnet = steps_for("srvgg"), steps_for("rrdbnet")
    assert {step.out_activation for step in srvgg[:-1]} == {Activation.PRELU}
    assert len({step.out_slopes for step in srvgg[:-1]}) == len(srvgg) - 1
    appending = [step for step in rrdbnet if step.appends]
    assert len(appending) == 2 * 3 * 4
    assert {(step.out_activation, step.out_slope_bits) for step in appending} == {
        (Activation.LEAKY_RELU, float_bits(0.2))
    }
    # A dense block's input is kept for its end; only that of the first one is also needed elsewhere, and is copied.
    assert sum(step.save != NONE for step in rrdbnet) == 1
    assert sum(step.out_residual != NONE for step in rrdbnet) == 2 * 3 + 1
    assert sum(step.out_second_residual != NONE for step in rrdbnet) == 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 17), (16, 16), (17, 33), (40, 31), (34, 96)])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_size(name: str, height: int, width: int) -> None:
    if not HAS_UNIT and height * width > 100:
        pytest.skip("takes minutes without a matrix unit")
    generator = made(CONFIGS[name])
    size = height * generator.multiple, width * generator.multiple
    image = picture_for(generator, height=size[0], width=size[1])
    actual = fuse(generator, "bf16", matrix=True)(image)
    assert actual.isfinite().all()
    if height * width > 100:  # fewer pixels say little about noise
        assert error_db(actual, expected_of(generator, image)) > bfloat16_least(generator, image)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_what_steps_make_that_read_it_unfinished(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for rounding: residuals are added before it, not after."""
    generator = made(CONFIGS[name])
    height, width = (44, 70) if HAS_UNIT else (10, 18)
    image = picture_for(generator, height=height, width=width)
    finished = fuse(generator, "bf16", matrix=True)(image)
    monkeypatch.setattr("engine.fused.steps._FINISHED", ())
    unfinished = fuse(generator, "bf16", matrix=True)
    assert any(step.activation != Activation.NONE for step in steps_of(unfinished))
    expected = expected_of(generator, image)
    assert error_db(finished, expected) > error_db(unfinished(image), expected) - 1.0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tier_gives_the_same(name: str) -> None:
    generator = made(CONFIGS[name])
    multiple = generator.multiple
    image = picture_for(generator, height=6 * multiple, width=18 * multiple)
    same_on_every_tier(fuse(generator, "bf16", matrix=True), image, "bf16")


@pytest.mark.skipif(not has_matrix_unit(), reason="takes minutes without a matrix unit")
@pytest.mark.parametrize("caches", CACHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_threads_and_bands_change_nothing(name: str, caches: str) -> None:
    generator = made(CONFIGS[name])
    fused = fuse(generator, "bf16", matrix=True)
    image = picture_for(generator, height=82, width=150)
    expected = fused(image)
    with forced_caches(CACHES[caches]):
        for count in (1, 3, 5):
            with threads(count):
                assert torch.equal(fused(image), expected), count


@pytest.mark.parametrize("name", ["srvgg", "rrdbnet"])
def test_what_lay_around_it_does_not_matter(name: str) -> None:
    """The border is zeros whatever the memory held."""
    generator = made(CONFIGS[name])
    fused = fuse(generator, "bf16", matrix=True)
    image = picture_for(generator, height=9, width=19)
    expected = fused(image)
    for height, width in [(9, 19), (19, 9), (12, 24)]:
        fused(torch.full_like(picture_for(generator, height=height, width=width), float("nan")))
        assert torch.equal(fused(image), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda step: setattr(step, "border", -1), "a step of an unknown kind"),
        (lambda step: setattr(step, "border", 17), "a step of an unknown kind"),
        (lambda step: setattr(step, "out_activation", 4), "a step of an unknown kind"),
        (lambda step: setattr(step, "out_slopes", 1 << 40), "weights at"),
        (lambda step: setattr(step, "writes_bfloat16", 0), "a step can't finish what it writes"),
        (lambda step: setattr(step, "has_norm", 1), "a step can't finish what it writes"),
        (lambda step: setattr(step, "out_room", 16), "no room for what a step makes"),
        (lambda step: setattr(step, "out_room", 40), "no room for what a step makes"),
        (lambda step: setattr(step, "out_second_residual", step.source), "a second residual alone"),
    ],
)
def test_a_damaged_finish_is_refused(change: Callable[[Step], None], message: str) -> None:
    generator = made(CONFIGS["srvgg"])
    fused = fuse(generator, "bf16", matrix=True)
    steps = steps_of(fused)
    assert steps[1].packing == Packing.MATRIX
    change(steps[1])
    with pytest.raises(RuntimeError, match=message):
        with_steps(fused, steps)(picture_for(generator, height=8, width=8))


def test_residuals_of_another_size_are_refused() -> None:
    fused = fuse(made(CONFIGS["srresnet"]), "bf16", matrix=True)
    steps = steps_of(fused)
    enlarging = next(step for step in steps if step.up == 2)
    enlarging.out_residual = enlarging.source
    with pytest.raises(RuntimeError, match="a residual of another shape or type"):
        with_steps(fused, steps)(torch.zeros(1, 3, 16, 16))


def test_vector_kernels_do_not_read_a_border() -> None:
    generator = made(CONFIGS["srvgg"])
    fused, vectors = fuse(generator, "bf16", matrix=True), fuse(generator, "bf16")
    steps, others = steps_of(fused), steps_of(vectors)
    steps[1] = others[1]
    with pytest.raises(RuntimeError, match="a step reads what has a border"):
        with_steps(fused, steps)(torch.zeros(1, 3, 16, 16))


@pytest.mark.skipif(not has_matrix_unit(), reason="takes minutes without a matrix unit")
def test_rows_of_a_band_by_chance() -> None:
    """Widths and heights that are no multiples of tiles, bands of every height."""
    chance = random.Random(0)
    generator = made(CONFIGS["rrdbnet"])
    fused = fuse(generator, "bf16", matrix=True)
    for _ in range(12):
        image = picture_for(generator, height=chance.randint(1, 70), width=chance.randint(1, 90))
        with threads(1), forced_caches((1 << 30, 8 << 20)):
            expected = fused(image)
        with threads(chance.randint(1, 5)), forced_caches((chance.choice((1, 4, 16)) << 16, 8 << 20)):
            assert torch.equal(fused(image), expected)
