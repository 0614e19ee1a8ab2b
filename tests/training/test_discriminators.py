"""Discriminators: what they see, what they give, how their layers are called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.errors import EngineError
from engine.sizes import padded_size
from training.discriminators import DISCRIMINATORS, Discriminator, build_discriminator


def receptive_field(discriminator: nn.Module) -> int:
    """Side in pixels of the region that one output value depends on, by kernels and strides of the convolutions."""
    side = 1
    for layer in reversed([layer for layer in discriminator.modules() if isinstance(layer, nn.Conv2d)]):
        side = (side - 1) * layer.stride[0] + layer.kernel_size[0]
    return side


def seen_side(discriminator: nn.Module, size: int) -> int:
    """Side of the region of the input that the middle value of the output depends on, by its gradient."""
    # Norms mix the whole picture, and ReLUs hide parts of it: neither is what is measured here.
    for name, module in list(discriminator.named_modules()):
        if isinstance(module, (nn.InstanceNorm2d, nn.BatchNorm2d, nn.LeakyReLU)):
            parent = discriminator.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.Identity())
    for parameter in discriminator.parameters():
        nn.init.constant_(parameter, 0.01)
    image = torch.zeros(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    output: Tensor = discriminator.double()(image)
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
    assert image.grad is not None
    touched = image.grad[0, 0].abs() > 0
    return int(touched.any(dim=0).sum())


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [
        ("pixel", 3, 1),
        ("n_layers", 1, 16),
        ("n_layers", 2, 34),
        ("n_layers", 3, 70),
        ("basic", 3, 70),
        ("n_layers", 5, 286),
        ("reflect", 3, 70),
    ],
)
def test_receptive_fields(name: str, layers: int, expected: int) -> None:
    discriminator = build_discriminator(name, 3, width=2, layers=layers, norm="instance")
    assert receptive_field(discriminator) == expected
    assert seen_side(discriminator, 2 * expected + 96) == expected


@pytest.mark.parametrize("gan_mode", ["lsgan", "vanilla"])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_every_discriminator_judges_and_learns(name: str, norm: str, gan_mode: str) -> None:
    discriminator = build_discriminator(name, 6, width=4, norm=norm, gan_mode=gan_mode)
    side, _ = padded_size(discriminator, 64, 64)
    output = discriminator(torch.randn(2, 6, side, side))
    assert output.shape[:2] == (2, 1)
    output.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters() if p.dim() > 1)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_the_smallest_size_is_one_that_it_takes(name: str) -> None:
    discriminator = build_discriminator(name, 3, width=4, norm="instance")
    side = discriminator.minimum_size
    assert side % discriminator.multiple == 0
    assert torch.isfinite(discriminator(torch.randn(2, 3, side, side))).all()


def shape_of(name: str, size: int = 256, **options: object) -> tuple[int, ...]:
    discriminator: Discriminator = build_discriminator(name, 3, width=2, **options)  # type: ignore[arg-type]
    with torch.inference_mode():
        return tuple(discriminator(torch.zeros(2, 3, size, size)).shape[1:])


def test_output_sizes() -> None:
    assert shape_of("pixel") == (1, 256, 256)
    assert shape_of("basic") == (1, 30, 30)
    assert shape_of("n_layers", layers=1) == (1, 126, 126)
    assert shape_of("zero_pad") == (1, 16, 16)
    assert shape_of("zero_pad", size=64) == (1, 4, 4)
    assert shape_of("reflect") == (1, 30, 30)
    assert shape_of("vgg") == (1,)
    assert shape_of("unet") == (1, 256, 256)


def test_only_the_squared_error_gets_a_sigmoid() -> None:
    image = 50 * torch.randn(1, 3, 64, 64)
    published = build_discriminator("reflect", 3, width=4, gan_mode="lsgan")(image)
    assert 0 <= published.min() <= published.max() <= 1
    torch.manual_seed(0)
    logits = build_discriminator("reflect", 3, width=64, gan_mode="vanilla")(image)
    assert logits.min() < 0 or logits.max() > 1


def test_parameter_names_are_the_published_ones() -> None:
    def names(name: str, **options: object) -> list[str]:
        return list(build_discriminator(name, 3, width=4, **options).state_dict())  # type: ignore[arg-type]

    assert names("basic", norm="instance") == [f"model.{n}.{p}" for n in (0, 2, 5, 8, 11) for p in ("weight", "bias")]
    assert [key for key in names("basic", norm="batch") if key.startswith("model.2")] == ["model.2.weight"]
    assert names("pixel", norm="instance") == [f"net.{n}.{p}" for n in (0, 2, 5) for p in ("weight", "bias")]
    reflect = names("reflect")
    assert reflect[:2] == ["initial.0.weight", "initial.0.bias"]
    assert {key.rpartition(".")[0] for key in reflect[2:]} == {
        "model.0.conv.0",
        "model.1.conv.0",
        "model.2.conv.0",
        "model.3",
    }
    unet = names("unet")
    assert unet[:2] == ["conv0.weight", "conv0.bias"]
    assert "conv1.weight_orig" in unet
    assert {key.partition(".")[0] for key in unet} == {f"conv{number}" for number in range(10)}


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(EngineError, match="accepted are basic, n_layers"):
        build_discriminator("patch", 3)
