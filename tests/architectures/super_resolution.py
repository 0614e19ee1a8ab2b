"""RRDBNet, SRVGGNetCompact and MSRResNet as in BasicSR and Real-ESRGAN; ESRGAN's first RRDBNets. Values in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def double(picture):
    return picture.repeat_interleave(2, 2).repeat_interleave(2, 3)


def fold(picture, factor):
    """Space to depth: channel c, row y, column x within a cell becomes channel (c * factor + y) * factor + x."""
    cells = [picture[:, :, y::factor, x::factor] for y in range(factor) for x in range(factor)]
    return torch.stack(cells, 2).flatten(1, 2)


class Dense(nn.Module):
    """`conv1` to `conv5`; `nested` puts each in a sequence, as the oldest layout did."""

    def __init__(self, w, g, nested=False):
        super().__init__()
        for number in range(1, 6):
            layer = conv(w + (number - 1) * g, w if number == 5 else g)
            self.add_module(f"conv{number}", nn.Sequential(layer) if nested else layer)

    def forward(self, picture):
        known = picture
        for number in range(1, 5):
            new = F.leaky_relu(self.get_submodule(f"conv{number}")(known), 0.2)
            known = torch.cat((known, new), 1)
        return picture + self.conv5(known) / 5


class TripleDense(nn.Module):
    def __init__(self, w, g, prefix="rdb", nested=False):
        super().__init__()
        for number in (1, 2, 3):
            self.add_module(f"{prefix}{number}", Dense(w, g, nested))

    def forward(self, picture):
        result = picture
        for block in self.children():
            result = block(result)
        return picture + result / 5


class RealESRGANNet(nn.Module):
    """`scale` 2 and 1 fold the input by 2 and 4 first."""

    def __init__(self, scale=4, w=12, blocks=2, g=6, colours=(3, 3)):
        super().__init__()
        self.fold = 4 // scale
        self.conv_first = conv(colours[0] * self.fold**2, w)
        self.body = nn.Sequential(*(TripleDense(w, g) for _ in range(blocks)))
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            self.add_module(name, conv(w, w))
        self.conv_last = conv(w, colours[1])

    def forward(self, picture):
        first = self.conv_first(fold(picture, self.fold))
        result = first + self.conv_body(self.body(first))
        for layer in (self.conv_up1, self.conv_up2):
            result = F.leaky_relu(layer(double(result)), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(result), 0.2))


class FirstESRGANNet(nn.Module):
    """The names of ESRGAN's first repository."""

    def __init__(self, w=12, blocks=2, g=6):
        super().__init__()
        self.conv_first = conv(3, w)
        self.RRDB_trunk = nn.Sequential(*(TripleDense(w, g, "RDB") for _ in range(blocks)))
        for name in ("trunk_conv", "upconv1", "upconv2", "HRconv"):
            self.add_module(name, conv(w, w))
        self.conv_last = conv(w, 3)

    def forward(self, picture):
        first = self.conv_first(picture)
        result = first + self.trunk_conv(self.RRDB_trunk(first))
        for layer in (self.upconv1, self.upconv2):
            result = F.leaky_relu(layer(double(result)), 0.2)
        return self.conv_last(F.leaky_relu(self.HRconv(result), 0.2))


class WithShortcut(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.sub = nn.Sequential(*layers)

    def forward(self, picture):
        return picture + self.sub(picture)


class SequentialESRGANNet(nn.Module):
    """RRDBNet as one sequence, the oldest layout of community models."""

    def __init__(self, w=12, blocks=2, g=6):
        super().__init__()
        body = WithShortcut(*(TripleDense(w, g, "RDB", nested=True) for _ in range(blocks)), conv(w, w))
        up = [nn.Upsample(scale_factor=2), conv(w, w), nn.LeakyReLU(0.2)]
        again = [nn.Upsample(scale_factor=2), conv(w, w), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(conv(3, w), body, *up, *again, conv(w, w), nn.LeakyReLU(0.2), conv(w, 3))

    def forward(self, picture):
        return self.model(picture)


class CompactNet(nn.Module):
    """SRVGGNetCompact."""

    def __init__(self, scale=4, w=12, inner=4):
        super().__init__()
        self.scale = scale
        pairs = [layer for _ in range(inner) for layer in (conv(w, w), nn.PReLU(w))]
        self.body = nn.ModuleList([conv(3, w), nn.PReLU(w), *pairs, conv(w, 3 * scale**2)])

    def forward(self, picture):
        result = picture
        for layer in self.body:
            result = layer(result)
        enlarged = picture.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return enlarged + F.pixel_shuffle(result, self.scale)


class Residual(nn.Module):
    def __init__(self, w):
        super().__init__()
        self.conv1, self.conv2 = conv(w, w), conv(w, w)

    def forward(self, picture):
        return picture + self.conv2(self.conv1(picture).relu())


class MSRNet(nn.Module):
    """MSRResNet."""

    def __init__(self, scale=4, w=12, blocks=3, colours=3):
        super().__init__()
        self.scale = scale
        self.factors = (2, 2) if scale == 4 else (scale,)
        self.conv_first, self.conv_hr, self.conv_last = conv(colours, w), conv(w, w), conv(w, colours)
        self.body = nn.Sequential(*(Residual(w) for _ in range(blocks)))
        for number, factor in enumerate(self.factors):
            self.add_module(f"upconv{number + 1}", conv(w, w * factor**2))

    def forward(self, picture):
        result = self.body(F.leaky_relu(self.conv_first(picture), 0.1))
        for number, factor in enumerate(self.factors):
            enlarged = F.pixel_shuffle(self.get_submodule(f"upconv{number + 1}")(result), factor)
            result = F.leaky_relu(enlarged, 0.1)
        size = [side * self.scale for side in picture.shape[2:]]
        base = F.interpolate(picture, size, mode="bilinear")
        return base + self.conv_last(F.leaky_relu(self.conv_hr(result), 0.1))
