"""TransformerNet of PyTorch's fast_neural_style example. Values in [0, 255]."""

import torch.nn.functional as F
from torch import nn


class Conv(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride=1, resize=1):
        super().__init__()
        self.margin, self.resize = kernel // 2, resize
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, picture):
        if self.resize > 1:
            picture = picture.repeat_interleave(self.resize, 2).repeat_interleave(self.resize, 3)
        return self.conv2d(F.pad(picture, [self.margin] * 4, "reflect"))


class Residual(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.in1 = Conv(c, c, 3), nn.InstanceNorm2d(c, affine=True)
        self.conv2, self.in2 = Conv(c, c, 3), nn.InstanceNorm2d(c, affine=True)

    def forward(self, picture):
        return picture + self.in2(self.conv2(self.in1(self.conv1(picture)).relu()))


class FastStyleNet(nn.Module):
    def __init__(self, w=12, blocks=5):
        super().__init__()
        stages = {
            "1": ("conv1", Conv(3, w, 9)),
            "2": ("conv2", Conv(w, 2 * w, 3, 2)),
            "3": ("conv3", Conv(2 * w, 4 * w, 3, 2)),
            "4": ("deconv1", Conv(4 * w, 2 * w, 3, resize=2)),
            "5": ("deconv2", Conv(2 * w, w, 3, resize=2)),
        }
        for number, (name, layer) in stages.items():
            self.add_module(name, layer)
            self.add_module(f"in{number}", nn.InstanceNorm2d(layer.conv2d.out_channels, affine=True))
        for number in range(1, blocks + 1):
            self.add_module(f"res{number}", Residual(4 * w))
        self.deconv3 = Conv(w, 3, 9)
        self.blocks = blocks

    def forward(self, picture):
        for number in (1, 2, 3):
            picture = self.get_submodule(f"in{number}")(self.get_submodule(f"conv{number}")(picture)).relu()
        for number in range(self.blocks):
            picture = self.get_submodule(f"res{number + 1}")(picture)
        for number in (1, 2):
            picture = self.get_submodule(f"in{number + 3}")(self.get_submodule(f"deconv{number}")(picture)).relu()
        return self.deconv3(picture)
