"""Our own operators: on the CPU the whole generator as one of them, on a GPU what is between the convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.backends.base import CompiledGenerator, InMemoryBackend, ParityMeasure
from engine.errors import BackendError
from engine.generators import Generator
from engine.parity import PARITY_DB

# Other frames than the first may be less exact by so much.
_MARGIN_DB = 1.5
# What tiles of 4x4 lose against 4x2: 2.3 to 3.0 dB on ResNets with normal weights. Tiles of 2x2 gain 1.3 to 2.0.
_LARGER_TILES_DB = 3.0
# A second term of the first layer's weights is a twentieth of the time with so many channels, a fiftieth with 64.
_NARROW_CHANNELS = 16


class Fused(InMemoryBackend):
    """Packs the weights, in a fraction of a second, for every frame size."""

    name = "fused"
    build_cost = "none"
    is_captured = True
    runs_without_torch = True
    has_fast = True

    def unavailable(self, device: torch.device) -> str | None:
        try:
            from engine import ops
        except (ImportError, BackendError) as error:
            return str(error)
        return ops.cuda_unavailable() if device.type == "cuda" else None

    def compile(
        self, generator: Generator, example: Tensor, precision: str, parity_db: ParityMeasure
    ) -> CompiledGenerator:
        """Packs the weights, or, on a GPU, fuses what is between convolutions.

        A CPU with a matrix unit multiplies on it, float32 as sums of bfloat16 products, and `fast` is bf16 there. A
        first layer of few channels has weights of one term if the real frame allows. On other CPUs the tiles of
        Winograd's convolutions in bf16 are as large as the real frame allows. Where arithmetic of bfloat16 is slower
        than that of float32, bf16 and `fast` are float32 with bfloat16 between the layers.

        Raises:
            BackendError: the generator has a layer that the fused operator does not know, or the dtype is float16.
        """
        if example.device.type == "cuda":
            from engine.fused.norms import fuse_norms

            return fuse_norms(generator).to(example.device, example.dtype)
        from engine import _native
        from engine.fused.lowering import fuse, has_matrix_unit, multiplies_bf16_fast
        from engine.fused.program import Packing, retiled, steps_of

        if example.dtype not in (torch.float32, torch.bfloat16):
            raise BackendError(f"the fused backend runs in fp32, bf16 and fast, not in {precision}")
        if has_matrix_unit():
            if example.dtype == torch.float32:
                return fuse(generator, "fp32", matrix=True)
            exact = fuse(generator, "bf16", matrix=True)
            if steps_of(exact)[0].out_channels > _NARROW_CHANNELS:
                return exact
            faster = fuse(generator, "bf16", matrix=True, first_terms=1)
            return faster if parity_db(faster) >= PARITY_DB["bf16"] + _MARGIN_DB else exact
        if example.dtype == torch.float32:
            return fuse(generator, "fp32")
        if not multiplies_bf16_fast(_native.active_isa()):
            return fuse(generator, "fp32", half_storage=True)
        if precision == "fast":
            return fuse(generator, "fast")
        tried = fuse(generator, "bf16", tile=(4, 2))
        if not any(step.packing == Packing.WINOGRAD42 for step in steps_of(tried)):
            return tried
        spare_db = parity_db(tried) - PARITY_DB["bf16"] - _MARGIN_DB
        if spare_db >= _LARGER_TILES_DB:
            return retiled(tried, (4, 4))
        return tried if spare_db >= 0 else retiled(tried, (2, 2))
