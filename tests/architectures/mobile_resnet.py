"""GAN Compression's mobile ResNet: separable convolutions in the blocks, widths of their own per layer."""

from torch import nn

from tests.architectures.reference_resnet import norms


class Separable(nn.Module):
    def __init__(self, inputs, outputs, n, b):
        super().__init__()
        depthwise = nn.Conv2d(inputs, inputs, 3, groups=inputs, bias=b)
        self.conv = nn.Sequential(depthwise, n(inputs), nn.Conv2d(inputs, outputs, 1, bias=b))

    def forward(self, picture):
        return self.conv(picture)


class MobileBlock(nn.Module):
    def __init__(self, outer, inner, n, b):
        super().__init__()
        first = [nn.ReflectionPad2d(1), Separable(outer, inner, n, b), n(inner), nn.ReLU(), nn.Dropout(0)]
        second = [nn.ReflectionPad2d(1), Separable(inner, outer, n, b), n(outer)]
        self.conv_block = nn.Sequential(*first, *second)

    def forward(self, picture):
        return self.conv_block(picture) + picture


class MobileResNet(nn.Module):
    """`widths`: after the first convolution, the downsamplings, inside each block, after the upsamplings."""

    def __init__(self, widths=(8, 16, 32, 32, 32, 32, 16, 8), norm="instance"):
        super().__init__()
        n, b = norms(norm)
        w0, w1, w2, *inner, w3, w4 = widths
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, w0, 7, bias=b), n(w0), nn.ReLU(),
            nn.Conv2d(w0, w1, 3, 2, 1, bias=b), n(w1), nn.ReLU(),
            nn.Conv2d(w1, w2, 3, 2, 1, bias=b), n(w2), nn.ReLU(),
            *(MobileBlock(w2, width, n, b) for width in inner),
            nn.ConvTranspose2d(w2, w3, 3, 2, 1, 1, bias=b), n(w3), nn.ReLU(),
            nn.ConvTranspose2d(w3, w4, 3, 2, 1, 1, bias=b), n(w4), nn.ReLU(),
            nn.ReflectionPad2d(3), nn.Conv2d(w4, 3, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, picture):
        return self.model(picture)
