"""VGG features of images, and measures on them: perceptual loss, Gram matrices, the ST-LPIPS distance.

Two kinds of weight files are accepted; neither is shipped:

- torchvision's `vgg16` or `vgg19` state dict (`features.N.weight`), pooled by maxima;
- that of ST-LPIPS (Ghildyal and Liu, arXiv:2207.13686; package stlpips-pytorch, BSD 2-clause), `net.sliceK.N.weight`:
  VGG16 whose pooling is a maximum of stride 1, then a [1 2 1] x [1 2 1] / 16 filter of stride 2 behind a reflect pad
  of 2, and `linK.model.1.weight`, the learned weights of its distance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import EngineError
from training.files import load_network

# Number of convolutions -> convolutions of each block; the size is halved between blocks.
_BLOCKS = {13: (2, 2, 3, 3, 3), 16: (2, 2, 4, 4, 4)}

# ImageNet's mean and standard deviation per channel, for values in [-1, 1].
_MEAN = (-0.030, -0.088, -0.188)
_STD = (0.458, 0.448, 0.450)

_CONVOLUTION = re.compile(r"(?:features\.|net\.slice\d\.)(\d+)\.weight")

LAST_OF_BLOCKS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


class VggFeatures(nn.Module):
    """RGB [N, 3, H, W] in [-1, 1] -> activations by name, `reluB_C` being convolution C of block B after its ReLU."""

    mean: Tensor
    std: Tensor
    blur: Tensor

    def __init__(self, state: Mapping[str, Tensor], layers: Sequence[str]) -> None:
        super().__init__()
        numbers = {int(match[1]): key for key in state if (match := _CONVOLUTION.fullmatch(key))}
        weights = [numbers[number] for number in sorted(numbers)]
        if len(weights) not in _BLOCKS:
            raise EngineError(f"it has {len(weights)} convolutions, VGG16 and VGG19 have 13 and 16")
        blocks = _BLOCKS[len(weights)]
        names = [f"relu{block}_{number}" for block, count in enumerate(blocks, 1) for number in range(1, count + 1)]
        unknown = [layer for layer in layers if layer not in names]
        if unknown:
            raise EngineError(f"it has no layer {unknown[0]}: there are {', '.join(names)}")
        self.antialiased = any(key.startswith("net.slice") for key in weights)
        self._layers = tuple(layers)
        self._names = names[: max(names.index(layer) for layer in layers) + 1]
        self.convolutions = nn.ModuleList()
        for key in weights[: len(self._names)]:
            weight = state[key].float()
            convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            convolution.load_state_dict({"weight": weight, "bias": state[key.replace("weight", "bias")].float()})
            self.convolutions.append(convolution)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("blur", torch.outer(row, row)[None, None], persistent=False)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def load(cls, path: Path, device: torch.device, *, layers: Sequence[str]) -> VggFeatures:
        """Reads the weights from a file, which is never unpickled. Raises EngineError for any other file."""
        return load_network(path, lambda state: cls(state, layers)).to(device)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = (images - self.mean) / self.std
        features: dict[str, Tensor] = {}
        block = "1"
        for name, convolution in zip(self._names, self.convolutions, strict=True):
            if name[4] != block:
                x, block = self._halve(x), name[4]
            x = F.relu(convolution(x))
            if name in self._layers:
                features[name] = x
        return features

    def _halve(self, x: Tensor) -> Tensor:
        if not self.antialiased:
            return F.max_pool2d(x, 2)
        channels = x.shape[1]
        padded = F.pad(F.max_pool2d(x, 2, stride=1), (2, 2, 2, 2), mode="reflect")
        blur = self.blur.to(x.dtype).expand(channels, 1, 3, 3)
        return F.conv2d(padded, blur, stride=2, groups=channels)


class PerceptualLoss(nn.Module):
    """Sum over layers of mean |features(x) - features(y)|, images in [0, 1] (Johnson et al., arXiv:1603.08155)."""

    LAYERS = ("relu2_2", "relu3_3", "relu4_3")

    def __init__(self, features: VggFeatures) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        of_images = self.features(2 * images - 1)
        with torch.no_grad():
            of_target = self.features(2 * target - 1)
        distances = [(of_images[name].float() - of_target[name].float()).abs().mean() for name in of_target]
        return torch.stack(distances).sum()


class StLpips(nn.Module):
    """The ST-LPIPS distance: features normalised per pixel, their squared differences weighted and averaged."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        heads = [state.get(f"lin{number}.model.1.weight") for number in range(5)]
        if any(head is None for head in heads):
            raise EngineError("it has no weights of the ST-LPIPS distance: take vgg_shift_tolerant.pth")
        self.features = VggFeatures(state, LAST_OF_BLOCKS)
        for number, head in enumerate(heads):
            assert head is not None
            self.register_buffer(f"head{number}", head.float())

    @classmethod
    def load(cls, path: Path) -> StLpips:
        """Reads the weights from a file. Raises EngineError as `VggFeatures.load`."""
        return load_network(path, cls).eval()

    @torch.no_grad()
    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances [N] of RGB images [N, 3, H, W] in [-1, 1]; 0 for equal ones."""
        total = images.new_zeros(len(images))
        first, second = self.features(images), self.features(others)
        for number, name in enumerate(LAST_OF_BLOCKS):
            difference = (_unit(first[name]) - _unit(second[name])).square()
            weighted = F.conv2d(difference, getattr(self, f"head{number}"))
            total += weighted.mean(dim=(1, 2, 3))
        return total


def gram_matrix(features: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, C], products of channels averaged over places (Gatys et al., arXiv:1508.06576)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
