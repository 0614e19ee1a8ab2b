"""This project's fused generator as the command line runs it from the second time on: packed weights, without torch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.peers import Session, Spec
from engine.runners.base import FrameFacts
from engine.runners.packed import PackedRunner, read_weights, write_weights

if TYPE_CHECKING:
    from torch import Tensor

PER_PRECISION = True
_WEIGHTS, _FACTS = "packed.bin", "packed.json"


def unavailable(device: str, spec: Spec) -> str | None:
    """What the backend itself says."""
    import torch

    from bench.contenders import in_memory_backends

    return in_memory_backends()[spec.backend].unavailable(torch.device(device))


def convert(generator: Any, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Packs the weights, with tiles as large as parity on the example allows."""
    import torch

    from bench.contenders import in_memory_backends
    from bench.generators import output_bytes
    from bench.peers.torch_session import torch_input
    from engine.fused.program import FusedGenerator
    from engine.parity import psnr_db

    image = torch.from_numpy(example)

    def parity_db(run: Any) -> float:
        pictures: list[Tensor] = [run(image), generator(image)]
        return psnr_db(*(output_bytes(generator, picture.float().numpy()) for picture in pictures))

    with torch.no_grad():
        backend = in_memory_backends()[spec.backend]
        made = backend.compile(generator, torch_input(example, spec), spec.precision, parity_db)
    assert isinstance(made, FusedGenerator)
    write_weights(made.weights.numpy(), folder / _WEIGHTS)
    facts = dataclasses.asdict(FrameFacts.of(generator))
    (folder / _FACTS).write_text(json.dumps({"program": made.program.tolist(), "facts": facts}))


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Maps the weights."""
    kept = json.loads((folder / _FACTS).read_text())
    weights, facts = read_weights(folder / _WEIGHTS), FrameFacts.from_dict(kept["facts"])
    packed = PackedRunner(weights, kept["program"], facts, threads=spec.threads)
    image = np.ascontiguousarray(example[0].transpose(1, 2, 0))
    return Session(lambda: packed(image), lambda output: output.transpose(2, 0, 1)[None])
