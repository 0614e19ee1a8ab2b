"""Arithmetic of a generator."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.generators.base import Generator


def count_flops(generator: Generator, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one input of `shape` in the convolutions as they are defined.

    Two per multiply-add, whatever algorithm computes them: a Winograd convolution can pass the peak of direct ones.
    """
    on_meta = copy.deepcopy(generator).to("meta")
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(False), torch.no_grad(), counter:
        on_meta(torch.empty(shape, device="meta"))
    return int(counter.get_total_flops())
