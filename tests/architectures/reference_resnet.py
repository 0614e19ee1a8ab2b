"""The ResNet of the reference CycleGAN implementation; with dropout also GAN Compression's full models."""

from torch import nn


def norms(kind):
    """Returns (layer for a number of channels, whether convolutions before it have a bias)."""
    make = {
        "instance": lambda channels: nn.InstanceNorm2d(channels),
        "affine": lambda channels: nn.InstanceNorm2d(channels, affine=True),
        "batch": lambda channels: nn.BatchNorm2d(channels),
        "none": lambda channels: nn.Identity(),
    }
    return make[kind], kind in ("instance", "affine")


class Block(nn.Module):
    def __init__(self, c, norm, bias, *, zero_padding=False, dropout=False):
        super().__init__()
        pad = [] if zero_padding else [nn.ReflectionPad2d(1)]
        first = [*pad, nn.Conv2d(c, c, 3, 1, int(zero_padding), bias=bias), norm(c), nn.ReLU()]
        second = [*pad, nn.Conv2d(c, c, 3, 1, int(zero_padding), bias=bias), norm(c)]
        self.conv_block = nn.Sequential(*first, *([nn.Dropout()] if dropout else []), *second)

    def forward(self, picture):
        return picture + self.conv_block(picture)


class ReferenceResNet(nn.Module):
    def __init__(self, blocks=9, width=12, norm="instance", *, colours=(3, 3), zero_padding=False, dropout=False):
        super().__init__()
        n, b = norms(norm)
        c = width
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(colours[0], c, 7, bias=b), n(c), nn.ReLU(),
            nn.Conv2d(c, 2 * c, 3, 2, 1, bias=b), n(2 * c), nn.ReLU(),
            nn.Conv2d(2 * c, 4 * c, 3, 2, 1, bias=b), n(4 * c), nn.ReLU(),
            *(Block(4 * c, n, b, zero_padding=zero_padding, dropout=dropout) for _ in range(blocks)),
            nn.ConvTranspose2d(4 * c, 2 * c, 3, 2, 1, 1, bias=b), n(2 * c), nn.ReLU(),
            nn.ConvTranspose2d(2 * c, c, 3, 2, 1, 1, bias=b), n(c), nn.ReLU(),
            nn.ReflectionPad2d(3), nn.Conv2d(c, colours[1], 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, picture):
        return self.model(picture)
