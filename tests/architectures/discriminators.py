"""Discriminators, which people pass by mistake. Only their keys and shapes matter, so none has a forward."""

from torch import nn


def conv4(inputs, outputs, stride=2, bias=True):
    return nn.Conv2d(inputs, outputs, 4, stride, 1, bias=bias)


class PatchGAN(nn.Module):
    """The reference PatchGAN: `model.{0,2,5,8,11}`."""

    def __init__(self, colours=3, w=8, norm=nn.InstanceNorm2d):
        super().__init__()
        bias = norm is nn.InstanceNorm2d
        layers = [conv4(colours, w), nn.LeakyReLU(0.2)]
        for inputs, stride in ((w, 2), (2 * w, 2), (4 * w, 1)):
            layers += [conv4(inputs, 2 * inputs, stride, bias), norm(2 * inputs), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, conv4(8 * w, 1, 1))


class Pixel(nn.Module):
    """1x1 convolutions in `net`."""

    def __init__(self, w=8):
        super().__init__()
        first = [nn.Conv2d(3, w, 1), nn.LeakyReLU(0.2)]
        second = [nn.Conv2d(w, 2 * w, 1, bias=False), nn.BatchNorm2d(2 * w), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*first, *second, nn.Conv2d(2 * w, 1, 1, bias=False))


class Unit(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = nn.Sequential(conv4(inputs, outputs, stride), nn.InstanceNorm2d(outputs), nn.LeakyReLU(0.2))


class BlockPatchGAN(nn.Module):
    """`initial.0`, `model.{0,1,2}.conv.0`, `model.3`."""

    def __init__(self, w=8):
        super().__init__()
        self.initial = nn.Sequential(conv4(3, w), nn.LeakyReLU(0.2))
        self.model = nn.Sequential(Unit(w, 2 * w, 2), Unit(2 * w, 4 * w, 2), Unit(4 * w, 8 * w, 1), conv4(8 * w, 1, 1))


class Classifier(nn.Module):
    """VGG-style, one number per picture."""

    def __init__(self, w=8):
        super().__init__()
        self.conv0_0, self.conv0_1, self.bn0_1 = nn.Conv2d(3, w, 3), conv4(w, w, bias=False), nn.BatchNorm2d(w)
        self.linear1, self.linear2 = nn.Linear(16 * w, 10), nn.Linear(10, 1)


DISCRIMINATORS = {
    "PatchGAN": PatchGAN,
    "PatchGAN, batch norm": lambda: PatchGAN(6, norm=nn.BatchNorm2d),
    "pixel": Pixel,
    "block-style PatchGAN": BlockPatchGAN,
    "classifier": Classifier,
}
