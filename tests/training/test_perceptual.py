"""VGG features against the layers written out, losses and distances on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import EngineError
from tests.training.vgg import Layers, random_layers, torchvision_state, written_out
from training.perceptual import LAST_OF_BLOCKS, PerceptualLoss, StLpips, VggFeatures, gram_matrix

CPU = torch.device("cpu")
# Slice and number of the convolutions in files of ST-LPIPS.
ST_LPIPS = (
    (1, 0),
    (1, 2),
    (2, 6),
    (2, 8),
    (3, 12),
    (3, 14),
    (3, 16),
    (4, 20),
    (4, 22),
    (4, 24),
    (5, 28),
    (5, 30),
    (5, 32),
)


@pytest.fixture(scope="module")
def tensors() -> Layers:
    return random_layers()


@pytest.fixture(scope="module")
def torchvision_weights(tensors: Layers) -> dict[str, Tensor]:
    return torchvision_state(tensors)


@pytest.fixture(scope="module")
def st_lpips_weights(tensors: Layers) -> dict[str, Tensor]:
    state = {}
    for (block, number), (weight, bias) in zip(ST_LPIPS, tensors, strict=True):
        state |= {f"net.slice{block}.{number}.weight": weight, f"net.slice{block}.{number}.bias": bias}
    for number, channels in enumerate((64, 128, 256, 512, 512)):
        state[f"lin{number}.model.1.weight"] = torch.rand(1, channels, 1, 1)
    return state


class Blurred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        filtered = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).double() / 16
        x = nn.ReflectionPad2d(2)(nn.MaxPool2d(2, stride=1)(x))
        return torch.stack([F.conv2d(c[:, None], filtered[None, None], stride=2)[:, 0] for c in x.unbind(1)], 1)


@pytest.mark.parametrize("kind", ["torchvision", "st_lpips"])
def test_features_are_the_layers_written_out(kind: str, tensors: Layers, request: pytest.FixtureRequest) -> None:
    network = VggFeatures(request.getfixturevalue(f"{kind}_weights"), LAST_OF_BLOCKS)
    images = torch.rand(1, 3, 48, 40) * 2 - 1
    expected = written_out(images, tensors, nn.MaxPool2d(2) if kind == "torchvision" else Blurred())
    got = network(images)
    assert list(got) == list(LAST_OF_BLOCKS)
    for name, features in zip(got, expected, strict=True):
        assert got[name].shape == features.shape
        assert torch.allclose(got[name].double(), features, rtol=1e-3, atol=2e-3), name


def test_only_the_needed_layers_are_kept(torchvision_weights: dict[str, Tensor]) -> None:
    assert len(VggFeatures(torchvision_weights, ("relu2_2",)).convolutions) == 4


def test_the_perceptual_loss_is_zero_for_equal_images_and_has_gradients(torchvision_weights: dict[str, Tensor]) -> None:
    loss = PerceptualLoss(VggFeatures(torchvision_weights, PerceptualLoss.LAYERS))
    image = torch.rand(1, 3, 32, 32)
    assert float(loss(image, image)) == 0
    noisy = (image + 0.1 * torch.randn_like(image)).requires_grad_(True)
    value = loss(noisy, image)
    value.backward()
    assert float(value) > 0
    assert noisy.grad is not None
    assert noisy.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())


def test_st_lpips_is_the_published_distance(st_lpips_weights: dict[str, Tensor], tensors: Layers) -> None:
    distance = StLpips(st_lpips_weights)
    a, b = torch.rand(2, 3, 48, 40) * 2 - 1, torch.rand(2, 3, 48, 40) * 2 - 1
    expected = torch.zeros(2, dtype=torch.float64)
    pairs = zip(*(written_out(images, tensors, Blurred()) for images in (a, b)), strict=True)
    for number, (x, y) in enumerate(pairs):
        difference = (x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)) ** 2
        head = st_lpips_weights[f"lin{number}.model.1.weight"].double()
        expected += (difference * head[0]).sum(dim=1).mean(dim=(1, 2))
    assert torch.allclose(distance(a, b).double(), expected, rtol=1e-3)
    assert distance(a, a).tolist() == [0, 0]


def test_gram_matrices() -> None:
    features = torch.randn(2, 3, 4, 5)
    expected = torch.einsum("nchw,ndhw->ncd", features, features) / 20
    assert torch.allclose(gram_matrix(features), expected, atol=1e-6)


def test_other_files_are_refused(tmp_path: Path, torchvision_weights: dict[str, Tensor]) -> None:
    torch.save({"features.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "small.pth")
    with pytest.raises(EngineError, match=r"small\.pth: it has 1 convolutions"):
        VggFeatures.load(tmp_path / "small.pth", CPU, layers=("relu1_1",))
    torch.save(torchvision_weights, tmp_path / "vgg.pth")
    with pytest.raises(EngineError, match="no weights of the ST-LPIPS distance"):
        StLpips.load(tmp_path / "vgg.pth")
    with pytest.raises(EngineError, match="no layer relu9_9"):
        VggFeatures.load(tmp_path / "vgg.pth", CPU, layers=("relu9_9",))
    torch.save({"state_dict": torchvision_weights}, tmp_path / "wrapped.pth")
    assert VggFeatures.load(tmp_path / "wrapped.pth", CPU, layers=("relu1_2",)).convolutions
