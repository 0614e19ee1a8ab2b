"""Discriminators of image-to-image GANs. Their outputs are logits, except where `reflect` has its published sigmoid.

| name | output | from |
|---|---|---|
| pixel | [N, 1, H, W], one value per pixel | pix2pix (Isola et al., arXiv:1611.07004), "PixelGAN" |
| basic, n_layers | [N, 1, h, w], patches of 16, 34, 70, 142, 286 pixels with 1 to 5 layers; basic has 3 | pix2pix |
| reflect | [N, 1, h, w], patches of 70 pixels, all convolutions padded by reflection | CycleGAN in blocks |
| zero_pad | [N, 1, H/16, W/16] | CycleGAN with resize-convolution |
| vgg | [N, 1], one value per image | SRGAN (Ledig et al., arXiv:1609.04802) |
| unet | [N, 1, H, W], each value sees far around its pixel | Real-ESRGAN (Wang et al., arXiv:2107.10833) |
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from engine.errors import EngineError
from engine.generators.base import normalisation
from engine.generators.resnet import BlurDownsample


class Discriminator(nn.Module):
    """An image, float [N, C, H, W] -> how real it looks.

    Args:
        minimum_size: smallest height and width.
        multiple: height and width have to be multiples of it.
        parts: modules that are applied in turn; their names begin the names of the parameters.
    """

    def __init__(self, *, minimum_size: int, multiple: int = 1, **parts: nn.Module) -> None:
        super().__init__()
        self.minimum_size, self.multiple = minimum_size, multiple
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, image: Tensor) -> Tensor:
        for part in self.children():
            image = part(image)
        return image


def patch_discriminator(in_channels: int, width: int, layers: int, norm: str, *, blur: bool = False) -> Discriminator:
    """4x4 convolutions: `layers` of stride 2, two of stride 1; parameter names of the reference implementation.

    With `blur`, each stride of 2 is a convolution of stride 1, and an anti-aliased halving after the activation, with
    CUT's parameter names. The norm is left out after the first and the last convolution. Convolutions before a
    BatchNorm have no bias.
    """
    if layers < 0:
        raise EngineError(f"a discriminator of {layers} layers: accepted are 0 and more")
    widths = [width * min(2**level, 8) for level in range(layers + 1)]
    halving = 1 if blur else 2
    stack: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=halving, padding=1), nn.LeakyReLU(0.2)]
    if blur:
        stack.append(BlurDownsample(width))
    for level, (before, after) in enumerate(itertools.pairwise(widths), 1):
        stride = halving if level < layers else 1
        stack += [
            nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=norm != "batch"),
            normalisation(norm, after, affine=False),
            nn.LeakyReLU(0.2),
        ]
        if blur and level < layers:
            stack.append(BlurDownsample(after))
    return Discriminator(minimum_size=3 << layers, model=nn.Sequential(*stack, nn.Conv2d(widths[-1], 1, 4, padding=1)))


def pixel_discriminator(in_channels: int, width: int, norm: str) -> Discriminator:
    """1x1 convolutions: each pixel by itself; parameter names (`net.N`) of the reference implementation."""
    bias = norm != "batch"
    net = nn.Sequential(
        nn.Conv2d(in_channels, width, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 1, bias=bias),
        normalisation(norm, 2 * width, affine=False),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 1, bias=bias),
    )
    return Discriminator(minimum_size=2, net=net)


def reflect_discriminator(in_channels: int, width: int, norm: str, *, sigmoid: bool) -> Discriminator:
    """Four 4x4 convolutions of strides 2, 2, 2, 1 and a last one of stride 1, each padded by reflection.

    Args:
        sigmoid: the output is between 0 and 1, as published, for a squared error.
    """

    def convolution(before: int, after: int, stride: int) -> nn.Module:
        return nn.Conv2d(before, after, 4, stride=stride, padding=1, padding_mode="reflect")

    initial = nn.Sequential(convolution(in_channels, width, 2), nn.LeakyReLU(0.2))
    blocks = [
        _Block(
            convolution(width << level, width << (level + 1), 1 if level == 2 else 2),
            normalisation(norm, width << (level + 1), affine=False),
            nn.LeakyReLU(0.2),
        )
        for level in range(3)
    ]
    return Discriminator(
        minimum_size=24,
        initial=initial,
        model=nn.Sequential(*blocks, convolution(8 * width, 1, 1)),
        activation=nn.Sigmoid() if sigmoid else nn.Identity(),
    )


def zero_pad_discriminator(in_channels: int, width: int, norm: str) -> Discriminator:
    """Four 4x4 convolutions of stride 2, a zero pad at the left and the top, a 4x4 convolution: side / 16."""
    stack: list[nn.Module] = []
    for level in range(4):
        before, after = width << (level - 1) if level else in_channels, width << level
        norms = [normalisation(norm, after, affine=False)] if level else []
        stack += [nn.Conv2d(before, after, 4, stride=2, padding=1), *norms, nn.LeakyReLU(0.2)]
    model = nn.Sequential(*stack, nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(8 * width, 1, 4, padding=1))
    return Discriminator(minimum_size=32, multiple=16, model=model)


def vgg_discriminator(in_channels: int, width: int, norm: str) -> Discriminator:
    """VGG-style classifier: pairs of a 3x3 convolution and a 4x4 one of stride 2, then two linear layers.

    The features are averaged to 4x4 before the linear layers, so that every size is accepted.
    """
    stack: list[nn.Module] = []
    channels = in_channels
    for level, after in enumerate([width, 2 * width, 4 * width, 8 * width, 8 * width]):
        for kernel, stride in ((3, 1), (4, 2)):
            is_first = level == 0 and stride == 1
            stack += [
                nn.Conv2d(channels, after, kernel, stride=stride, padding=1, bias=is_first),
                nn.Identity() if is_first else normalisation(norm, after, affine=True),
                nn.LeakyReLU(0.2),
            ]
            channels = after
    return Discriminator(
        minimum_size=64,
        features=nn.Sequential(*stack),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten()),
        classifier=nn.Sequential(nn.Linear(16 * channels, 100), nn.LeakyReLU(0.2), nn.Linear(100, 1)),
    )


class UNetDiscriminator(Discriminator):
    """U-Net with spectral normalisation: three halvings, three bilinear doublings with the skips added.

    Parameter names are Real-ESRGAN's, `conv0` to `conv9`, which needs the older of torch's two spectral norms.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__(minimum_size=8, multiple=8)
        self.conv0 = nn.Conv2d(in_channels, width, 3, padding=1)
        sizes = [(1, 2, 4), (2, 4, 4), (4, 8, 4), (8, 4, 3), (4, 2, 3), (2, 1, 3), (1, 1, 3), (1, 1, 3)]
        for number, (before, after, kernel) in enumerate(sizes, 1):
            stride = 2 if kernel == 4 else 1
            layer = nn.Conv2d(before * width, after * width, kernel, stride=stride, padding=1, bias=False)
            self.add_module(f"conv{number}", spectral_norm(layer))
        self.conv9 = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        def layer(number: int, x: Tensor, skip: Tensor | None = None) -> Tensor:
            x = x if skip is None else F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            y = F.leaky_relu(self.get_submodule(f"conv{number}")(x), 0.2)
            return y if skip is None else y + skip

        full = layer(0, image)
        half = layer(1, full)
        quarter = layer(2, half)
        x = layer(4, layer(3, quarter), quarter)
        x = layer(6, layer(5, x, half), full)
        output: Tensor = self.conv9(layer(8, layer(7, x)))
        return output


class _Block(nn.Module):
    """Layers under the name `conv`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


# `--netD` -> the discriminator, from input channels, --ndf, --n_layers_D, --norm, and whether it may end in a sigmoid.
_DISCRIMINATORS: dict[str, Callable[[int, int, int, str, bool], Discriminator]] = {
    "basic": lambda channels, width, _, norm, __: patch_discriminator(channels, width, 3, norm),
    "n_layers": lambda channels, width, layers, norm, _: patch_discriminator(channels, width, layers, norm),
    "pixel": lambda channels, width, _, norm, __: pixel_discriminator(channels, width, norm),
    "reflect": lambda channels, width, _, norm, sigmoid: reflect_discriminator(channels, width, norm, sigmoid=sigmoid),
    "zero_pad": lambda channels, width, _, norm, __: zero_pad_discriminator(channels, width, norm),
    "vgg": lambda channels, width, _, norm, __: vgg_discriminator(channels, width, norm),
    "unet": lambda channels, width, *_: UNetDiscriminator(channels, width),
}

DISCRIMINATORS = tuple(_DISCRIMINATORS)


def build_discriminator(
    name: str,
    in_channels: int,
    *,
    width: int = 64,
    layers: int = 3,
    norm: str = "instance",
    gan_mode: str = "lsgan",
    blur: bool = False,
) -> Discriminator:
    """Builds a discriminator with fresh weights.

    Args:
        name: one of `DISCRIMINATORS`.
        in_channels: channels of the image; of input and output together where the discriminator is conditional.
        width: channels after the first convolution.
        layers: convolutions of stride 2 of `n_layers`.
        norm: "instance", "batch" or "none".
        gan_mode: the loss it is trained with; only lsgan gets a sigmoid's output from a discriminator that has one.
        blur: basic and n_layers halve with anti-aliasing; others ignore it.

    Raises:
        EngineError: the name is unknown.
    """
    if blur and name in ("basic", "n_layers"):
        return patch_discriminator(in_channels, width, 3 if name == "basic" else layers, norm, blur=True)
    if name not in _DISCRIMINATORS:
        raise EngineError(f"unknown discriminator {name!r}: accepted are {', '.join(DISCRIMINATORS)}")
    return _DISCRIMINATORS[name](in_channels, width, layers, norm, gan_mode == "lsgan")
