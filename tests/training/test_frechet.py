"""The Fréchet distance against its closed form, and the network whose features it takes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import EngineError
from training.frechet import EfficientNetLite0, frechet_distance, load_inception


def gaussian(count: int, mean: np.ndarray, matrix: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, len(mean))) @ matrix.T + mean


def test_diagonal_gaussians() -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2."""
    first = gaussian(200_000, np.zeros(3), np.diag([1.0, 2.0, 3.0]), 0)
    second = gaussian(200_000, np.array([1.0, 0.0, -2.0]), np.diag([2.0, 2.0, 1.0]), 1)
    assert frechet_distance(first, second) == pytest.approx(1 + 4 + 1 + 0 + 4, rel=0.02)


def test_against_the_root_of_the_product() -> None:
    """trace((C1 C2)^(1/2)) from the eigenvalues of the product itself."""
    source = np.random.default_rng(0)
    first, second = (gaussian(500, source.random(6), source.random((6, 6)), seed) for seed in (1, 2))
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    roots = np.sqrt(np.abs(np.linalg.eigvals(c1 @ c2))).sum()
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(c1 + c2) - 2 * roots
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_equal_sets_and_few_images() -> None:
    features = np.random.default_rng(0).standard_normal((20, 50))  # fewer images than features
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(features, features + 1) == pytest.approx(50, rel=1e-6)
    with pytest.raises(EngineError, match="two images"):
        frechet_distance(features[:1], features)


def random_state() -> dict[str, torch.Tensor]:
    """An EfficientNet-Lite0's tensors, from the table of its paper."""
    source = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, norm: str, out_channels: int, in_channels: int, kernel: int) -> None:
        fan = in_channels * kernel * kernel
        shape = (out_channels, in_channels, kernel, kernel)
        state[f"{name}.weight"] = torch.randn(shape, generator=source) / fan**0.5
        for part, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.1), ("running_var", 1.5)):
            state[f"{norm}.{part}"] = torch.full((out_channels,), value)

    convolution("_conv_stem", "_bn0", 32, 3, 3)
    number, channels = 0, 32
    for repeats, kernel, expansion, out_channels in (
        (1, 3, 1, 16), (2, 3, 6, 24), (2, 5, 6, 40), (3, 3, 6, 80), (3, 5, 6, 112), (4, 5, 6, 192), (1, 3, 6, 320),
    ):  # fmt: skip
        for _ in range(repeats):
            prefix, inner = f"_blocks.{number}.", channels * expansion
            if expansion != 1:
                convolution(f"{prefix}_expand_conv", f"{prefix}_bn0", inner, channels, 1)
            convolution(f"{prefix}_depthwise_conv", f"{prefix}_bn1", inner, 1, kernel)
            convolution(f"{prefix}_project_conv", f"{prefix}_bn2", out_channels, inner, 1)
            number, channels = number + 1, out_channels
    convolution("_conv_head", "_bn1", 1280, 320, 1)
    return state


def test_the_network_gives_its_features() -> None:
    network = EfficientNetLite0(random_state())
    images = torch.rand(2, 3, 64, 80) * 2 - 1
    features = network(images)
    assert features.shape == (2, 1280)
    assert torch.isfinite(features).all()
    assert not torch.equal(features[0], features[1])
    assert torch.allclose(network(images[:1]), features[:1], atol=1e-4)


def test_another_file_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(EngineError, match="is no EfficientNet-Lite0"):
        EfficientNetLite0.load(tmp_path / "other.pth")
    with pytest.raises(EngineError):
        EfficientNetLite0.load(tmp_path / "missing.pth")


def test_fid_takes_the_features_of_the_published_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights in the form of its file, since the real ones are on no package index."""
    package = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = package.FeatureExtractorInceptionV3
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(package, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        fresh = network("inception", ["2048"])
    torch.save(fresh.state_dict(), tmp_path / "inception.pth")
    features = load_inception(tmp_path / "inception.pth")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    expected = fresh(images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8))[0]
    assert features(images).shape == (2, 2048)
    assert torch.allclose(features(images), expected)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(EngineError, match="no file of FID's Inception weights"):
        load_inception(tmp_path / "other.pth")


def test_fid_without_its_package_says_which_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(EngineError, match=r"streamgan\[fid\]"):
        load_inception(tmp_path / "any.pth")
