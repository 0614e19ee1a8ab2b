"""Every family scripts, traces and exports, and states its sizes truly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch

from engine.errors import CheckpointError
from engine.generators import (
    FAMILIES,
    AnimeGANConfig,
    Generator,
    GeneratorConfig,
    ResNetConfig,
    RRDBNetConfig,
    SRResNetConfig,
    SRVGGConfig,
    TransformerNetConfig,
    UNetConfig,
    build,
    build_from_dict,
)
from tests.tolerances import CHECKPOINT_ATOL

CONFIGS: dict[str, GeneratorConfig] = {
    "resnet": ResNetConfig(width=4, blocks=2),
    "resnet batch dropout": ResNetConfig(width=4, blocks=2, norm="batch", bias=False, dropout=True),
    "resnet affine grey": ResNetConfig(in_channels=1, width=4, blocks=2, affine=True),
    "resnet no norm, zeros": ResNetConfig(
        width=4, blocks=2, norm="none", bias=False, block_padding="zeros", outer_padding="zeros"
    ),
    "resnet batch, zeros": ResNetConfig(width=4, blocks=2, norm="batch", block_padding="zeros", outer_padding="zeros"),
    "resnet resize": ResNetConfig(width=4, blocks=2, upsampling="nearest", upsampling_padding="reflect"),
    "resnet reflect down": ResNetConfig(width=4, blocks=2, downsampling_padding="reflect"),
    "resnet blur": ResNetConfig(width=4, blocks=2, downsampling="blur", upsampling="blur"),
    "resnet mobile": ResNetConfig(
        width=4, blocks=2, separable=True, dropout=True, widths=(4, 6, 8, 5, 7), block_widths=(3, 9)
    ),
    "resnet 3 downsamplings": ResNetConfig(width=4, blocks=1, downsamplings=3),
    "resnet 0 downsamplings": ResNetConfig(width=4, blocks=1, downsamplings=0),
    "unet": UNetConfig(width=4, downsamplings=5),
    "unet instance": UNetConfig(width=4, downsamplings=2, norm="instance", affine=True, bias=True, dropout=True),
    "unet widths": UNetConfig(width=4, downsamplings=3, widths=(4, 6, 6), dropout=True),
    "transformer_net": TransformerNetConfig(width=4, blocks=2),
    "animegan": AnimeGANConfig(width=4),
    "animegan half-pixel": AnimeGANConfig(width=4, align_corners=False, expansion=1, blocks=2),
    "srresnet x4": SRResNetConfig(width=4, blocks=1),
    "srresnet x3": SRResNetConfig(width=4, blocks=1, scale=3),
    "rrdbnet x4": RRDBNetConfig(width=4, growth=2, blocks=1),
    "rrdbnet x2": RRDBNetConfig(width=4, growth=2, blocks=1, scale=2),
    "rrdbnet x1": RRDBNetConfig(width=4, growth=2, blocks=1, scale=1),
    "srvgg": SRVGGConfig(width=4, convolutions=1),
    "srvgg x2 grey": SRVGGConfig(in_channels=1, out_channels=1, width=4, convolutions=0, scale=2),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Pictures here are tiny: on a busy machine, threads would wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=CONFIGS)
def generator(request: pytest.FixtureRequest) -> Generator:
    torch.manual_seed(0)
    return build(CONFIGS[request.param]).eval().requires_grad_(False)


def picture(generator: Generator, height: int, width: int, batch: int = 1) -> torch.Tensor:
    low, high = generator.input_range
    return low + (high - low) * torch.rand(batch, generator.config.in_channels, height, width)


def test_every_family_is_tested() -> None:
    assert {config.family for config in CONFIGS.values()} == set(FAMILIES)


def test_output_size(generator: Generator) -> None:
    """Every multiple from the minimum size on runs and gives the size times the scale."""
    for steps_down, steps_right in ((0, 0), (0, 3), (1, 0), (2, 1)):
        height = generator.minimum_size + steps_down * generator.multiple
        width = generator.minimum_size + steps_right * generator.multiple
        output = generator(picture(generator, height, width, batch=2))
        expected = (2, generator.config.out_channels, height * generator.scale, width * generator.scale)
        assert output.shape == expected
        assert output.isfinite().all()


def test_minimum_size_is_the_smallest(generator: Generator) -> None:
    assert generator.minimum_size % generator.multiple == 0
    smaller = generator.minimum_size - generator.multiple
    if smaller == 0:
        return  # the smallest multiple there is
    with pytest.raises((RuntimeError, ValueError)):
        generator(picture(generator, smaller, smaller))


def test_multiple_is_needed(generator: Generator) -> None:
    """Half a multiple more changes the size, fails, or (AnimeGAN) shifts the picture."""
    if generator.multiple == 1 or generator.config.family == "animegan":
        return
    side = 2 * generator.minimum_size + generator.multiple // 2
    try:
        output = generator(picture(generator, side, side))
    except RuntimeError:
        return
    assert output.shape[-1] != side * generator.scale


def test_pictures_of_a_batch_do_not_mix(generator: Generator) -> None:
    side = generator.minimum_size
    images = picture(generator, side, side, batch=2)
    together, alone = generator(images), generator(images[:1])
    scale = together.abs().max().clamp(min=1.0)
    assert (together[:1] - alone).abs().max() <= CHECKPOINT_ATOL * scale


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["script", "trace", "export"])
def test_compiles(generator: Generator, how: str) -> None:
    image = picture(generator, 2 * generator.minimum_size, 2 * generator.minimum_size)
    expected = generator(image)
    if how == "script":
        compiled = torch.jit.script(generator)
    elif how == "trace":
        compiled = torch.jit.trace(generator, image)
    else:
        compiled = torch.export.export(generator, (image,)).module()
    scale = expected.abs().max().clamp(min=1.0)
    assert (compiled(image) - expected).abs().max() <= CHECKPOINT_ATOL * scale


def test_configuration_round_trip(generator: Generator) -> None:
    values = json.loads(json.dumps(generator.config.to_dict()))
    again = build_from_dict(values)
    assert again.config == generator.config
    assert again.state_dict().keys() == generator.state_dict().keys()


def test_describes_itself(generator: Generator) -> None:
    assert generator.config.describe().isprintable()
    assert generator.parameter_count() == sum(p.numel() for p in generator.parameters())


def test_trains_in_train_mode(generator: Generator) -> None:
    side = 2 * generator.minimum_size
    generator.train().requires_grad_(True)
    generator(picture(generator, side, side)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_unknown_family_and_fields() -> None:
    @dataclasses.dataclass(frozen=True)
    class OtherConfig(GeneratorConfig):
        family = "other"

    with pytest.raises(CheckpointError, match="no generator family for OtherConfig"):
        build(OtherConfig())
    with pytest.raises(CheckpointError, match="unknown generator family None"):
        build_from_dict({})
    with pytest.raises(CheckpointError, match="no field 'depth'"):
        build_from_dict({"family": "resnet", "depth": 3})
    with pytest.raises(CheckpointError, match="norm is 'layer'; accepted are instance, batch, none"):
        build_from_dict({"family": "resnet", "norm": "layer"})


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (ResNetConfig, {"width": 0}),
        (ResNetConfig, {"blocks": -1}),
        (ResNetConfig, {"widths": (1, 2)}),
        (ResNetConfig, {"block_widths": (1, 2)}),
        (ResNetConfig, {"upsampling": "pixel"}),
        (UNetConfig, {"downsamplings": 1}),
        (UNetConfig, {"widths": (1, 2)}),
        (TransformerNetConfig, {"blocks": 0}),
        (AnimeGANConfig, {"expansion": 0}),
        (SRResNetConfig, {"scale": 5}),
        (SRResNetConfig, {"out_channels": 1}),
        (RRDBNetConfig, {"scale": 3}),
        (SRVGGConfig, {"scale": 0}),
    ],
)
def test_impossible_dimensions(config: type[GeneratorConfig], values: dict) -> None:
    with pytest.raises(ValueError, match=r"accepted|differ|below"):
        config(**values)
