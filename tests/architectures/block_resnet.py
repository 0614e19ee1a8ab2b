"""The block-style ResNet: every convolution pads by reflection, the stride-2 ones too."""

from torch import nn


class Unit(nn.Module):
    """A convolution, its norm and perhaps a ReLU, in `conv`."""

    def __init__(self, convolution, norm, relu=True):
        super().__init__()
        self.conv = nn.Sequential(convolution, norm(convolution.out_channels), *([nn.ReLU()] if relu else []))

    def forward(self, picture):
        return self.conv(picture)


def reflect(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect")


def double_size(inputs, outputs):
    return nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1)


class Block(nn.Module):
    def __init__(self, c, norm):
        super().__init__()
        self.block = nn.Sequential(Unit(reflect(c, c, 3), norm), Unit(reflect(c, c, 3), norm, relu=False))

    def forward(self, picture):
        return self.block(picture) + picture


class BlockResNet(nn.Module):
    def __init__(self, blocks=9, width=12, norm=nn.InstanceNorm2d, *, colours=3):
        super().__init__()
        w = width
        self.initial = nn.Sequential(reflect(colours, w, 7), norm(w), nn.ReLU())
        self.down_blocks = nn.ModuleList([Unit(reflect(w, 2 * w, 3, 2), norm), Unit(reflect(2 * w, 4 * w, 3, 2), norm)])
        self.res_blocks = nn.Sequential(*(Block(4 * w, norm) for _ in range(blocks)))
        self.up_blocks = nn.ModuleList([Unit(double_size(4 * w, 2 * w), norm), Unit(double_size(2 * w, w), norm)])
        self.last = reflect(w, colours, 7)

    def forward(self, picture):
        stages = [self.initial, *self.down_blocks, self.res_blocks, *self.up_blocks, self.last]
        for stage in stages:
            picture = stage(picture)
        return picture.tanh()
