"""AnimeGANv2's generator in PyTorch."""

import torch.nn.functional as F
from torch import nn


def unit(inputs, outputs, kernel=3, halve=False, depthwise=False):
    """Reflect padding (right and bottom only where the size is halved), convolution, layer norm, LeakyReLU."""
    margin = [0, 1, 0, 1] if halve else [kernel // 2] * 4
    groups = inputs if depthwise else 1
    convolution = nn.Conv2d(inputs, outputs, kernel, 2 if halve else 1, groups=groups, bias=depthwise)
    return nn.Sequential(nn.ReflectionPad2d(margin), convolution, nn.GroupNorm(1, outputs), nn.LeakyReLU(0.2))


class Inverted(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        c = 2 * inputs
        project = nn.Conv2d(c, outputs, 1, bias=False)
        self.layers = nn.Sequential(unit(inputs, c, 1), unit(c, c, depthwise=True), project, nn.GroupNorm(1, outputs))

    def forward(self, picture):
        result = self.layers(picture)
        return picture + result if picture.shape == result.shape else result


class AnimeNet(nn.Module):
    def __init__(self, w=8):
        super().__init__()
        w2, w4, w8 = 2 * w, 4 * w, 8 * w
        self.block_a = nn.Sequential(unit(3, w, 7), unit(w, w2, halve=True), unit(w2, w2))
        self.block_b = nn.Sequential(unit(w2, w4, halve=True), unit(w4, w4))
        inverted = [Inverted(w4, w8), Inverted(w8, w8), Inverted(w8, w8), Inverted(w8, w8)]
        self.block_c = nn.Sequential(unit(w4, w4), *inverted, unit(w8, w4))
        self.block_d = nn.Sequential(unit(w4, w4), unit(w4, w4))
        self.block_e = nn.Sequential(unit(w4, w2), unit(w2, w2), unit(w2, w, 7))
        self.out_layer = nn.Sequential(nn.Conv2d(w, 3, 1, bias=False), nn.Tanh())

    def forward(self, picture):
        a = self.block_a(picture)
        c = self.block_c(self.block_b(a))
        d = self.block_d(F.interpolate(c, a.shape[2:], mode="bilinear", align_corners=True))
        e = self.block_e(F.interpolate(d, picture.shape[2:], mode="bilinear", align_corners=True))
        return self.out_layer(e)
