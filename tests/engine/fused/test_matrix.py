"""Fused generators on the matrix unit (AMX), or on its emulation where there is none.

The emulation gives the unit's very bits (tests/ops/test_matrix_unit.py) and takes a hundred times as long, so that
processors without AMX see smaller pictures.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.backends import BACKENDS
from engine.errors import BackendError
from engine.fused.lowering import fuse, has_matrix_unit
from engine.fused.program import NONE, FusedGenerator, Packing, Step, steps_of
from engine.generators import Generator, GeneratorConfig, ResNet, ResNetConfig, RRDBNetConfig, SRVGGConfig, build
from tests.engine import small_generators
from tests.engine.fused.test_lowering import (
    CONFIGS,
    damaged,
    error_db,
    expected_of,
    made,
    picture_for,
    runs_on,
    with_steps,
    with_weights,
)
from tests.engine.runners.test_packed import as_array, frame_of, packed
from tests.ops.cases import CACHES, ISAS, MATRIX_ISA, forced_caches, forced_isa, threads
from tests.tolerances import (
    FUSED_THREADS_RTOL,
    MATRIX_BF16_BELOW_EAGER_DB,
    MATRIX_BF16_DB,
    MATRIX_FP32_DB,
    MATRIX_OTHER_ROUNDING_DB,
)

HAS_UNIT = MATRIX_ISA in ISAS
# Tiers whose vectors round as each other's.
ALIKE = [isa for isa in ISAS if isa != "scalar"]
PRECISIONS = ["fp32", "bf16"]
LEAST = {"fp32": MATRIX_FP32_DB, "bf16": MATRIX_BF16_DB}


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


def bfloat16_least(generator: Generator, image: Tensor) -> float:
    eager = copy.deepcopy(generator).bfloat16()(image.bfloat16())
    return error_db(eager, expected_of(generator, image)) - MATRIX_BF16_BELOW_EAGER_DB


# Each kind of step: residuals that are kept, two sources, bands and few pixels, blocks of the picture with a base.
KINDS = ["resnet affine", "resnet separable batch norm", "unet instance norm", "srvgg x2 grey", "rrdbnet x1 grey"]


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


# --- single layers


def chained(*layers: nn.Module, pictures: int = 3, scale: int = 1) -> Generator:
    """A generator of these layers alone."""
    generator = build(ResNetConfig(width=8, blocks=0, out_channels=pictures))
    assert isinstance(generator, ResNet)
    generator.model, generator.scale = nn.Sequential(*layers), scale
    torch.manual_seed(0)
    return with_weights(generator)


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is tested, between a first layer with a kernel of `first` pixels and `first_pad`, and a last one.

    Attributes:
        stride: by which it makes the picture smaller; the last layer makes it as much larger.
        scale: by which it makes it larger.
    """

    in_channels: int
    module: nn.Module
    out_channels: int
    stride: int = 1
    scale: int = 1
    first: int = 3
    first_pad: int = 1

    def generator(self, *, norm: bool) -> Generator:
        last = nn.Conv2d(self.out_channels, 3, 1)
        return chained(
            nn.Conv2d(3, self.in_channels, self.first, padding=self.first_pad),
            nn.ReLU(),
            self.module,
            *([nn.InstanceNorm2d(self.out_channels)] if norm else []),
            nn.LeakyReLU(0.2),
            last if self.stride == 1 else nn.ConvTranspose2d(self.out_channels, 3, 4, 2, 1),
            scale=self.scale,
        )


def convolution(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, mode: str = "zeros") -> Layer:
    """Of as many outputs as inputs, or half as many."""
    before, after = (kernel - stride + 1) // 2, (kernel - stride) // 2
    if before == after or stride == 2:
        return Layer(
            in_channels,
            nn.Conv2d(in_channels, out_channels, kernel, stride, before, padding_mode=mode),
            out_channels,
            stride,
        )
    padded = nn.Sequential(nn.ReflectionPad2d((after, before) * 2), nn.Conv2d(in_channels, out_channels, kernel))
    return Layer(in_channels, padded, out_channels)


def transposed(in_channels: int, out_channels: int, kernel: int, pad: int, more: int) -> Layer:
    module = nn.ConvTranspose2d(in_channels, out_channels, kernel, 2, pad, more)
    return Layer(in_channels, module, out_channels, scale=2)


def enlarged(in_channels: int, out_channels: int, mode: str) -> Layer:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=mode)
    return Layer(in_channels, nn.Sequential(nn.Upsample(scale_factor=2), convolution), out_channels, scale=2)


def shuffled(in_channels: int, out_channels: int, factor: int) -> Layer:
    convolution = nn.Conv2d(in_channels, out_channels * factor**2, 3, padding=1)
    return Layer(in_channels, nn.Sequential(convolution, nn.PixelShuffle(factor)), out_channels, scale=factor)


# Blocks of input channels of 32 and 16, groups of output channels of 32 and 16, and channels that are only stored.
LAYERS: dict[str, Layer] = {
    "1x1, 32 to 48": convolution(32, 48, 1),
    "1x1, 16 to 80": convolution(16, 80, 1),
    "3x3, 16 to 16": convolution(16, 16, 3),
    "3x3, 48 to 80, reflect": convolution(48, 80, 3, mode="reflect"),
    "3x3, 10 to 33, replicate": convolution(10, 33, 3, mode="replicate"),
    "3x3, more padding than kernel": Layer(80, nn.Conv2d(80, 32, 3, padding=2), 32, first_pad=0),
    "3x3 by 2, 32 to 48": convolution(32, 48, 3, stride=2),
    "3x3 by 2, 48 to 10, reflect": convolution(48, 10, 3, stride=2, mode="reflect"),
    "3x3 by 2, odd": dataclasses.replace(convolution(16, 48, 3, stride=2), first=2, first_pad=0),
    "4x4 by 2, 16 to 32": convolution(16, 32, 4, stride=2),
    "4x4 by 2, 80 to 16, replicate": convolution(80, 16, 4, stride=2, mode="replicate"),
    "4x4, 32 to 32": convolution(32, 32, 4),
    "5x5, 48 to 16": convolution(48, 16, 5),
    "7x7, 16 to 32, reflect": convolution(16, 32, 7, mode="reflect"),
    "9x9, 48 to 16": convolution(48, 16, 9),
    "3x3 transposed, 32 to 16": transposed(32, 16, 3, 1, 1),
    "3x3 transposed, 80 to 48": transposed(80, 48, 3, 1, 1),
    "4x4 transposed, 16 to 16": transposed(16, 16, 4, 1, 0),
    "2x2 transposed, 20 to 40": transposed(20, 40, 2, 0, 0),
    "6x6 transposed, 48 to 32": transposed(48, 32, 6, 2, 0),
    "enlarged, 16 to 48": enlarged(16, 48, "zeros"),
    "enlarged, 48 to 16, replicate": enlarged(48, 16, "replicate"),
    "shuffled x2, 32 to 20": shuffled(32, 20, 2),
    "shuffled x3, 16 to 48": shuffled(16, 48, 3),
}
# Height, width of what the layer's kernel is put on: pixels that are gathered, whole rows of few pixels, and bands;
# around tiles of 16 pixels by two rows.
SIZES = [(1, 1), (1, 17), (2, 31), (5, 7), (15, 16), (17, 15), (19, 33), (2, 150), (300, 1), (33, 18)]
EMULATED_SIZES = [(1, 1), (1, 17), (5, 7), (19, 15)]


def assert_near(generator: Generator, sizes: Iterable[tuple[int, int]]) -> int:
    """Compares with float64 on those sizes that the generator takes; returns how many these are."""
    fused = {precision: fuse(generator, precision, matrix=True) for precision in PRECISIONS}
    tested = 0
    for height, width in sizes:
        image = picture_for(generator, height=height, width=width)
        try:
            expected = expected_of(generator, image)
        except RuntimeError:  # too small for its padding
            continue
        for precision in PRECISIONS:
            actual = fused[precision](image)
            assert actual.shape == expected.shape
            assert relative_db(actual, expected) > LEAST[precision], (height, width, precision)
        tested += 1
    return tested


def relative_db(actual: Tensor, expected: Tensor) -> float:
    """As `error_db`, of pictures that may be a single pixel."""
    noise = (actual.double() - expected).square().mean()
    return float(10 * torch.log10(expected.square().mean() / noise))


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_at_every_size(name: str) -> None:
    layer = LAYERS[name]
    sizes = [(h * layer.stride, w * layer.stride) for h, w in (SIZES if HAS_UNIT else EMULATED_SIZES)]
    assert assert_near(layer.generator(norm=False), sizes) > len(sizes) / 3
    # A variance takes some pixels.
    assert assert_near(layer.generator(norm=True), [size for size in sizes if min(size) >= 10]) > 0


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_on_every_tier(name: str, precision: str) -> None:
    layer = LAYERS[name]
    generator = layer.generator(norm=True)
    image = picture_for(generator, height=5 * layer.stride, width=18 * layer.stride)
    same_on_every_tier(fuse(generator, precision, matrix=True), image, precision)


@pytest.mark.skipif(not HAS_UNIT, reason="takes minutes without a matrix unit")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_many_weights_for_few_rows(precision: str) -> None:
    """Threads share out the output channels, and of a row of pixels nothing is gathered."""
    generator = convolution(384, 400, 3).generator(norm=False)
    fused = fuse(generator, precision, matrix=True)
    for height, width in [(9, 33), (5, 80)]:
        image = picture_for(generator, height=height, width=width)
        for count in (1, 2, 5):
            with threads(count):
                assert error_db(fused(image), expected_of(generator, image)) > LEAST[precision], (height, width, count)


@pytest.mark.parametrize("first_pad", [0, 2])
def test_a_last_layer_with_other_padding_than_the_first(first_pad: int) -> None:
    """What it reads is two rows and columns smaller than the picture, or larger."""
    generator = chained(nn.Conv2d(3, 16, 3, padding=first_pad), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=2 - first_pad))
    assert assert_near(generator, [(3, 4), (9, 20), (16, 16), (17, 35)]) == 4


FIRST_AND_LAST = [(1, "zeros"), (3, "zeros"), (3, "reflect"), (7, "reflect"), (9, "reflect"), (7, "replicate")]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("kernel", "mode"), FIRST_AND_LAST)
def test_first_and_last_layers(kernel: int, mode: str, precision: str) -> None:
    """Rows of taps of the image, and blocks of 2x2 pixels of few channels that go beyond the picture at odd sizes."""
    pad = kernel // 2
    for pictures in (1, 2, 3, 4, 5, 9):
        generator = chained(
            nn.Conv2d(3, 18, kernel, padding=pad, padding_mode=mode),
            nn.ReLU(),
            nn.Conv2d(18, pictures, kernel, padding=pad, padding_mode=mode),
            nn.Tanh(),
            pictures=pictures,
        )
        fused = fuse(generator, precision, matrix=True)
        for height, width in [(1, 1), (5, 6), (10, 15), (9, 64), (7, 129)] if HAS_UNIT else [(1, 1), (5, 17)]:
            if mode == "reflect" and pad >= min(height, width):
                continue
            image = picture_for(generator, height=height, width=width)
            expected = expected_of(generator, image)
            assert relative_db(fused(image), expected) > LEAST[precision], (pictures, height, width)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_UNIT, reason="takes hours without a matrix unit")
@pytest.mark.parametrize("seed", range(60))
def test_layers_by_chance(seed: int) -> None:
    chance = random.Random(seed)
    widths = chance.randint(1, 70), chance.randint(1, 70)
    layer = chance.choice(
        [
            convolution(*widths, chance.randint(1, 9)),
            convolution(*widths, chance.randint(2, 9), stride=2),
            transposed(*widths, *chance.choice([(2, 0, 0), (3, 1, 1), (4, 1, 0), (5, 2, 1)])),
            enlarged(*widths, chance.choice(("zeros", "replicate"))),
            shuffled(*widths, chance.choice((2, 3))),
        ]
    )
    generator = layer.generator(norm=False)
    for _ in range(6):
        size = (chance.randint(1, 70) * layer.stride, chance.randint(1, 140) * layer.stride)
        with threads(chance.randint(1, 5)), forced_caches((chance.choice((1, 8, 64)) << 16, 8 << 20)):
            assert_near(generator, [size])


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


# --- programs that are no good

DAMAGED: dict[str, GeneratorConfig] = {
    "resnet": ResNetConfig(width=8, blocks=1, downsamplings=1),
    "srvgg": SRVGGConfig(width=8, convolutions=0, scale=2),
    "rrdbnet": RRDBNetConfig(width=8, growth=8, blocks=1, scale=2),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_program_is_refused(name: str, precision: str) -> None:
    """Every number of it made nonsense: an error, or a result, and nothing outside of its memory."""
    generator = made(DAMAGED[name])
    fused, image = fuse(generator, precision, matrix=True), picture_for(generator, height=4, width=6)
    values = (-7, 1, 10**9) if HAS_UNIT else (-7, 10**9)
    with threads(1):
        runs = [runs_on(damaged(fused, p, value), image) for p in range(len(fused.program)) for value in values]
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
