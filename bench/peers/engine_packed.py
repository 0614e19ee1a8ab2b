"""This project's fused generator as the command line runs it from the second time on: packed weights, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.peers import Session, Spec
from engine.packed import PackedFacts, PackedGenerator, read_weights, write_weights

if TYPE_CHECKING:
    from torch import Tensor

PER_PRECISION = True
_WEIGHTS, _FACTS = "packed.bin", "packed.json"


def unavailable(device: str, spec: Spec) -> str | None:
    """What the backend itself says."""
    import torch

    from engine.backends import fused

    return fused.unavailable(torch.device(device))


def convert(generator: Any, example: np.ndarray, folder: Path, spec: Spec) -> None:
    """Packs the weights, with tiles as large as parity on the example allows."""
    import torch

    from bench.generators import output_bytes
    from bench.peers.torch_session import torch_input
    from engine.backends import fused
    from engine.fuse_program import FusedGenerator
    from engine.precision import psnr_db

    image = torch.from_numpy(example)

    def parity_db(run: Any) -> float:
        pictures: list[Tensor] = [run(image), generator(image)]
        return psnr_db(*(output_bytes(generator, picture.float().numpy()) for picture in pictures))

    with torch.no_grad():
        made = fused.compile_generator(generator, torch_input(example, spec), spec.precision, parity_db)
    assert isinstance(made, FusedGenerator)
    write_weights(made, folder / _WEIGHTS)
    (folder / _FACTS).write_text(json.dumps(PackedFacts.of(made, generator).to_dict()))


def load(folder: Path, example: np.ndarray, spec: Spec) -> Session:
    """Maps the weights."""
    facts = PackedFacts.from_dict(json.loads((folder / _FACTS).read_text()))
    packed = PackedGenerator(read_weights(folder / _WEIGHTS), facts, threads=spec.threads)
    image = np.ascontiguousarray(example[0].transpose(1, 2, 0))
    return Session(lambda: packed(image), lambda output: output.transpose(2, 0, 1)[None])
