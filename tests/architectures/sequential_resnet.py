"""ResNets as tutorials write them: one nn.Sequential in `model`, blocks with `block`."""

from itertools import pairwise

from torch import nn


class Block(nn.Module):
    def __init__(self, c, norm, bias, zero_padded):
        super().__init__()
        halves = []
        for activation in ([nn.ReLU()], []):
            halves += [] if zero_padded else [nn.ReflectionPad2d(1)]
            halves += [nn.Conv2d(c, c, 3, padding=1 if zero_padded else 0, bias=bias), norm(c), *activation]
        self.block = nn.Sequential(*halves)

    def forward(self, picture):
        return self.block(picture) + picture


class SequentialResNet(nn.Module):
    """`upsampling`: "resize" (nearest and a zero-padded convolution), "resize-reflect" or "transposed"."""

    def __init__(
        self,
        upsampling="resize",
        *,
        colours=3,
        width=12,
        blocks=3,
        norm=nn.InstanceNorm2d,
        bias=True,
        downs=2,
        zero_padded=False,
        reflect_down=False,
    ):
        super().__init__()
        pad = [] if zero_padded else [nn.ReflectionPad2d(3)]
        p = 3 if zero_padded else 0
        layers = [*pad, nn.Conv2d(colours, width, 7, 1, p, bias=bias), norm(width), nn.ReLU()]
        widths = [width * 2**level for level in range(downs + 1)]
        for c, double in pairwise(widths):
            layers += [nn.ReflectionPad2d(1)] if reflect_down else []
            layers += [nn.Conv2d(c, double, 3, 2, int(not reflect_down), bias=bias), norm(double), nn.ReLU()]
        layers += [Block(widths[-1], norm, bias, zero_padded) for _ in range(blocks)]
        for half, c in reversed(list(pairwise(widths))):
            layers += {
                "transposed": lambda c, half: [nn.ConvTranspose2d(c, half, 3, 2, 1, 1, bias=bias)],
                "resize": lambda c, half: [nn.Upsample(scale_factor=2), nn.Conv2d(c, half, 3, 1, 1, bias=bias)],
                "resize-reflect": lambda c, half: [
                    nn.Upsample(scale_factor=2),
                    nn.ReflectionPad2d(1),
                    nn.Conv2d(c, half, 3, bias=bias),
                ],
            }[upsampling](c, half)
            layers += [norm(half), nn.ReLU()]
        self.model = nn.Sequential(*layers, *pad, nn.Conv2d(width, colours, 7, 1, p), nn.Tanh())

    def forward(self, picture):
        return self.model(picture)
