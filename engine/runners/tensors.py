"""Frames through any callable on tensors: pad, normalise, run, quantise, crop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from engine import memory, ops, reference
from engine.backends.base import CompiledGenerator
from engine.device import DEVICE_LOCK, host_image, true_float32
from engine.generators import Generator
from engine.runners.base import FrameFacts, NonFiniteError


def conversions(device: torch.device) -> ModuleType:
    """`frames_to_tensor` and `tensor_to_frames` for `device`: ours, or plain PyTorch where ours are not built."""
    return ops if device.type == "cpu" or ops.cuda_unavailable() is None else reference


class TensorRunner:
    """Runs a callable from and to tensors [N, 3, H, W].

    Args:
        run: on `device`.
        generator: what it was made of; tells the frame facts and the memory.
        dtype: of its input.
        device: that it runs on.
        takes_batches: whether it takes several frames in one call; else they are run one by one.
        may_overflow: whether it computes in float16, which ends at 65504: the output is checked for NaN and infinity.
    """

    frames_under_way = 1
    takes_tensors = False

    def __init__(
        self,
        run: CompiledGenerator,
        generator: Generator,
        dtype: torch.dtype,
        device: torch.device,
        *,
        takes_batches: bool = False,
        may_overflow: bool = False,
    ) -> None:
        self.facts = FrameFacts.of(generator)
        self.takes_batches = takes_batches
        self.dtype = dtype
        self.run = run
        self._generator = generator
        self._device = device
        self._may_overflow = may_overflow
        self._convert = conversions(device)

    def submit(self, frames: np.ndarray | Tensor) -> Callable[[], np.ndarray]:
        """See `Runner.submit`."""
        batch = host_image(frames)
        step = len(batch) if self.takes_batches else 1
        parts = [self._translate(batch[first : first + step]) for first in range(0, len(batch), step)]
        translated = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return lambda: translated

    def _translate(self, batch: np.ndarray) -> np.ndarray:
        height, width = batch.shape[1:3]
        facts = self.facts
        alone = DEVICE_LOCK if self._device.type == "cuda" else contextlib.nullcontext()
        frames = torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
        with alone, torch.no_grad(), true_float32():
            image = self._convert.frames_to_tensor(
                frames, value_range=facts.input_range, size=facts.padded_size(height, width), dtype=self.dtype
            )  # [N, 3, padded H, padded W], channels_last
            output = self.run(image)
            translated = self._convert.tensor_to_frames(
                output, value_range=facts.output_range, size=(height * facts.scale, width * facts.scale)
            )  # uint8 [N, H * scale, W * scale, 3]
            total = output.sum(dtype=torch.float32) if self._may_overflow else None
            result: np.ndarray = translated.cpu().numpy()
        if total is not None and not total.isfinite():
            raise NonFiniteError("its output holds NaN or infinity: the values are too large for float16", batch)
        return result

    def needed_bytes(self, count: int, height: int, width: int) -> int:
        """See `Runner.needed_bytes`."""
        shape = (count, 3, *self.facts.padded_size(height, width))
        return memory.activation_bytes(self._generator, shape, self.dtype)

    def release(self) -> None:
        """See `Runner.release`: torch's allocator keeps the memory."""
