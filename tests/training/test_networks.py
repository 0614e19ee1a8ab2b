"""`--netG` and its like, and weights as the reference implementation draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.checkpoint import load_generator
from engine.errors import CheckpointError, EngineError
from engine.generators import ResNetConfig, RRDBNetConfig, SRResNetConfig, TransformerNetConfig, UNetConfig
from training.discriminators import build_discriminator
from training.networks import build_generator, generator_config, initialise
from training.run_folder import published_state


def test_names_of_generators() -> None:
    assert generator_config("resnet_9blocks") == ResNetConfig(width=64, blocks=9)
    assert generator_config("resnet_4blocks", width=8, norm="batch", dropout=True) == ResNetConfig(
        width=8, blocks=4, norm="batch", bias=False, dropout=True
    )
    assert generator_config("resnet_6blocks", upsampling="nearest") == ResNetConfig(blocks=6, upsampling="nearest")
    assert generator_config("resnet_6blocks", downsampling_padding="reflect").downsampling_padding == "reflect"  # type: ignore[attr-defined]
    assert generator_config("unet_256", norm="batch") == UNetConfig(downsamplings=8, norm="batch", bias=False)
    assert generator_config("unet_128", norm="instance") == UNetConfig(downsamplings=7, norm="instance", bias=True)
    assert generator_config("transformer") == TransformerNetConfig(width=32)
    assert generator_config("srresnet", scale=2) == SRResNetConfig(scale=2)
    assert generator_config("rrdbnet", scale=2, blocks=2) == RRDBNetConfig(scale=2, blocks=2)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet_4blocks", {}),
        ("resnet_4blocks", {"upsampling": "nearest", "dropout": True}),
        ("resnet_4blocks", {"downsampling_padding": "reflect"}),
        ("unet_32", {}),
    ],
)
def test_a_saved_generator_is_recognised(tmp_path: Path, name: str, options: dict[str, Any], norm: str) -> None:
    trained = build_generator(generator_config(name, width=8, norm=norm, **options)).eval()
    if norm == "none" and "downsampling_padding" in options:
        with pytest.raises(CheckpointError, match="saved with a norm"):
            published_state(trained)
        return
    torch.save(published_state(trained), tmp_path / "latest_net_G.pth")
    loaded = load_generator(tmp_path / "latest_net_G.pth")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), trained(image))


@pytest.mark.parametrize("name", ["resnet", "resnet_blocks", "unet_100", "unet_1", "unet", "stylegan"])
def test_unknown_names_say_what_there_is(name: str) -> None:
    with pytest.raises(EngineError, match="accepted are resnet_9blocks"):
        generator_config(name)


def test_values_that_a_family_refuses() -> None:
    with pytest.raises(EngineError, match="--netG rrdbnet can't be built so"):
        generator_config("rrdbnet", scale=3)


def drawn(init_type: str, gain: float = 0.02) -> nn.Module:
    torch.manual_seed(0)
    return build_generator(generator_config("unet_32", width=32, norm="batch"), init_type=init_type, init_gain=gain)


def convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]


def test_normal_weights_have_the_published_deviation() -> None:
    network = drawn("normal")
    for layer in convolutions(network):
        if layer.weight.numel() > 10_000:
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
            assert abs(float(layer.weight.detach().mean())) < 0.001
        assert layer.bias is None or not layer.bias.any()
    norms = torch.cat([layer.weight.detach() for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)])
    assert float(norms.mean()) == pytest.approx(1, abs=0.01)
    assert float(norms.std()) == pytest.approx(0.02, rel=0.2)


def test_other_initialisations() -> None:
    weight = convolutions(drawn("kaiming"))[2].weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (weight.shape[1] * 16)) ** 0.5, rel=0.05)
    weight = convolutions(drawn("xavier", gain=1.0))[2].weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (16 * (weight.shape[0] + weight.shape[1]))) ** 0.5, rel=0.05)
    rows = convolutions(drawn("orthogonal", gain=1.0))[2].weight.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-4)
    with pytest.raises(EngineError, match="accepted are normal, xavier"):
        drawn("uniform")


def test_default_leaves_pytorchs() -> None:
    torch.manual_seed(3)
    one = build_generator(generator_config("resnet_1blocks", width=4), init_type="default")
    torch.manual_seed(3)
    two = build_generator(generator_config("resnet_1blocks", width=4), init_type="default")
    initialise(two, "default")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_spectrally_normalised_weights_are_drawn_too() -> None:
    discriminator = build_discriminator("unet", 3, width=32)
    initialise(discriminator, "normal", 0.02)
    assert float(discriminator.conv3.weight_orig.detach().std()) == pytest.approx(0.02, rel=0.05)  # type: ignore[union-attr, arg-type]
