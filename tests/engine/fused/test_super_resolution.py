"""Fused generators whose picture is larger than the image: scales, sizes, damaged programs."""

from __future__ import annotations

import pytest
import torch

from engine.fused.lowering import fuse
from engine.fused.program import NONE, TILES, Packing, steps_of
from engine.generators import GeneratorConfig, RRDBNetConfig, SRResNetConfig, SRVGGConfig
from tests.engine.fused.cases import damaged, error_db, expected_of, made, picture_for, runs_on, with_steps
from tests.ops.cases import CACHES, ISAS, forced_caches, forced_isa, threads
from tests.tolerances import FUSED_BF16_DB, FUSED_TILES8_DB

# Of 32 channels and more, which Winograd multiplies.
CONFIGS: dict[str, GeneratorConfig] = {
    "srvgg x1": SRVGGConfig(width=36, convolutions=1, scale=1),
    "srvgg x2": SRVGGConfig(width=36, convolutions=1, scale=2),
    "srvgg x4": SRVGGConfig(width=32, convolutions=1),
    "srresnet x2": SRResNetConfig(width=48, blocks=1, scale=2),
    "srresnet x3": SRResNetConfig(width=40, blocks=1, scale=3),
    "srresnet x4": SRResNetConfig(width=32, blocks=1),
    "rrdbnet x1": RRDBNetConfig(width=32, growth=32, blocks=1, scale=1),
    "rrdbnet x2": RRDBNetConfig(width=40, growth=34, blocks=1, scale=2),
    "rrdbnet x4": RRDBNetConfig(width=32, growth=32, blocks=2),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_scale_and_size(name: str, isa: str) -> None:
    """Odd sizes, one pixel (or the smallest multiple), and one that is worked on in several parts."""
    generator = made(CONFIGS[name])
    fused = {precision: fuse(generator, precision) for precision in ("fp32", "bf16")}
    unit = generator.multiple
    for height, width, caches in [(1, 1, "small caches"), (9, 17, "large caches"), (21, 35, "small caches")]:
        image = picture_for(generator, height=height * unit, width=width * unit)
        expected = expected_of(generator, image)
        for precision, least in (("fp32", FUSED_TILES8_DB), ("bf16", FUSED_BF16_DB)):
            with forced_isa(isa), forced_caches(CACHES[caches]), threads(2):
                actual = fused[precision](image)
            assert actual.shape == expected.shape
            if actual.numel() > 100:
                assert error_db(actual, expected) > least, (height, width, precision)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tile", TILES)
def test_shuffles_of_every_tile(tile: tuple[int, int], isa: str) -> None:
    """Four and nine phases of one transformed input, by several threads."""
    for scale in (2, 3):
        generator = made(SRResNetConfig(width=40, blocks=1, scale=scale))
        fused = fuse(generator, "fp32", tile=tile)
        assert any(step.shuffles and step.packing == TILES[tile] for step in steps_of(fused))
        image = picture_for(generator, height=19, width=70)
        expected = expected_of(generator, image)
        for count in (1, 3):
            with forced_isa(isa), threads(count):
                assert error_db(fused(image), expected) > FUSED_TILES8_DB, (scale, count)


@pytest.mark.parametrize("isa", ISAS)
def test_dense_blocks_too_large_for_the_caches(isa: str) -> None:
    """Written past them, beside what is there."""
    generator = made(RRDBNetConfig(width=16, growth=16, blocks=1, scale=1))
    image = picture_for(generator, height=4 * 130, width=4 * 192)
    with forced_isa(isa), forced_caches(CACHES["small caches"]), threads(2):
        assert error_db(fuse(generator, "fp32")(image), generator(image).double()) > FUSED_TILES8_DB


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["fp32", "fast"])
def test_transformed_input_that_is_kept_gives_the_same_bits(precision: str, isa: str) -> None:
    """In a dense block each convolution transforms new channels alone."""
    generator = made(CONFIGS["rrdbnet x4"])
    fused, image = fuse(generator, precision), picture_for(generator, height=21, width=35)
    steps = steps_of(fused)
    assert [step.same_channels for step in steps[1:6]] == [0, 32, 64, 96, 128]
    for step in steps:
        step.kept_channels = 0
    for count in (1, 3):
        with forced_isa(isa), threads(count):
            assert torch.equal(fused(image), with_steps(fused, steps)(image)), count


def test_transformed_input_of_another_step_is_not_taken() -> None:
    """Of other channels, or of a step that did not keep it."""
    generator = made(CONFIGS["rrdbnet x4"])
    fused, image = fuse(generator, "fp32"), picture_for(generator, height=21, width=35)
    expected = fused(image)
    steps = steps_of(fused)
    for step in steps:
        step.same_channels = 4096 if step.same_channels else 0
    assert torch.equal(with_steps(fused, steps)(image), expected)
    steps = steps_of(fused)
    for step in steps[1::2]:
        step.kept_channels = 0
    assert torch.equal(with_steps(fused, steps)(image), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("config", [SRVGGConfig(width=16, convolutions=0), SRResNetConfig(width=16, blocks=1, scale=3)])
def test_neighbours_of_pixels_that_are_not_finite(config: GeneratorConfig, isa: str) -> None:
    """What reads a vector at a time must not bring them to other pixels than the modules do."""
    generator = made(config)
    image = picture_for(generator, height=20, width=40)
    image[:, :, 9, 20] = float("inf")
    expected = expected_of(generator, image).isfinite()
    with forced_isa(isa):
        actual = fuse(generator, "fp32")(image).isfinite()
    assert not expected.all()
    assert torch.equal(actual & expected, expected)


DAMAGED = [
    SRVGGConfig(width=8, convolutions=0, scale=2),
    SRResNetConfig(width=8, blocks=1, scale=3),
    RRDBNetConfig(width=8, growth=8, blocks=1, scale=2),
]


@pytest.mark.parametrize("config", DAMAGED, ids=["srvgg", "srresnet", "rrdbnet"])
def test_a_damaged_program_is_refused(config: GeneratorConfig) -> None:
    """Every number of it made nonsense: an error, or a result, and nothing outside of its memory."""
    generator = made(config)
    fused, image = fuse(generator, "fp32"), picture_for(generator, height=4, width=6)
    values = (-7, 1, 10**9)
    with threads(1):
        runs = [runs_on(damaged(fused, p, value), image) for p in range(len(fused.program)) for value in values]
    assert runs.count(False) > len(runs) / 8


class TestRefused:
    def test_images_whose_picture_has_no_whole_scale(self) -> None:
        fused = fuse(made(CONFIGS["rrdbnet x2"]), "fp32")
        with pytest.raises(RuntimeError, match="isn't a multiple of the image"):
            fused(torch.zeros(1, 3, 9, 12))

    def test_another_scale(self) -> None:
        fused = fuse(made(CONFIGS["srvgg x2"]), "fp32")
        fused.scale = 4
        with pytest.raises(RuntimeError, match="2 times as large as the image, not 4"):
            fused(torch.zeros(1, 3, 8, 8))

    def test_appending_what_has_no_room(self) -> None:
        fused = fuse(made(CONFIGS["rrdbnet x4"]), "fp32")
        steps = steps_of(fused)
        keeping = next(step for step in steps if step.save_channels > 0)
        keeping.save_channels -= 32
        with pytest.raises(RuntimeError, match="appends what has no room"):
            with_steps(fused, steps)(torch.zeros(1, 3, 8, 8))

    def test_appending_to_nothing(self) -> None:
        fused = fuse(made(CONFIGS["rrdbnet x4"]), "fp32")
        steps = steps_of(fused)
        steps[0].appends = 1
        with pytest.raises(RuntimeError, match="reads what nothing has written"):
            with_steps(fused, steps)(torch.zeros(1, 3, 8, 8))

    def test_a_second_residual_alone(self) -> None:
        fused = fuse(made(CONFIGS["rrdbnet x4"]), "fp32")
        steps = steps_of(fused)
        adding = next(step for step in steps if step.second_residual >= 0)
        adding.residual = NONE
        with pytest.raises(RuntimeError, match="a second residual alone"):
            with_steps(fused, steps)(torch.zeros(1, 3, 8, 8))

    def test_an_image_added_to_no_picture(self) -> None:
        fused = fuse(made(CONFIGS["srvgg x4"]), "fp32")
        steps = steps_of(fused)
        assert steps[-1].packing == Packing.SHUFFLE
        steps[0].base = 1
        with pytest.raises(RuntimeError, match="the image is added to something else"):
            with_steps(fused, steps)(torch.zeros(1, 3, 8, 8))
