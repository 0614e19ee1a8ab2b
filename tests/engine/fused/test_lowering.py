"""The fused generator against the modules it stands for, on every instruction set."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import _native, ops
from engine.fused.lowering import fuse
from engine.generators import GeneratorConfig, ResNetConfig, TransformerNetConfig
from tests.engine.fused.cases import CONFIGS, error_db, expected_of, made, picture_for, writing_bfloat16
from tests.ops.cases import CACHES, ISAS, forced_caches, forced_isa, threads
from tests.tolerances import FUSED_BF16_DB, FUSED_FP32_DB, FUSED_HALVES_DB, FUSED_THREADS_RTOL, FUSED_TILES8_DB


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


# Sizes around tiles of 2 and 4 pixels, vectors and blocks of pixels; height, width.
SIZES = [(16, 16), (20, 24), (36, 132), (12, 260), (44, 20), (64, 36)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sizes(size: tuple[int, int], precision: str) -> None:
    generator = made(ResNetConfig(width=16, blocks=2))
    image = picture_for(generator, height=size[0], width=size[1])
    error = error_db(fuse(generator, precision)(image), expected_of(generator, image))
    assert error > (FUSED_FP32_DB if precision == "fp32" else FUSED_BF16_DB)


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


def test_the_kernels_of_all_tiers_are_there() -> None:
    assert set(_native.supported_isas()) <= set(_native.kernels()["fused_generator"])
