"""Every published recipe, layer by layer, and a step of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.generators import RRDBNet, SRResNet
from engine.generators.resnet import BlurDownsample, BlurUpsample
from tests.training.pictures import write_picture
from tests.training.vgg import random_layers, torchvision_state
from training.models import TrainingModel, make_model
from training.options import parse_options
from training.presets import PRESETS


def made(preset: str, *arguments: str) -> TrainingModel:
    torch.manual_seed(0)
    return make_model(parse_options(["--dataroot", ".", "--preset", preset, *arguments]), torch.device("cpu"))


@pytest.fixture
def style_files(tmp_path: Path) -> list[str]:
    """A painting and weights for `--model style`."""
    torch.save(torchvision_state(random_layers(width=4)), tmp_path / "vgg.pth")
    painting = write_picture(tmp_path / "painting.png", size=(80, 64))
    return ["--vgg", str(tmp_path / "vgg.pth"), "--style_image", str(painting), "--crop_size", "64"]


def called(network: nn.Module, *, channels: int, side: int) -> list[str]:
    """The layers with something to them, in the order they are called for an image."""
    found: list[str] = []
    for module in network.modules():
        module.register_forward_hook(lambda layer, *_: found.extend(_describe(layer)))
    with torch.no_grad():
        network(torch.zeros(2, channels, side, side))
    return found


def _describe(module: nn.Module) -> Iterator[str]:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        kind = "convT" if isinstance(module, nn.ConvTranspose2d) else "conv"
        padding = f" {module.padding_mode}" if module.padding_mode != "zeros" else ""
        extra = f" out+{module.output_padding[0]}" if module.output_padding[0] else ""
        size = f"{module.kernel_size[0]}x{module.kernel_size[0]} /{module.stride[0]} p{module.padding[0]}"
        norm = " spectral" if hasattr(module, "weight_u") else ""
        yield f"{kind} {module.in_channels}-{module.out_channels} {size}{extra}{padding}{norm}"
    elif isinstance(module, nn.LeakyReLU):
        yield f"leaky {module.negative_slope}"
    elif isinstance(module, nn.InstanceNorm2d):
        yield f"IN {module.num_features}{' affine' if module.affine else ''}"
    elif isinstance(module, nn.BatchNorm2d):
        yield f"BN {module.num_features}"
    elif isinstance(module, nn.ReflectionPad2d):
        yield f"reflect {module.padding[0]}"
    elif isinstance(module, nn.ZeroPad2d):
        yield f"zero {tuple(module.padding)}"
    elif isinstance(module, nn.Upsample):
        yield f"{module.mode} x{int(module.scale_factor)}"  # type: ignore[arg-type]
    elif isinstance(module, (BlurDownsample, BlurUpsample)):
        yield f"{'blur /2' if isinstance(module, BlurDownsample) else 'blur x2'} {module.channels}"
    elif isinstance(module, nn.PixelShuffle):
        yield f"shuffle {module.upscale_factor}"
    elif isinstance(module, nn.Dropout):
        yield f"dropout {module.p}"
    elif isinstance(module, nn.Linear):
        yield f"linear {module.in_features}-{module.out_features}"
    elif isinstance(module, (nn.ReLU, nn.Tanh)):
        yield type(module).__name__.lower()


def resnet_layers(*, down: str = "p1", up: str = "transposed") -> list[str]:
    ups = {
        "transposed": [
            ["convT 256-128 3x3 /2 p1 out+1", "IN 128", "relu"],
            ["convT 128-64 3x3 /2 p1 out+1", "IN 64", "relu"],
        ],
        "nearest": [
            ["nearest x2", "conv 256-128 3x3 /1 p1", "IN 128", "relu"],
            ["nearest x2", "conv 128-64 3x3 /1 p1", "IN 64", "relu"],
        ],
    }[up]
    block = ["reflect 1", "conv 256-256 3x3 /1 p0", "IN 256", "relu", "reflect 1", "conv 256-256 3x3 /1 p0", "IN 256"]
    return [
        *("reflect 3", "conv 3-64 7x7 /1 p0", "IN 64", "relu"),
        *(f"conv 64-128 3x3 /2 {down}", "IN 128", "relu"),
        *(f"conv 128-256 3x3 /2 {down}", "IN 256", "relu"),
        *(block * 9),
        *ups[0],
        *ups[1],
        *("reflect 3", "conv 64-3 7x7 /1 p0", "tanh"),
    ]


def patch_layers(in_channels: int = 3, *, layers: int = 3, norm: str = "IN") -> list[str]:
    widths = [64, 128, 256, 512, 512, 512][: layers + 1]
    found = [f"conv {in_channels}-64 4x4 /2 p1", "leaky 0.2"]
    for number in range(1, layers + 1):
        stride = 2 if number < layers else 1
        found += [
            f"conv {widths[number - 1]}-{widths[number]} 4x4 /{stride} p1",
            f"{norm} {widths[number]}",
            "leaky 0.2",
        ]
    return [*found, f"conv {widths[layers]}-1 4x4 /1 p1"]


def cut_layers() -> tuple[list[str], list[str]]:
    """CUT's anti-aliased generator and discriminator."""
    block = ["reflect 1", "conv 256-256 3x3 /1 p0", "IN 256", "relu", "reflect 1", "conv 256-256 3x3 /1 p0", "IN 256"]
    generator = [
        *("reflect 3", "conv 3-64 7x7 /1 p0", "IN 64", "relu"),
        *("conv 64-128 3x3 /1 p1", "IN 128", "relu", "blur /2 128"),
        *("conv 128-256 3x3 /1 p1", "IN 256", "relu", "blur /2 256"),
        *(block * 9),
        *("blur x2 256", "conv 256-128 3x3 /1 p1", "IN 128", "relu"),
        *("blur x2 128", "conv 128-64 3x3 /1 p1", "IN 64", "relu"),
        *("reflect 3", "conv 64-3 7x7 /1 p0", "tanh"),
    ]
    discriminator = [
        *("conv 3-64 4x4 /1 p1", "leaky 0.2", "blur /2 64"),
        *("conv 64-128 4x4 /1 p1", "IN 128", "leaky 0.2", "blur /2 128"),
        *("conv 128-256 4x4 /1 p1", "IN 256", "leaky 0.2", "blur /2 256"),
        *("conv 256-512 4x4 /1 p1", "IN 512", "leaky 0.2", "conv 512-1 4x4 /1 p1"),
    ]
    return generator, discriminator


def unet_layers(*, norm: str = "BN", dropout: bool = True, channels: tuple[int, int] = (3, 3)) -> list[str]:
    """Down 64-128-256-512 five times 512, up again, dropout 0.5 in the three levels of 512 that have skips."""
    widths = [64, 128, 256, 512, 512, 512, 512, 512]
    down: list[str] = [f"conv {channels[0]}-64 4x4 /2 p1"]
    up: list[str] = ["relu", f"convT 128-{channels[1]} 4x4 /2 p1", "tanh"]
    for level in range(1, 8):
        outer, width = widths[level - 1], widths[level]
        is_last = level == 7
        down += ["leaky 0.2", f"conv {outer}-{width} 4x4 /2 p1", *([] if is_last else [f"{norm} {width}"])]
        after = ["relu", f"convT {width if is_last else 2 * width}-{outer} 4x4 /2 p1", f"{norm} {outer}"]
        up = [*after, *(["dropout 0.5"] if dropout and outer == width and not is_last else []), *up]
    return down + up


REFLECT_DISCRIMINATOR = [
    *("conv 3-64 4x4 /2 p1 reflect", "leaky 0.2"),
    *("conv 64-128 4x4 /2 p1 reflect", "IN 128", "leaky 0.2"),
    *("conv 128-256 4x4 /2 p1 reflect", "IN 256", "leaky 0.2"),
    *("conv 256-512 4x4 /1 p1 reflect", "IN 512", "leaky 0.2"),
    "conv 512-1 4x4 /1 p1 reflect",
]
ZERO_PAD_DISCRIMINATOR = [
    *("conv 3-64 4x4 /2 p1", "leaky 0.2"),
    *("conv 64-128 4x4 /2 p1", "IN 128", "leaky 0.2"),
    *("conv 128-256 4x4 /2 p1", "IN 256", "leaky 0.2"),
    *("conv 256-512 4x4 /2 p1", "IN 512", "leaky 0.2"),
    *("zero (1, 0, 1, 0)", "conv 512-1 4x4 /1 p1"),
]
PIXEL_DISCRIMINATOR = [
    *("conv 6-64 1x1 /1 p0", "leaky 0.2", "conv 64-128 1x1 /1 p0", "BN 128", "leaky 0.2", "conv 128-1 1x1 /1 p0"),
]


def conv(before: int, after: int, kernel: int = 3, stride: int = 1, extra: str = "") -> str:
    return f"conv {before}-{after} {kernel}x{kernel} /{stride} p1{extra}"


VGG_DISCRIMINATOR = [
    *(conv(3, 64), "leaky 0.2", conv(64, 64, 4, 2), "BN 64", "leaky 0.2"),
    *(conv(64, 128), "BN 128", "leaky 0.2", conv(128, 128, 4, 2), "BN 128", "leaky 0.2"),
    *(conv(128, 256), "BN 256", "leaky 0.2", conv(256, 256, 4, 2), "BN 256", "leaky 0.2"),
    *(conv(256, 512), "BN 512", "leaky 0.2", conv(512, 512, 4, 2), "BN 512", "leaky 0.2"),
    *(conv(512, 512), "BN 512", "leaky 0.2", conv(512, 512, 4, 2), "BN 512", "leaky 0.2"),
    *("linear 8192-100", "leaky 0.2", "linear 100-1"),
]
# LeakyReLUs and doublings are no modules of it.
UNET_DISCRIMINATOR = [
    *(conv(3, 64), conv(64, 128, 4, 2, " spectral"), conv(128, 256, 4, 2, " spectral")),
    *(conv(256, 512, 4, 2, " spectral"), conv(512, 256, extra=" spectral"), conv(256, 128, extra=" spectral")),
    *(conv(128, 64, extra=" spectral"), conv(64, 64, extra=" spectral"), conv(64, 64, extra=" spectral"), conv(64, 1)),
]
SRRESNET = [
    *(conv(3, 64), "leaky 0.1", *([conv(64, 64), "relu", conv(64, 64)] * 16)),
    *([conv(64, 256), "shuffle 2", "leaky 0.1"] * 2),
    *(conv(64, 64), "leaky 0.1", conv(64, 3)),
]
_DENSE = [part for width in (64, 96, 128, 160) for part in (conv(width, 32), "leaky 0.2")] + [conv(192, 64)]
RRDBNET = [
    *(conv(3, 64), *(_DENSE * 3 * 23), conv(64, 64), *([conv(64, 64), "leaky 0.2"] * 3), conv(64, 3)),
]


def _padded(padding: int, before: int, after: int, kernel: int, stride: int = 1) -> list[str]:
    return [f"reflect {padding}", f"conv {before}-{after} {kernel}x{kernel} /{stride} p0"]


_STYLE_BLOCK = [*_padded(1, 128, 128, 3), "IN 128 affine", "relu", *_padded(1, 128, 128, 3), "IN 128 affine"]
TRANSFORMER = [
    *(*_padded(4, 3, 32, 9), "IN 32 affine", "relu"),
    *(*_padded(1, 32, 64, 3, 2), "IN 64 affine", "relu"),
    *(*_padded(1, 64, 128, 3, 2), "IN 128 affine", "relu"),
    *(_STYLE_BLOCK * 5),
    *("nearest x2", *_padded(1, 128, 64, 3), "IN 64 affine", "relu"),
    *("nearest x2", *_padded(1, 64, 32, 3), "IN 32 affine", "relu"),
    *_padded(4, 32, 3, 9),
]

# Preset -> layers of its generator and of its discriminator.
LAYERS: dict[str, tuple[list[str], list[str]]] = {
    "cyclegan": (resnet_layers(), patch_layers()),
    "cyclegan-conv-blocks": (resnet_layers(down="p1 reflect"), REFLECT_DISCRIMINATOR),
    "cyclegan-resize-convolution": (resnet_layers(up="nearest"), ZERO_PAD_DISCRIMINATOR),
    "cyclegan-unet": (unet_layers(norm="IN", dropout=False), patch_layers()),
    "cut": cut_layers(),
    "fastcut": cut_layers(),
    "pix2pix": (unet_layers(), patch_layers(6, norm="BN")),
    "pix2pix-1": (unet_layers(), PIXEL_DISCRIMINATOR),
    "pix2pix-16": (unet_layers(), patch_layers(6, layers=1, norm="BN")),
    "pix2pix-286": (unet_layers(), patch_layers(6, layers=5, norm="BN")),
    "pix2pix-l1": (unet_layers(), []),
    "colorization": (unet_layers(channels=(1, 2)), patch_layers(3, norm="BN")),
    "srgan": (SRRESNET, VGG_DISCRIMINATOR),
    "srgan-patch": (SRRESNET, patch_layers(norm="BN")),
    "srresnet": (SRRESNET, []),
    "esrgan": (RRDBNET, VGG_DISCRIMINATOR),
    "real-esrgan": (RRDBNET, UNET_DISCRIMINATOR),
    "fast-style": (TRANSFORMER, []),
}


def test_every_preset_is_compared() -> None:
    assert LAYERS.keys() == PRESETS.keys()


@pytest.mark.parametrize("preset", LAYERS)
def test_layers_are_the_published_ones(preset: str, request: pytest.FixtureRequest) -> None:
    model = made(preset, *(request.getfixturevalue("style_files") if preset == "fast-style" else []))
    generator, discriminator = LAYERS[preset]
    assert len(model.networks) == (
        4 if model.options.model == "cycle_gan" else 3 if model.options.model == "cut" else 2 if discriminator else 1
    )
    for name, network in model.networks.items():
        if name == "F":
            continue  # takes features
        expected = generator if name.startswith("G") else discriminator
        channels = int(re.match(r"conv (\d+)", expected[0] if expected[0].startswith("conv") else expected[1])[1])  # type: ignore[index]
        side = 32 if isinstance(network, (SRResNet, RRDBNet)) else 256
        assert called(network, channels=channels, side=side) == expected, name


def options_of(preset: str) -> dict[str, object]:
    return vars(parse_options(["--dataroot", ".", "--preset", preset]))


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("cyclegan", {"gan_mode": "lsgan", "lambda_A": 10, "lambda_B": 10, "lambda_identity": 0.5, "pool_size": 50}),
        ("cyclegan", {"lr": 2e-4, "beta1": 0.5, "lr_policy": "linear", "n_epochs": 100, "n_epochs_decay": 100}),
        ("cyclegan-conv-blocks", {"gan_mode": "lsgan", "pixel_loss": "l1", "discriminator_first": True}),
        ("cyclegan-resize-convolution", {"gan_mode": "lsgan", "average_pairs": True, "pool_size": 50}),
        ("cyclegan-resize-convolution", {"lambda_A": 10, "lambda_identity": 0.5, "lr_policy": "linear"}),
        ("cyclegan-unet", {"gan_mode": "vanilla", "discriminator_first": True}),
        ("cut", {"lambda_NCE": 1.0, "nce_idt": True, "nce_layers": [0, 4, 8, 12, 16], "nce_T": 0.07, "netF_nc": 256}),
        ("cut", {"num_patches": 256, "n_epochs": 200, "n_epochs_decay": 200, "init_type": "xavier", "pool_size": 0}),
        ("fastcut", {"lambda_NCE": 10.0, "nce_idt": False, "flip_equivariance": True, "n_epochs_decay": 50}),
        ("pix2pix", {"gan_mode": "vanilla", "lambda_pixel": 100, "dataset_mode": "aligned", "pool_size": 0}),
        ("pix2pix", {"lr": 2e-4, "beta1": 0.5}),
        ("pix2pix-l1", {"lambda_gan": 0, "lambda_pixel": 100}),
        ("srgan", {"lambda_gan": 1e-3, "lambda_pixel": 1.0, "netD": "vgg"}),
        ("esrgan", {"lambda_gan": 1e-3, "netD": "vgg", "gan_mode": "ragan"}),
        ("real-esrgan", {"netD": "unet", "gan_mode": "vanilla"}),
        ("srgan-patch", {"netD": "basic"}),
        ("colorization", {"dataset_mode": "colorization", "gan_mode": "vanilla"}),
    ],
)
def test_losses_and_schedules(preset: str, expected: dict[str, object]) -> None:
    options = options_of(preset)
    assert {name: options[name] for name in expected} == expected


def test_the_command_line_wins_over_a_preset() -> None:
    options = parse_options(["--dataroot", ".", "--preset", "pix2pix-286", "--n_layers_D", "2", "--model", "pix2pix"])
    assert (options.n_layers_D, options.netD, options.norm) == (2, "n_layers", "batch")


def small_batch(model: TrainingModel) -> dict[str, Tensor]:
    """As small as the networks take."""
    side = model.size_multiple * max(1, -(-model.minimum_size // model.size_multiple))
    channels = (1, 2) if model.options.model == "colorization" else (3, 3)
    a, b = (torch.rand(1, c, side, side) for c in channels)
    if model.options.model == "super_resolution":
        a = torch.nn.functional.avg_pool2d(b, model.options.scale)
    return {"A": a, "B": b}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(preset: str, request: pytest.FixtureRequest) -> None:
    extra = request.getfixturevalue("style_files") if preset == "fast-style" else []
    model = made(preset, "--ngf", "4", "--ndf", "4", "--precision", "fp32", *extra)
    batch = small_batch(model)
    before = {name: [p.detach().clone() for p in n.parameters()] for name, n in model.networks.items()}
    losses = model.step(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, network in model.networks.items():
        moved = [not torch.equal(p, q) for p, q in zip(network.parameters(), before[name], strict=True)]
        assert sum(moved) > len(moved) / 2
