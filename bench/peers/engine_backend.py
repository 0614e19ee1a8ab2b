"""This project's own backends, made ready as `Translator` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.contenders import in_memory_backends
from bench.generators import output_bytes
from bench.peers import Session, Spec, load_weights
from bench.peers.torch_session import captured, torch_input, torch_session
from engine.fused.norms import NormFused
from engine.parity import psnr_db


def unavailable(device: str, spec: Spec) -> str | None:
    """What the backend itself says."""
    return in_memory_backends()[spec.backend].unavailable(torch.device(device))


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Compiles the generator with `spec.backend`."""
    tensor = torch_input(example, spec)
    generator = load_weights(folder).to(device=spec.device)

    def as_input(run: object) -> torch.Tensor:
        given = torch.from_numpy(example).to(device=spec.device, dtype=getattr(run, "input_dtype", tensor.dtype))
        return given.to(memory_format=torch.channels_last)

    def parity_db(run: Callable[[torch.Tensor], torch.Tensor]) -> float:
        expected = load_weights(folder).to(device=spec.device)(torch.from_numpy(example).to(device=spec.device))
        pictures = (output_bytes(generator, output.float().cpu().numpy()) for output in (run(as_input(run)), expected))
        return psnr_db(*pictures)

    with torch.no_grad():
        compiled = in_memory_backends()[spec.backend].compile(generator, tensor, spec.precision, parity_db)
    tensor = as_input(compiled)
    if isinstance(compiled, NormFused) and tensor.device.type == "cuda":
        return _graph_session(compiled, tensor)
    return torch_session(compiled, tensor, mode=torch.no_grad)  # as `Translator` does


def _graph_session(generator: NormFused, tensor: torch.Tensor) -> Session:
    """As the translator runs it on a GPU: one CUDA graph, with cuDNN's algorithms chosen by measurement."""
    outputs: list[torch.Tensor] = []
    replay = captured(lambda image: outputs.append(generator(image)), tensor)

    def run() -> torch.Tensor:
        replay()
        torch.cuda.synchronize()
        return outputs[-1]

    return Session(run, lambda output: output.float().cpu().contiguous().numpy())
