"""The algorithms and tiles of convolutions, and which of them a precision takes, on every instruction set."""

from __future__ import annotations

import pytest
import torch

from engine import _native
from engine.backends import BACKENDS
from engine.errors import BackendError
from engine.fused import lowering
from engine.fused import steps as steps_module
from engine.fused.lowering import fuse
from engine.fused.program import TILES, FusedGenerator, Packing, retiled, steps_of
from engine.generators import GeneratorConfig, ResNetConfig, TransformerNetConfig, UNetConfig
from tests.engine.fused.cases import error_db, expected_of, made, picture_for
from tests.ops.cases import CACHES, ISAS, MATRIX_ISA, NO_MATRIX_ISAS, forced_caches, forced_isa, threads
from tests.tolerances import FUSED_BF16_DB, FUSED_FAST_DB, FUSED_FP32_DB, FUSED_TILES8_DB

PAIRS: dict[str, GeneratorConfig] = {
    "unet": UNetConfig(width=32, downsamplings=3),
    "unet instance norm": UNetConfig(width=32, downsamplings=3, norm="instance", bias=True, widths=(32, 48, 40)),
    "resnet nearest": ResNetConfig(width=32, blocks=1, upsampling="nearest"),
    "transformer": TransformerNetConfig(width=32, blocks=1),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PAIRS)
def test_winograd_of_pairs(name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strided 4x4 kernels and phases of 2x2 taps, on pictures of few tiles, which are small ones, and of many.

    The tiles of the last picture are shared by all phases, which takes one more a row and a column.
    """
    monkeypatch.setattr(steps_module, "_WINOGRAD_SIDE", 1)
    generator = made(PAIRS[name])
    for height, width in [(16, 24), (64, 64), (40, 264), (72, 152), (136, 264)]:
        image = picture_for(generator, height=height, width=width)
        expected = expected_of(generator, image)
        for precision, least in (("fp32", FUSED_FP32_DB), ("bf16", FUSED_BF16_DB)):
            fused = fuse(generator, precision, tile=(2, 2))
            assert Packing.WINOGRAD_PAIRS in [step.packing for step in steps_of(fused)]
            with forced_isa(isa):
                assert error_db(fused(image), expected) > least, (height, width, precision)


STRIDED: dict[str, GeneratorConfig] = {
    "resnet": ResNetConfig(width=32, blocks=1),
    "resnet reflect down": ResNetConfig(width=32, blocks=1, downsampling_padding="reflect"),
    "resnet odd widths": ResNetConfig(blocks=1, widths=(34, 50, 40, 36, 33), block_widths=(32,)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", STRIDED)
def test_winograd_of_strided_and_transposed(name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """3x3 kernels of stride 2 and transposed ones, on pictures whose last tiles are only partly there."""
    monkeypatch.setattr(steps_module, "_WINOGRAD_SIDE", 1)
    monkeypatch.setattr(steps_module, "_WINOGRAD_DEEP_CHANNELS", 32)
    generator = made(STRIDED[name])
    for height, width in [(16, 24), (20, 12), (36, 268), (72, 148)]:
        image = picture_for(generator, height=height, width=width)
        expected = expected_of(generator, image)
        for precision, least in (("fp32", FUSED_FP32_DB), ("bf16", FUSED_BF16_DB)):
            fused = fuse(generator, precision)
            assert {Packing.WINOGRAD_STRIDED, Packing.WINOGRAD_TRANSPOSED} <= {step.packing for step in steps_of(fused)}
            with forced_isa(isa):
                assert error_db(fused(image), expected) > least, (height, width, precision)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_size_of_tiles(tile: tuple[int, int], dtype: torch.dtype, isa: str) -> None:
    """At odd sizes; pictures of few tiles of 8x8 are multiplied in smaller ones."""
    precision = "fp32" if dtype == torch.float32 else "bf16"
    generator = made(ResNetConfig(width=32, blocks=2, downsamplings=0))
    if tile == (8, 8) and precision == "bf16":
        with pytest.raises(BackendError, match="8x8"):
            fuse(generator, precision, tile=tile)
        return
    fused = fuse(generator, precision, tile=tile)
    assert TILES[tile] in [step.packing for step in steps_of(fused)]
    for height, width in [(5, 7), (9, 34), (13, 131), (24, 40), (33, 65)]:
        image = picture_for(generator, height=height, width=width)
        with forced_isa(isa):
            actual = fused(image)
        float32_least = FUSED_TILES8_DB if tile == (8, 8) else FUSED_FP32_DB
        least = float32_least if precision == "fp32" else FUSED_BF16_DB
        assert error_db(actual, expected_of(generator, image)) > least, (height, width)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("width", "height"), [(32, 250), (128, 60)])
def test_pictures_of_several_chunks_and_parts(width: int, height: int, precision: str, isa: str) -> None:
    """Of 2 MB of transformed tiles, whose products are more than half of a cache; with more threads than channels.

    Where all transformed kernels are a small part of a core's cache, these are several segments a row of tiles.
    """
    generator = made(ResNetConfig(width=width, blocks=1, downsamplings=0))
    fused = fuse(generator, precision)
    image = picture_for(generator, height=height, width=187)
    expected = expected_of(generator, image)
    for count, caches in ((1, "small caches"), (2, "large caches"), (5, "small caches")):
        with forced_isa(isa), forced_caches(CACHES[caches]), threads(count):
            assert error_db(fused(image), expected) > (FUSED_TILES8_DB if precision == "fp32" else FUSED_BF16_DB), count


def test_other_tiles_on_the_same_weights() -> None:
    generator = made(ResNetConfig(width=32, blocks=1, downsamplings=0))
    image = picture_for(generator)
    other = retiled(fuse(generator, "bf16", tile=(4, 2)), (4, 4))
    assert torch.equal(other(image), fuse(generator, "bf16", tile=(4, 4))(image))


@pytest.mark.parametrize(("parity", "tile"), [(70.0, (4, 4)), (48.0, (4, 2)), (46.0, (2, 2)), (20.0, (2, 2))])
def test_tiles_of_bf16_are_as_large_as_the_frame_allows(
    parity: float, tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowering, "multiplies_bf16_fast", lambda isa: True)
    generator = made(ResNetConfig(width=32, blocks=1, downsamplings=0))
    example = torch.zeros(1, 3, 16, 16, dtype=torch.bfloat16)
    with forced_isa(NO_MATRIX_ISAS[-1]):
        chosen = BACKENDS["fused"].compile(generator, example, "bf16", lambda run: parity)
    assert isinstance(chosen, FusedGenerator)
    assert TILES[tile] in [step.packing for step in steps_of(chosen)]


@pytest.mark.parametrize("precision", ["bf16", "fast"])
def test_where_bf16_arithmetic_is_slow_float32_is_multiplied(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "multiplies_bf16_fast", lambda isa: False)
    generator = made(ResNetConfig(width=32, blocks=2))
    image = picture_for(generator)
    example = torch.zeros(1, 3, 16, 16, dtype=torch.bfloat16)
    with forced_isa(NO_MATRIX_ISAS[-1]):
        chosen = BACKENDS["fused"].compile(generator, example, precision, lambda run: 1 / 0)
    assert isinstance(chosen, FusedGenerator)
    assert int(chosen.program[1]) == 0  # float32
    assert any(step.writes_bfloat16 for step in steps_of(chosen))
    assert FUSED_BF16_DB < error_db(chosen(image), expected_of(generator, image)) < FUSED_FP32_DB


@pytest.mark.parametrize("isa", ISAS)
def test_bf16_arithmetic_is_measured(isa: str) -> None:
    rates = [_native.peak(kind, 1, 0.02, isa) for kind in ("float32", "bf16")]
    if rates[1] is None or not 0.8 < rates[1] / rates[0] < 1.25:  # nearer than that, the two runs may differ
        assert lowering.multiplies_bf16_fast(isa) == (rates[1] is not None and rates[1] > rates[0])


@pytest.mark.skipif(MATRIX_ISA not in ISAS, reason="this processor has no matrix unit")
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", 0), ("bf16", 1), ("fast", 1)])
def test_a_matrix_unit_is_used_where_it_is(precision: str, dtype: int) -> None:
    """Without a look at a frame."""
    generator = made(ResNetConfig(width=32, blocks=1, downsamplings=0))
    example = torch.zeros(1, 3, 16, 16, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
    with forced_isa(MATRIX_ISA):
        chosen = BACKENDS["fused"].compile(generator, example, precision, lambda run: 1 / 0)
    assert isinstance(chosen, FusedGenerator)
    assert {step.packing for step in steps_of(chosen)} == {Packing.MATRIX, Packing.MATRIX_LAST}
    assert int(chosen.program[1]) == dtype


def test_fast_multiplies_less_and_bf16_is_nearer() -> None:
    generator = made(ResNetConfig(width=32, blocks=3, downsamplings=0))
    image = picture_for(generator)
    expected = expected_of(generator, image)
    errors = {precision: error_db(fuse(generator, precision)(image), expected) for precision in ("bf16", "fast")}
    assert FUSED_FAST_DB < errors["fast"] < errors["bf16"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tiles_of_one_pixel(isa: str, precision: str) -> None:
    """Blocks at an odd size, which Winograd's last tiles are only partly in."""
    generator = made(ResNetConfig(width=32, blocks=2, downsamplings=0))
    for height, width in [(5, 7), (9, 33), (13, 130), (4, 4), (6, 5)]:
        image = picture_for(generator, height=height, width=width)
        with forced_isa(isa):
            actual = fuse(generator, precision)(image)
        assert error_db(actual, expected_of(generator, image)) > (
            FUSED_FP32_DB if precision == "fp32" else FUSED_BF16_DB
        ), (height, width)
