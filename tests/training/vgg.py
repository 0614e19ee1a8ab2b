"""VGG16 of any width with random weights, as files have it, and its layers written out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers of the convolutions in torchvision's `features`.
NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)

Layers = list[tuple[Tensor, Tensor]]
"""Weight and bias of each convolution."""


def random_layers(*, width: int = 64) -> Layers:
    """The thirteen convolutions, `width` channels in the first block, up to eight times as many later."""
    source = torch.Generator().manual_seed(0)
    layers, before = [], 3
    for factor in (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8):
        after = factor * width
        weight = torch.randn(after, before, 3, 3, generator=source) * (2 / (9 * before)) ** 0.5
        layers.append((weight, torch.randn(after, generator=source) * 0.1))
        before = after
    return layers


def torchvision_state(layers: Layers) -> dict[str, Tensor]:
    """Under the names of torchvision, with a layer of its classifier."""
    state = {}
    for number, (weight, bias) in zip(NUMBERS, layers, strict=True):
        state |= {f"features.{number}.weight": weight, f"features.{number}.bias": bias}
    return state | {"classifier.0.weight": torch.zeros(2, 2)}


def written_out(images: Tensor, layers: Layers, pool: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Features after each block, of RGB in [-1, 1], in float64."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (((images + 1) / 2) - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    x, features, number = x.double(), [], 0
    for block, count in enumerate((2, 2, 3, 3, 3)):
        x = pool(x) if block else x
        for _ in range(count):
            weight, bias = layers[number]
            x, number = F.conv2d(x, weight.double(), bias.double(), padding=1).relu(), number + 1
        features.append(x)
    return features
