"""The fused generator against the modules it stands for, on every instruction set."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine import _native, ops
from engine.backends import BACKENDS
from engine.errors import BackendError
from engine.fused import lowering
from engine.fused import steps as steps_module
from engine.fused.lowering import fuse
from engine.fused.program import TILES, FusedGenerator, Packing, Step, retiled, steps_of
from engine.generators import (
    AnimeGANConfig,
    Generator,
    GeneratorConfig,
    ResNet,
    ResNetConfig,
    RRDBNetConfig,
    SRResNetConfig,
    SRVGGConfig,
    TransformerNetConfig,
    UNetConfig,
    build,
)
from tests.ops.cases import CACHES, ISAS, MATRIX_ISA, NO_MATRIX_ISAS, forced_caches, forced_isa, threads
from tests.tolerances import (
    FUSED_BF16_DB,
    FUSED_FAST_DB,
    FUSED_FP32_DB,
    FUSED_HALVES_DB,
    FUSED_THREADS_RTOL,
    FUSED_TILES8_DB,
)

# All of the families, small; widths that are no multiple of a channel block among them.
CONFIGS: dict[str, GeneratorConfig] = {
    "resnet": ResNetConfig(width=16, blocks=2),
    "resnet affine": ResNetConfig(width=8, blocks=1, affine=True),
    "resnet batch norm": ResNetConfig(width=8, blocks=1, norm="batch", bias=False),
    "resnet no norm": ResNetConfig(width=8, blocks=1, norm="none"),
    "resnet nearest": ResNetConfig(width=16, blocks=1, upsampling="nearest"),
    "resnet zero padding": ResNetConfig(width=16, blocks=1, block_padding="zeros", outer_padding="zeros"),
    "resnet reflect down": ResNetConfig(width=16, blocks=1, downsampling_padding="reflect"),
    "resnet odd widths": ResNetConfig(blocks=1, widths=(10, 18, 34, 20, 12), block_widths=(22,)),
    "resnet no blocks": ResNetConfig(width=16, blocks=0, downsamplings=1),
    "resnet one to two channels": ResNetConfig(width=16, blocks=1, in_channels=1, out_channels=2),
    "resnet separable": ResNetConfig(width=16, blocks=2, separable=True),
    "resnet separable odd widths": ResNetConfig(
        blocks=2, widths=(10, 18, 34, 20, 12), block_widths=(22, 40), separable=True, affine=True
    ),
    "resnet separable batch norm": ResNetConfig(width=8, blocks=1, separable=True, norm="batch", bias=False),
    "resnet blur": ResNetConfig(width=16, blocks=1, downsampling="blur", upsampling="blur"),
    "resnet blur odd widths": ResNetConfig(
        blocks=1, widths=(10, 18, 34, 20, 12), downsampling="blur", upsampling="blur", affine=True
    ),
    "animegan": AnimeGANConfig(width=8, blocks=3),
    "animegan half-pixel centres": AnimeGANConfig(width=10, blocks=2, align_corners=False),
    "transformer": TransformerNetConfig(width=16, blocks=2),
    "unet": UNetConfig(width=8, downsamplings=4),
    "unet instance norm": UNetConfig(width=16, downsamplings=3, norm="instance", bias=True),
    "unet one to two channels": UNetConfig(width=8, downsamplings=3, in_channels=1, out_channels=2),
    "srvgg": SRVGGConfig(width=32, convolutions=2),
    "srvgg x1 odd widths": SRVGGConfig(width=10, convolutions=1, scale=1),
    "srvgg x2 grey": SRVGGConfig(width=10, convolutions=1, scale=2, in_channels=1, out_channels=1),
    "srresnet": SRResNetConfig(width=32, blocks=1),
    "srresnet x3 odd widths": SRResNetConfig(width=10, blocks=2, scale=3),
    "rrdbnet": RRDBNetConfig(width=16, growth=16, blocks=2),
    "rrdbnet x2 odd widths": RRDBNetConfig(width=20, growth=10, blocks=1, scale=2),
    "rrdbnet x1 grey": RRDBNetConfig(width=8, growth=8, blocks=1, scale=1, in_channels=1, out_channels=1),
}


def made(config: GeneratorConfig) -> Generator:
    """A generator whose layers all matter: weights that keep the size of activations, norms that do something."""
    torch.manual_seed(0)
    return with_weights(build(config))


def with_weights(generator: Generator) -> Generator:
    generator.eval()
    for layer in generator.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            fan_in = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.weight[:, 0].numel() / 4
            nn.init.normal_(layer.weight, std=(1.5 / fan_in) ** 0.5)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.2)
        elif isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm)) and layer.weight is not None:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, -0.2, 1.2)
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return generator.requires_grad_(False)


def picture_for(generator: Generator, *, height: int = 48, width: int = 64, count: int = 1) -> Tensor:
    source = torch.Generator().manual_seed(1)
    low, high = generator.input_range
    shape = (count, generator.config.in_channels, height, width)
    return torch.rand(shape, generator=source) * (high - low) + low


def expected_of(generator: Generator, image: Tensor) -> Tensor:
    return copy.deepcopy(generator).double()(image.double())


def error_db(actual: Tensor, expected: Tensor) -> float:
    """Signal over noise in dB."""
    noise = (actual.double() - expected).square().mean()
    return float(10 * torch.log10(expected.var() / noise))


def writing_bfloat16(fused: FusedGenerator) -> FusedGenerator:
    """The same, with bfloat16 between its layers, as far as may be."""
    steps = steps_of(fused)
    added = {slot for step in steps for slot in (step.residual, step.second_residual)}
    for step in steps[:-1]:
        can = step.packing not in (Packing.DEPTHWISE, Packing.BILINEAR) and not step.appends
        step.writes_bfloat16 = int(can and step.output not in added)
    return with_steps(fused, steps)


def with_steps(fused: FusedGenerator, steps: list[Step]) -> FusedGenerator:
    numbers = fused.program[:4].tolist() + [number for step in steps for number in step.numbers()]
    return fused.with_program(torch.tensor(numbers))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CONFIGS)
class TestEveryTier:
    def test_float32(self, name: str, isa: str) -> None:
        generator = made(CONFIGS[name])
        image = picture_for(generator)
        with forced_isa(isa):
            actual = fuse(generator, "fp32")(image)
        expected = expected_of(generator, image)
        assert actual.shape == expected.shape
        assert actual.is_contiguous(memory_format=torch.channels_last)
        assert error_db(actual, expected) > FUSED_FP32_DB

    def test_bfloat16(self, name: str, isa: str) -> None:
        """Not much further from float64 than PyTorch in bfloat16 is."""
        generator = made(CONFIGS[name])
        image = picture_for(generator).bfloat16()
        with forced_isa(isa):
            actual = fuse(generator, "bf16")(image)
        expected = expected_of(generator, image)
        eager = copy.deepcopy(generator).bfloat16()(image)
        assert error_db(actual, expected) > error_db(eager, expected) - 4

    def test_bfloat16_between_layers(self, name: str, isa: str) -> None:
        """Multiplied in float32, so that nothing else is rounded."""
        generator = made(CONFIGS[name])
        image = picture_for(generator)
        fused = writing_bfloat16(fuse(generator, "fp32"))
        with forced_isa(isa):
            assert FUSED_HALVES_DB < error_db(fused(image), expected_of(generator, image)) < FUSED_FP32_DB


@pytest.mark.parametrize("caches", CACHES)
@pytest.mark.parametrize("name", ["resnet", "unet instance norm", "transformer", "animegan", "srresnet", "rrdbnet"])
def test_other_caches(name: str, caches: str) -> None:
    """Which decide how the work is cut into pieces, on a picture that is large enough to be cut."""
    generator = made(CONFIGS[name])
    image = picture_for(generator, height=96, width=136)
    expected = expected_of(generator, image)
    with forced_caches(CACHES[caches]), threads(2):
        assert error_db(fuse(generator, "fp32")(image), expected) > FUSED_TILES8_DB
        assert error_db(fuse(generator, "bf16")(image), expected) > FUSED_BF16_DB


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


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_outputs_too_large_for_the_caches(precision: str, isa: str) -> None:
    """Of a direct layer and its phases, by three threads."""
    generator = made(ResNetConfig(width=16, blocks=1, downsamplings=1))
    image = picture_for(generator, height=324, width=332)
    with forced_isa(isa), forced_caches(CACHES["small caches"]), threads(3):
        error = error_db(fuse(generator, precision)(image), expected_of(generator, image))
    assert error > (FUSED_TILES8_DB if precision == "fp32" else FUSED_BF16_DB)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig(width=16, blocks=1, downsamplings=1),
        ResNetConfig(width=32, blocks=1, downsamplings=0),
        ResNetConfig(width=48, blocks=1, downsamplings=0),
        TransformerNetConfig(width=32, blocks=1),
    ],
    ids=["direct", "whole lines", "halves of lines", "pairs"],
)
def test_bfloat16_too_large_for_the_caches(config: GeneratorConfig, isa: str) -> None:
    """As float32 is, and with the last tiles of rows and columns only partly there."""
    generator = made(config)
    image = picture_for(generator, height=164, width=184)
    exact = fuse(generator, "fp32")
    with forced_isa(isa), forced_caches(CACHES["small caches"]), threads(3):
        assert error_db(writing_bfloat16(exact)(image), exact(image).double()) > FUSED_HALVES_DB


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pictures", [1, 2, 3, 4, 5])
def test_tall_kernels(pictures: int, isa: str) -> None:
    """Seven and nine rows in the first and the last layer; strips and rows of tiles that are only partly there."""
    for config in (
        ResNetConfig(width=10, blocks=1, downsamplings=0, out_channels=pictures),
        TransformerNetConfig(width=12, blocks=1, out_channels=pictures),
    ):
        generator = made(config)
        for height, width in [(20, 12), (52, 132), (36, 268)]:
            image = picture_for(generator, height=height, width=width)
            expected = expected_of(generator, image)
            for count in (1, 3):
                with forced_isa(isa), threads(count):
                    assert error_db(fuse(generator, "fp32")(image), expected) > FUSED_FP32_DB, (height, width, count)


@pytest.mark.parametrize("padding", [(0, 6), (6, 0), (2, 4), (4, 2)])
def test_tall_kernels_with_more_padding_on_one_side(padding: tuple[int, int]) -> None:
    """The last strip of a picture may be a single column, and its padding repeats six before it."""
    generator = made(ResNetConfig(width=10, blocks=1, downsamplings=0))
    pads = [layer for layer in generator.modules() if isinstance(layer, nn.ReflectionPad2d) and layer.padding[0] == 3]
    assert len(pads) == 2
    for layer in pads:
        layer.padding = padding * 2
    for width in (128, 129, 131):
        image = picture_for(generator, height=21, width=width)
        assert error_db(fuse(generator, "fp32")(image), expected_of(generator, image)) > FUSED_FP32_DB, width


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


# Sizes around tiles of 2 and 4 pixels, vectors and blocks of pixels; height, width.
SIZES = [(16, 16), (20, 24), (36, 132), (12, 260), (44, 20), (64, 36)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sizes(size: tuple[int, int], precision: str) -> None:
    generator = made(ResNetConfig(width=16, blocks=2))
    image = picture_for(generator, height=size[0], width=size[1])
    error = error_db(fuse(generator, precision)(image), expected_of(generator, image))
    assert error > (FUSED_FP32_DB if precision == "fp32" else FUSED_BF16_DB)


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


@pytest.mark.parametrize("name", ["resnet", "unet", "transformer", "srvgg", "rrdbnet"])
def test_batches_are_their_images(name: str) -> None:
    generator = made(CONFIGS[name])
    fused = fuse(generator, "fp32")
    images = picture_for(generator, count=3)
    assert torch.equal(fused(images), torch.cat([fused(image[None]) for image in images]))


@pytest.mark.parametrize("name", ["resnet", "unet", "transformer", "srvgg", "srresnet"])
def test_layouts_and_parts_of_larger_images(name: str) -> None:
    generator = made(CONFIGS[name])
    fused = fuse(generator, "fp32")
    larger = picture_for(generator, height=64, width=96)
    part = larger[:, :, 8:56, 16:80]
    expected = fused(part.contiguous())
    assert torch.equal(fused(part), expected)
    assert torch.equal(fused(part.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", ["resnet", "unet", "transformer", "srvgg", "srresnet", "rrdbnet"])
def test_threads_change_no_more_than_rounding(name: str) -> None:
    generator = made(CONFIGS[name])
    fused = fuse(generator, "fp32")
    image = picture_for(generator)
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            results.append(fused(image))
    for other in results[1:]:
        assert torch.allclose(results[0], other, atol=FUSED_THREADS_RTOL * float(results[0].abs().max()))


@pytest.mark.parametrize("name", ["resnet", "srvgg x2 grey"])
def test_it_is_an_operator_like_any_other(name: str) -> None:
    generator = made(CONFIGS[name])
    fused, image = fuse(generator, "fp32"), picture_for(generator)
    arguments = (image, fused.weights, fused.program, fused.out_channels, fused.scale)
    torch.library.opcheck(torch.ops.streamgan.fused_generator.default, arguments)
    exported = torch.export.export(fused, (image,)).module()
    traced = torch.jit.trace(fused, image)
    compiled = torch.compile(fused, fullgraph=True)
    for other in (exported, traced, compiled):
        assert torch.equal(other(image), fused(image))


# A process that has torch and the library of operators, and nothing of this project's Python.
_ELSEWHERE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
torch.set_num_threads(int(sys.argv[5]))  # sums are split by them, and rounded
image, expected = torch.load(sys.argv[2], weights_only=True)
for run in (torch.jit.load(sys.argv[3]), torch._inductor.aoti_load_package(sys.argv[4])):
    assert torch.equal(run(image), expected)
assert not any(name.split(".")[0] == "engine" for name in sys.modules)
"""


def test_torchscript_and_aotinductor_files_run_elsewhere(tmp_path: Path) -> None:
    if not any(shutil.which(compiler) for compiler in ("g++", "clang++")):
        pytest.skip("AOTInductor needs a C++ compiler")
    generator = made(CONFIGS["transformer"])
    fused, image = fuse(generator, "bf16"), picture_for(generator)
    data, script, package = (tmp_path / name for name in ("data.pt", "generator.pt", "generator.pt2"))
    torch.save((image, fused(image)), data)
    torch.jit.trace(fused, image).save(str(script))
    torch._inductor.aoti_compile_and_package(torch.export.export(fused, (image,)), package_path=str(package))
    command = [
        sys.executable,
        "-c",
        _ELSEWHERE,
        *map(str, (ops.LIBRARY, data, script, package, torch.get_num_threads())),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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


def damaged(fused: FusedGenerator, position: int, value: int) -> FusedGenerator:
    program = fused.program.clone()
    program[position] = value
    return fused.with_program(program)


def runs_on(fused: FusedGenerator, image: Tensor) -> bool:
    try:
        fused(image)
    except RuntimeError:
        return False
    return True


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


def test_the_kernels_of_all_tiers_are_there() -> None:
    assert set(_native.supported_isas()) <= set(_native.kernels()["fused_generator"])
