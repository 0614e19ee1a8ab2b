"""Each operator of `engine.ops` in plain PyTorch: the definition that tests compare with.

Same names, arguments and results as in `engine.ops`, on any device; arguments are not checked here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def frames_to_tensor(
    frames: Tensor, *, value_range: tuple[float, float], size: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """Definition of `engine.ops.frames_to_tensor`. On the CPU the two give the same bits."""
    low, high = value_range
    image = frames.flip(-1).permute(0, 3, 1, 2).float()  # [N, 3, H, W], RGB
    image = image.div(255 / (high - low)).add(low)
    for axis, padded in ((2, size[0]), (3, size[1])):
        if padded != image.shape[axis]:
            image = image.index_select(axis, reflected_indices(image.shape[axis], padded, image.device))
    return image.to(dtype).contiguous(memory_format=torch.channels_last)


def tensor_to_frames(
    tensor: Tensor, *, value_range: tuple[float, float], size: tuple[int, int], tanh: bool = False
) -> Tensor:
    """Definition of `engine.ops.tensor_to_frames`. On the CPU the two give the same bytes."""
    low, high = value_range
    cropped = tensor[:, :, : size[0], : size[1]].float()  # [N, 3, H, W], RGB
    cropped = cropped.tanh() if tanh else cropped
    values = cropped.sub(low).mul(255 / (high - low)).round().clamp(0, 255).nan_to_num(nan=0.0)
    return values.byte().permute(0, 2, 3, 1).flip(-1).contiguous()


def reflected_indices(size: int, padded: int, device: torch.device) -> Tensor:
    """The source index of each of `padded` positions on an axis mirrored at its first and last element.

    `0 1 2 3 2 1 0 1 2 ...` for a size of 4. Unlike `torch.nn.functional.pad(mode="reflect")` it bounces as often as it
    takes, and a single element repeats.
    """
    period = max(2 * (size - 1), 1)
    phase = torch.arange(padded, device=device) % period
    return torch.minimum(phase, period - phase) if size > 1 else torch.zeros_like(phase)


def instance_norm_act(
    input: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.2,
    over_channels: bool = False,
    pad: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Tensor:
    """Definition of `engine.ops.instance_norm_act`, in the arithmetic of the dtype of `input`."""
    normalised = F.group_norm(input, 1 if over_channels else input.shape[1], weight, bias, eps)
    slope = {"none": 1.0, "relu": 0.0, "leaky_relu": negative_slope}[activation]
    activated = F.leaky_relu(normalised, slope)
    return F.pad(activated if residual is None else activated + residual, pad, mode="reflect")
