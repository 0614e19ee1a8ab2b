"""The U-Net of the reference pix2pix implementation."""

from itertools import pairwise

import torch
from torch import nn

from tests.architectures.reference_resnet import norms


class Level(nn.Module):
    """One level, with the smaller ones inside; the in-place LeakyReLU changes what is concatenated, as there."""

    def __init__(self, layers, top=False):
        super().__init__()
        self.top = top
        self.model = nn.Sequential(*layers)

    def forward(self, features):
        result = self.model(features)
        return result if self.top else torch.cat((features, result), 1)


class ReferenceUNet(nn.Module):
    def __init__(self, downs=8, width=8, norm="batch", *, colours=(3, 3), dropout=True):
        super().__init__()
        n, b = norms(norm)
        widths = [width * min(2**level, 8) for level in range(downs)]

        def down(inputs, outputs):
            return nn.Conv2d(inputs, outputs, 4, 2, 1, bias=b)

        def up(inputs, outputs, bias=b):
            return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)

        small, smallest = widths[-2:]
        level = Level([nn.LeakyReLU(0.2, True), down(small, smallest), nn.ReLU(True), up(smallest, small), n(small)])
        for outer, inner in reversed(list(pairwise(widths[:-1]))):
            layers = [nn.LeakyReLU(0.2, True), down(outer, inner), n(inner), level]
            layers += [nn.ReLU(True), up(2 * inner, outer), n(outer)]
            level = Level([*layers, nn.Dropout()] if dropout and outer == inner else layers)
        top = [down(colours[0], width), level, nn.ReLU(True), up(2 * width, colours[1], True), nn.Tanh()]
        self.model = Level(top, top=True)

    def forward(self, picture):
        return self.model(picture)
