"""Operators as tests call them, emulated on the host or on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import ops
from tests.cuda.emulated import H100, among_nans, emulate, emulated_library


class Kernels:
    """The operators of `engine.ops`, taking and returning CPU tensors wherever they run."""

    def __init__(self, where: str) -> None:
        self.is_emulated = where == "emulated"

    def call(self, name: str, *arguments: Any, **settings: Any) -> Any:
        """One operator by its wrapper's name and arguments."""
        operators = torch.ops.streamgan
        if self.is_emulated:
            torch.ops.streamgan = torch.ops.streamgan_emulated
        move = among_nans if self.is_emulated else _to_device
        try:
            arguments = tuple(move(value) if isinstance(value, Tensor) else value for value in arguments)
            settings = {key: move(value) if isinstance(value, Tensor) else value for key, value in settings.items()}
            result = getattr(ops, name)(*arguments, **settings)
            return result.cpu() if isinstance(result, Tensor) else tuple(tensor.cpu() for tensor in result)
        finally:
            torch.ops.streamgan = operators


def _to_device(tensor: Tensor) -> Tensor:
    """A copy on the device with the same strides: what a view leaves out is NaN there too."""
    return among_nans(tensor, "cuda")


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """Every test of kernels runs in both places; whatever they don't write is NaN."""
    if request.param == "emulated":
        emulated_library()
        emulate(H100)
    else:
        assert ops.cuda_unavailable() is None
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield Kernels(request.param)
    torch.use_deterministic_algorithms(before)
