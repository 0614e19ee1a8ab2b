"""The anti-aliased ResNet of CUT: blur buffers `filt` after the downsampling and before the upsampling convolutions."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.architectures.reference_resnet import Block, norms


class Blur(nn.Module):
    def __init__(self, channels, taps, gain):
        super().__init__()
        row = torch.tensor(taps) / sum(taps)
        kernel = gain * row.view(-1, 1) @ row.view(1, -1)
        self.register_buffer("filt", kernel.expand(channels, 1, -1, -1).clone())


class Halve(Blur):
    def __init__(self, channels):
        super().__init__(channels, [1.0, 2.0, 1.0], 1.0)

    def forward(self, picture):
        framed = F.pad(picture, [1] * 4, "reflect")
        return F.conv2d(framed, self.filt, None, 2, 0, 1, len(self.filt))


class Double(Blur):
    """The transposed filter pads by 2, then loses one row and column at each side."""

    def __init__(self, channels):
        super().__init__(channels, [1.0, 3.0, 3.0, 1.0], 4.0)

    def forward(self, picture):
        framed = F.pad(picture, [1] * 4, "replicate")
        return F.conv_transpose2d(framed, self.filt, None, 2, 2, 0, len(self.filt))[..., 1:-1, 1:-1]


class CUTResNet(nn.Module):
    def __init__(self, blocks=9, width=12, norm="instance", *, blur_down=True, blur_up=True):
        super().__init__()
        n, b = norms(norm)

        def down(c):
            convolution = nn.Conv2d(c, 2 * c, 3, 1 if blur_down else 2, 1, bias=b)
            return [convolution, n(2 * c), nn.ReLU(), *([Halve(2 * c)] if blur_down else [])]

        def up(c):
            blurred = [Double(c), nn.Conv2d(c, c // 2, 3, 1, 1, bias=b)]
            transposed = [nn.ConvTranspose2d(c, c // 2, 3, 2, 1, 1, bias=b)]
            return [*(blurred if blur_up else transposed), n(c // 2), nn.ReLU()]

        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7, bias=b), n(width), nn.ReLU()]
        layers += [*down(width), *down(2 * width), *(Block(4 * width, n, b) for _ in range(blocks))]
        layers += [*up(4 * width), *up(2 * width), nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, picture):
        return self.model(picture)
