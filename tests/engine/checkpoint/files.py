"""What the tests of checkpoints share: networks with weights as of trained ones, their files, and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.checkpoint import inspect_checkpoint, load_generator
from engine.errors import CheckpointError
from tests.architectures import reference_resnet


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights as of a trained network: every value matters to the output, which neither vanishes nor saturates."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, deviation: float) -> None:
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(1234)
            elif name.endswith("filt"):
                continue
            elif tensor.dim() > 1:
                normal(tensor, 0.0, tensor[0].numel() ** -0.5)
            elif name.endswith("weight"):
                normal(tensor, 1.0, 0.2)
            else:
                normal(tensor, 0.0, 0.1)
    return module.eval()


def difference(generator: nn.Module, definition: nn.Module, image: Tensor) -> float:
    """Largest difference of the outputs, relative to the output's size where that is beyond 1."""
    with torch.no_grad():
        expected, actual = definition(image), generator(image)
    assert expected.shape == actual.shape
    assert expected.std() > 1e-3, "a constant picture would compare nothing"
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1.0)).item()


def save(value: object, path: Path) -> Path:
    torch.save(value, path)
    return path


def small_resnet(**options: object) -> nn.Module:
    return randomise(reference_resnet.ReferenceResNet(**{"blocks": 2, "width": 4, **options}))


def optimizer_state() -> dict:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def error_of(path: Path) -> str:
    """The message of loading `path`, which is one line, names the file, and is the same from `inspect_checkpoint`."""
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) - 2 * len(str(path)) < 600
    with pytest.raises(CheckpointError) as inspected:
        inspect_checkpoint(path)
    assert str(inspected.value) == message
    return message
