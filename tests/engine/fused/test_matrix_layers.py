"""Single layers on the matrix unit (AMX), or on its emulation, at odd sizes and widths."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from engine.fused.lowering import fuse
from engine.generators import Generator
from tests.engine.fused.cases import error_db, expected_of, picture_for
from tests.engine.fused.matrix_cases import HAS_UNIT, LEAST, PRECISIONS, chained, same_on_every_tier
from tests.ops.cases import forced_caches, threads


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
