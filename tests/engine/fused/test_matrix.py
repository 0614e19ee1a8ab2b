"""Fused generators on the matrix unit (AMX), or on its emulation where there is none.

The emulation gives the unit's very bits (tests/ops/test_matrix_unit.py) and takes a hundred times as long, so that
processors without AMX see smaller pictures.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from engine.backends import BACKENDS
from engine.fused.lowering import fuse, has_matrix_unit
from engine.fused.program import NONE, FusedGenerator, Packing, Step, steps_of
from engine.generators import GeneratorConfig, ResNetConfig, RRDBNetConfig
from tests.engine import small_generators
from tests.engine.fused.cases import CONFIGS, error_db, expected_of, made, picture_for, with_steps
from tests.engine.fused.matrix_cases import HAS_UNIT, LEAST, PRECISIONS, bfloat16_least, same_on_every_tier
from tests.engine.runners.test_packed import as_array, frame_of, packed
from tests.ops.cases import CACHES, ISAS, MATRIX_ISA, forced_caches, forced_isa, threads
from tests.tolerances import FUSED_THREADS_RTOL, MATRIX_FP32_DB

# --- whole generators


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_family(name: str, precision: str) -> None:
    generator = made(CONFIGS[name])
    height, width = (48, 64) if HAS_UNIT else (16, 16)
    image = picture_for(generator, height=height, width=width)
    fused = fuse(generator, precision, matrix=True)
    packings = {step.packing for step in steps_of(fused)}
    assert packings <= {Packing.MATRIX, Packing.MATRIX_LAST, Packing.DEPTHWISE, Packing.BILINEAR}
    actual, expected = fused(image), expected_of(generator, image)
    assert actual.shape == expected.shape
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert error_db(actual, expected) > (MATRIX_FP32_DB if precision == "fp32" else bfloat16_least(generator, image))


# Each kind of step: residuals that are kept, two sources, bands and few pixels, blocks of the picture with a base.
KINDS = ["resnet affine", "resnet separable batch norm", "unet instance norm", "srvgg x2 grey", "rrdbnet x1 grey"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", KINDS)
def test_the_emulation_gives_the_bits_of_the_unit(name: str, precision: str) -> None:
    generator = made(CONFIGS[name])
    image = picture_for(generator, height=16, width=24)
    same_on_every_tier(fuse(generator, precision, matrix=True), image, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_emulation_of_every_family(name: str, precision: str) -> None:
    generator = made(CONFIGS[name])
    image = picture_for(generator, height=16, width=32)
    same_on_every_tier(fuse(generator, precision, matrix=True), image, precision)


# --- what lies between the layers


def retyped(fused: FusedGenerator, chance: random.Random) -> FusedGenerator:
    """The same with float32 or bfloat16 between the layers, by chance."""
    steps = steps_of(fused)
    written: dict[int, list[tuple[Step, str]]] = {}
    for step in steps:
        written.setdefault(step.output, []).append((step, "writes_bfloat16"))
        written.setdefault(step.save, []).append((step, "saves_bfloat16"))
    assert all(step.packing in (Packing.MATRIX, Packing.MATRIX_LAST) for step in steps)
    added = {slot for step in steps if step.second_residual != NONE for slot in (step.residual, step.second_residual)}
    of_added = chance.randint(0, 1)
    for slot, writers in written.items():
        if slot == NONE:
            continue
        # What several steps write is of one type, and so are two residuals of one step.
        is_one = slot in added or any(step.appends for step, _ in writers)
        type_of_all = of_added if slot in added else chance.randint(0, 1)
        for step, name in writers:
            setattr(step, name, type_of_all if is_one else chance.randint(0, 1))
    return with_steps(fused, steps)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "config",
    [ResNetConfig(width=16, blocks=3), RRDBNetConfig(width=16, growth=16, blocks=1, scale=1)],
    ids=["resnet", "rrdbnet"],
)
def test_every_mixture_of_types(config: GeneratorConfig, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read, added and kept, each in float32 or bfloat16."""
    monkeypatch.setattr("engine.fused.steps._FINISHED", ())  # or residuals would be added by the steps before
    generator = made(config)
    image = picture_for(generator, height=20, width=36) if HAS_UNIT else picture_for(generator, height=8, width=12)
    expected = expected_of(generator, image)
    fused = fuse(generator, precision, matrix=True)
    chance = random.Random(0)
    for _ in range(12 if HAS_UNIT else 3):
        assert error_db(retyped(fused, chance)(image), expected) > bfloat16_least(generator, image)


@pytest.mark.parametrize(("width", "parity_db", "parts"), [(16, 50.0, 1), (16, 46.0, 2), (32, 60.0, 2)])
def test_first_layers_of_few_channels_are_as_exact_as_they_have_to_be(
    width: int, parity_db: float, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.fused.lowering.has_matrix_unit", lambda: True)
    generator = made(ResNetConfig(width=width, blocks=1))
    example = torch.zeros(1, 3, 16, 16, dtype=torch.bfloat16)
    compiled = BACKENDS["fused"].compile(generator, example, "bf16", lambda run: parity_db)
    assert isinstance(compiled, FusedGenerator)
    assert steps_of(compiled)[0].weight_terms == parts


def test_bf16_lies_between_the_layers_and_is_kept() -> None:
    """Residuals too, which other processors add in float32."""
    steps = steps_of(fuse(made(CONFIGS["resnet"]), "bf16", matrix=True))
    assert all(step.writes_bfloat16 for step in steps[:-1])
    assert [step.saves_bfloat16 for step in steps if step.save != NONE]
    assert all(step.saves_bfloat16 for step in steps if step.save != NONE)
    exact = steps_of(fuse(made(CONFIGS["resnet"]), "fp32", matrix=True))
    assert not any(step.writes_bfloat16 or step.saves_bfloat16 for step in exact)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["resnet no norm", "unet instance norm", "srvgg x2 grey", "rrdbnet x2 odd widths"])
def test_what_the_memory_held_before_does_not_matter(name: str, precision: str) -> None:
    """NaN of other pictures and programs, beside the rows and beyond the channels that a layer has written."""
    generator = made(CONFIGS[name])
    fused = fuse(generator, precision, matrix=True)
    image = picture_for(generator, height=16, width=32)
    expected = fused(image)
    assert expected.isfinite().all()
    others = [fused, fuse(generator, "fp32"), fuse(generator, "bf16", matrix=True)]
    for other, (height, width) in itertools.product(others, [(16, 32), (32, 24), (24, 40)]):
        if height % generator.multiple or width % generator.multiple:
            continue
        other(torch.full_like(picture_for(generator, height=height, width=width), float("nan")))
        assert torch.equal(fused(image), expected), (height, width)


# --- threads, caches, batches, frames


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["resnet", "resnet no norm", "unet", "transformer", "srvgg", "rrdbnet x2 odd widths"])
def test_threads_change_no_more_than_rounding(name: str, precision: str) -> None:
    """Of sums over a plane, which norms are made of; in bfloat16 these may tip a value to the other neighbour."""
    generator = made(CONFIGS[name])
    fused = fuse(generator, precision, matrix=True)
    image = picture_for(generator, height=48, width=64) if HAS_UNIT else picture_for(generator, height=16, width=16)
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            results.append(fused(image))
    has_norm = any(step.has_norm for step in steps_of(fused))
    for other in results[1:]:
        if not has_norm:
            assert torch.equal(results[0], other)
        elif precision == "fp32":
            assert torch.allclose(results[0], other, atol=FUSED_THREADS_RTOL * float(results[0].abs().max()))
        else:
            assert error_db(other, expected_of(generator, image)) > bfloat16_least(generator, image)


@pytest.mark.skipif(not HAS_UNIT, reason="takes minutes without a matrix unit")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("caches", CACHES)
@pytest.mark.parametrize("name", ["resnet", "unet instance norm", "rrdbnet x1 grey"])
def test_bands_and_writing_past_the_caches(name: str, caches: str, precision: str) -> None:
    """Pictures of several bands a thread, with rows that are kept at their borders."""
    generator = made(CONFIGS[name])
    image = picture_for(generator, height=208, width=272)
    with forced_caches(CACHES[caches]), threads(3):
        actual = fuse(generator, precision, matrix=True)(image)
    assert error_db(actual, expected_of(generator, image)) > LEAST[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["resnet", "srvgg"])
def test_batches_are_their_images(name: str, precision: str) -> None:
    generator = made(CONFIGS[name])
    fused = fuse(generator, precision, matrix=True)
    images = picture_for(generator, height=16, width=20, count=3)
    assert torch.equal(fused(images), torch.cat([fused(image[None]) for image in images]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts_and_parts_of_larger_images(dtype: torch.dtype) -> None:
    generator = made(CONFIGS["resnet"])
    fused = fuse(generator, "bf16", matrix=True)
    larger = picture_for(generator, height=32, width=48).to(dtype)
    part = larger[:, :, 8:24, 8:32]
    expected = fused(part.contiguous())
    assert torch.equal(fused(part), expected)
    assert torch.equal(fused(part.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("precision", [*PRECISIONS, "fast"])
@pytest.mark.parametrize("name", small_generators.CONFIGS)
def test_packed_generators_give_the_bits_of_the_operator(name: str, precision: str, tmp_path: Path) -> None:
    generator = small_generators.small_generator(name)
    fused = fuse(generator, precision, matrix=True)
    run = packed(generator, fused, tmp_path)
    height, width = run.facts.padded_size(30, 37)
    image = picture_for(generator, height=height, width=width)
    with threads(2):
        assert torch.equal(torch.from_numpy(run(as_array(image))), torch.from_numpy(as_array(fused(image))))
    assert run.translate(frame_of(37, 30)).shape == (30 * generator.scale, 37 * generator.scale, 3)


def test_the_unit_is_found_where_it_is() -> None:
    for isa in ISAS:
        with forced_isa(isa):
            assert has_matrix_unit() == (isa == MATRIX_ISA)
