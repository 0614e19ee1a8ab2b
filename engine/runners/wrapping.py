"""Which runner takes what a backend has compiled."""

from __future__ import annotations

import torch

from engine.backends.base import Capturable, CompiledGenerator
from engine.fused.program import FusedGenerator
from engine.generators import Generator
from engine.precision import dtype_of
from engine.runners.base import FrameFacts, Runner
from engine.runners.cuda_graph import CudaGraphRunner
from engine.runners.packed import PackedRunner
from engine.runners.tensors import TensorRunner


def runner_of(
    compiled: CompiledGenerator, generator: Generator, precision: str, device: torch.device, *, takes_batches: bool
) -> Runner:
    """The runner of a compiled generator.

    Args:
        compiled: what a backend made of `generator` in `precision`, on `device`.
        takes_batches: whether a callable on tensors takes several frames in one call.
    """
    if isinstance(compiled, FusedGenerator):
        weights, program = compiled.weights.numpy(), compiled.program.tolist()
        return PackedRunner(weights, program, FrameFacts.of(generator), threads=torch.get_num_threads())
    dtype = getattr(compiled, "input_dtype", dtype_of(precision, device))
    if isinstance(compiled, Capturable):
        return CudaGraphRunner(compiled, generator, dtype, device)
    may_overflow = precision == "fp16" or (precision == "fast" and device.type == "cuda")
    return TensorRunner(compiled, generator, dtype, device, takes_batches=takes_batches, may_overflow=may_overflow)
