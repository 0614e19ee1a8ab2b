"""Discriminators of image-to-image GANs. All give numbers before any sigmoid, but where `sigmoid` is asked for.

| name | output | from |
|---|---|---|
| pixel | [N, 1, H, W], each of one pixel | pix2pix (Isola et al., arXiv:1611.07004), "PixelGAN" |
| basic, n_layers | [N, 1, h, w], patches of 16, 34, 70, 142, 286 pixels with 1 to 5 layers; basic has 3 | pix2pix |
| reflect | [N, 1, h, w], patches of 70 pixels, all convolutions padded by reflection | CycleGAN in blocks |
| zero_pad | [N, 1, H/16, W/16] | CycleGAN with resize-convolution |
| vgg | [N, 1], the whole image | SRGAN (Ledig et al., arXiv:1609.04802) |
| unet | [N, 1, H, W], each seeing far around itself | Real-ESRGAN (Wang et al., arXiv:2107.10833) |
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from engine.errors import EngineError
from engine.generators.base import normalisation


class Discriminator(nn.Module):
    """An image -> how real it looks.

    Attributes:
        multiple: height and width have to be multiples of it.
        minimum_size: smallest height and width.
    """

    multiple: int = 1
    minimum_size: int = 1

    def forward(self, image: Tensor) -> Tensor:
        """Judges `image`, float [N, C, H, W]."""
        raise TypeError(f"{type(self).__name__} defines no forward")


class PatchDiscriminator(Discriminator):
    """4x4 convolutions: `layers` of stride 2, two of stride 1; parameter names of the reference implementation.

    The norm is left out after the first and the last convolution. Convolutions before an affine norm have no bias.
    """

    def __init__(self, in_channels: int, *, width: int = 64, layers: int = 3, norm: str = "instance") -> None:
        super().__init__()
        if layers < 0:
            raise EngineError(f"a discriminator of {layers} layers: accepted are 0 and more")
        bias = norm != "batch"
        widths = [width * min(2**level, 8) for level in range(layers + 1)]
        stack: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, layers + 1):
            stride = 2 if level < layers else 1
            stack += [
                nn.Conv2d(widths[level - 1], widths[level], 4, stride=stride, padding=1, bias=bias),
                normalisation(norm, widths[level], affine=False),
                nn.LeakyReLU(0.2),
            ]
        self.model = nn.Sequential(*stack, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.minimum_size = 3 << layers

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


class PixelDiscriminator(Discriminator):
    """1x1 convolutions: each pixel by itself; parameter names (`net.N`) of the reference implementation."""

    def __init__(self, in_channels: int, *, width: int = 64, norm: str = "instance") -> None:
        super().__init__()
        bias = norm != "batch"
        self.net = nn.Sequential(
            nn.Conv2d(in_channels, width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 1, bias=bias),
            normalisation(norm, 2 * width, affine=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 1, bias=bias),
        )
        self.minimum_size = 2

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)


class ReflectDiscriminator(Discriminator):
    """Four 4x4 convolutions of strides 2, 2, 2, 1 and a last one of stride 1, each padded by reflection.

    Args:
        sigmoid: the output is between 0 and 1, as published, where it goes with a squared error.
    """

    def __init__(self, in_channels: int, *, width: int = 64, norm: str = "instance", sigmoid: bool = True) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.initial = nn.Sequential(_reflected(in_channels, width, stride=2), nn.LeakyReLU(0.2))
        blocks: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            stride = 1 if after == widths[-1] else 2
            convolution = _reflected(before, after, stride=stride)
            blocks.append(_Block(convolution, normalisation(norm, after, affine=False), nn.LeakyReLU(0.2)))
        self.model = nn.Sequential(*blocks, _reflected(widths[-1], 1, stride=1))
        self.sigmoid = sigmoid
        self.minimum_size = 24

    def forward(self, image: Tensor) -> Tensor:
        output = self.model(self.initial(image))
        return torch.sigmoid(output) if self.sigmoid else output


class ZeroPadDiscriminator(Discriminator):
    """Four 4x4 convolutions of stride 2, a zero pad at the left and the top, a 4x4 convolution: side / 16."""

    def __init__(self, in_channels: int, *, width: int = 64, norm: str = "instance") -> None:
        super().__init__()
        stack: list[nn.Module] = []
        channels = in_channels
        for level in range(4):
            stack.append(nn.Conv2d(channels, width << level, 4, stride=2, padding=1))
            if level:
                stack.append(normalisation(norm, width << level, affine=False))
            stack.append(nn.LeakyReLU(0.2))
            channels = width << level
        self.model = nn.Sequential(*stack, nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(channels, 1, 4, padding=1))
        self.multiple = 16
        self.minimum_size = 32

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


class VggDiscriminator(Discriminator):
    """VGG-style classifier: pairs of a 3x3 convolution and a 4x4 one of stride 2, then two linear layers.

    The features are averaged to 4x4 before the linear layers, so that every size is taken.
    """

    def __init__(self, in_channels: int, *, width: int = 64, norm: str = "batch") -> None:
        super().__init__()
        stack: list[nn.Module] = []
        channels = in_channels
        for level, after in enumerate([width, 2 * width, 4 * width, 8 * width, 8 * width]):
            for kernel, stride in ((3, 1), (4, 2)):
                is_first = level == 0 and stride == 1
                stack.append(nn.Conv2d(channels, after, kernel, stride=stride, padding=1, bias=is_first))
                stack.append(nn.Identity() if is_first else normalisation(norm, after, affine=True))
                stack.append(nn.LeakyReLU(0.2))
                channels = after
        self.features = nn.Sequential(*stack)
        self.classifier = nn.Sequential(nn.Linear(16 * channels, 100), nn.LeakyReLU(0.2), nn.Linear(100, 1))
        self.minimum_size = 64

    def forward(self, image: Tensor) -> Tensor:
        features = F.adaptive_avg_pool2d(self.features(image), 4)
        output: Tensor = self.classifier(features.flatten(1))
        return output


class UNetDiscriminator(Discriminator):
    """U-Net with spectral normalisation: three halvings, three bilinear doublings with the skips added.

    Parameter names are Real-ESRGAN's, `conv0` to `conv9`, which needs the older of torch's two spectral norms.
    """

    def __init__(self, in_channels: int, *, width: int = 64) -> None:
        super().__init__()

        def convolution(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Module:
            return spectral_norm(nn.Conv2d(before, after, kernel, stride=stride, padding=1, bias=False))

        self.conv0 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.conv1 = convolution(width, 2 * width, 4, 2)
        self.conv2 = convolution(2 * width, 4 * width, 4, 2)
        self.conv3 = convolution(4 * width, 8 * width, 4, 2)
        self.conv4 = convolution(8 * width, 4 * width)
        self.conv5 = convolution(4 * width, 2 * width)
        self.conv6 = convolution(2 * width, width)
        self.conv7 = convolution(width, width)
        self.conv8 = convolution(width, width)
        self.conv9 = nn.Conv2d(width, 1, 3, padding=1)
        self.multiple = 8
        self.minimum_size = 8

    def forward(self, image: Tensor) -> Tensor:
        full = _leaky(self.conv0(image))
        half = _leaky(self.conv1(full))
        quarter = _leaky(self.conv2(half))
        eighth = _leaky(self.conv3(quarter))
        quarter = _leaky(self.conv4(_doubled(eighth))) + quarter
        half = _leaky(self.conv5(_doubled(quarter))) + half
        full = _leaky(self.conv6(_doubled(half))) + full
        output: Tensor = self.conv9(_leaky(self.conv8(_leaky(self.conv7(full)))))
        return output


class _Block(nn.Module):
    """Layers under the name `conv`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _reflected(in_channels: int, out_channels: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 4, stride=stride, padding=1, padding_mode="reflect")


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


# `--netD` -> how to build it from the input's channels, --ndf, --n_layers_D, --norm, and whether the GAN loss takes a
# sigmoid's output.
_DISCRIMINATORS: dict[str, Callable[[int, int, int, str, bool], Discriminator]] = {
    "basic": lambda channels, width, layers, norm, sigmoid: PatchDiscriminator(channels, width=width, norm=norm),
    "n_layers": lambda channels, width, layers, norm, sigmoid: PatchDiscriminator(
        channels, width=width, layers=layers, norm=norm
    ),
    "pixel": lambda channels, width, layers, norm, sigmoid: PixelDiscriminator(channels, width=width, norm=norm),
    "reflect": lambda channels, width, layers, norm, sigmoid: ReflectDiscriminator(
        channels, width=width, norm=norm, sigmoid=sigmoid
    ),
    "zero_pad": lambda channels, width, layers, norm, sigmoid: ZeroPadDiscriminator(channels, width=width, norm=norm),
    "vgg": lambda channels, width, layers, norm, sigmoid: VggDiscriminator(channels, width=width, norm=norm),
    "unet": lambda channels, width, layers, norm, sigmoid: UNetDiscriminator(channels, width=width),
}

DISCRIMINATORS = tuple(_DISCRIMINATORS)


def build_discriminator(
    name: str, in_channels: int, *, width: int = 64, layers: int = 3, norm: str = "instance", gan_mode: str = "lsgan"
) -> Discriminator:
    """Builds a discriminator with fresh weights.

    Args:
        name: one of `DISCRIMINATORS`.
        in_channels: of the image; of input and output together where the discriminator is conditional.
        width: channels after the first convolution.
        layers: convolutions of stride 2 of `n_layers`.
        norm: "instance", "batch" or "none".
        gan_mode: the loss it is trained with; only lsgan gets a sigmoid's output from a discriminator that has one.

    Raises:
        EngineError: no such discriminator.
    """
    if name not in _DISCRIMINATORS:
        raise EngineError(f"unknown discriminator {name!r}: accepted are {', '.join(DISCRIMINATORS)}")
    return _DISCRIMINATORS[name](in_channels, width, layers, norm, gan_mode == "lsgan")


def receptive_field(convolutions: Sequence[tuple[int, int]]) -> int:
    """Side in pixels of what one output value sees, of (kernel, stride) of each convolution from first to last."""
    side = 1
    for kernel, stride in reversed(convolutions):
        side = (side - 1) * stride + kernel
    return side


def convolutions_of(discriminator: nn.Module) -> list[tuple[int, int]]:
    """(kernel, stride) of the convolutions of a discriminator whose layers follow one another."""
    layers: list[Any] = [layer for layer in discriminator.modules() if isinstance(layer, nn.Conv2d)]
    return [(layer.kernel_size[0], layer.stride[0]) for layer in layers]
