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


def yuv_to_bgr(
    luma: Tensor,
    chroma: Tensor,
    *,
    weights: tuple[float, float],
    full_range: bool,
    left_sited: bool = False,
    bits: int = 8,
) -> Tensor:
    """Definition of `engine.ops.yuv_to_bgr`, bit for bit."""
    kr, kb = weights
    kg = 1.0 - kr - kb
    level = 1.0 if bits == 8 else 256.0  # of 8 bits, in samples
    peak = 255.0 if bits == 8 else 65536.0 - (1 << (16 - bits))
    luma_scale = 255.0 / (peak if full_range else 219.0 * level)
    chroma_scale = 255.0 / (peak if full_range else 224.0 * level)
    height, width = luma.shape
    row, column = (torch.arange(side, device=luma.device) for side in (height, width))
    samples = chroma.float()
    rows = samples[row // 2].add(samples[(row - 1).clamp(min=0) // 2]).mul(0.5)  # an odd row has its own chroma alone
    following = (column // 2 + 1).clamp(max=chroma.shape[1] - 1)
    mixed = rows[:, column // 2]  # [H, W, 2]
    mixed = mixed.mul(0.75).add(rows[:, following].mul(0.25)) if left_sited else mixed
    cb, cr = mixed.sub(128.0 * level).unbind(-1)
    light = luma.float().sub(0.0 if full_range else 16.0 * level).mul(luma_scale)
    blue = light.add(cb.mul(2.0 * (1.0 - kb) * chroma_scale))
    green = light.add(cb.mul(-2.0 * kb * (1.0 - kb) / kg * chroma_scale))
    green = green.add(cr.mul(-2.0 * kr * (1.0 - kr) / kg * chroma_scale))
    red = light.add(cr.mul(2.0 * (1.0 - kr) * chroma_scale))
    return torch.stack([blue, green, red], dim=-1).round().clamp(0, 255).byte()


def bgr_to_yuv(frame: Tensor, *, weights: tuple[float, float], full_range: bool) -> tuple[Tensor, Tensor]:
    """Definition of `engine.ops.bgr_to_yuv`, bit for bit."""
    kr, kb = weights
    kg = 1.0 - kr - kb
    luma_scale, chroma_scale = (1.0, 1.0) if full_range else (219.0 / 255.0, 224.0 / 255.0)

    def weighted(picture: Tensor, blue: float, green: float, red: float, offset: float) -> Tensor:
        b, g, r = picture.unbind(-1)
        return b.mul(blue).add(g.mul(green)).add(r.mul(red)).add(offset).round().clamp(0, 255).byte()

    picture = frame.float()
    luma = weighted(picture, kb * luma_scale, kg * luma_scale, kr * luma_scale, 0.0 if full_range else 16.0)
    # Where swscale's quick conversion places chroma: in the lower of two rows, and the left of two columns.
    for axis, (size, place) in enumerate(zip(frame.shape[:2], (1, 0), strict=True)):
        middle = torch.arange(place, size, 2, device=frame.device)
        taps = [picture.index_select(axis, (middle + tap).clamp(0, size - 1)) for tap in (-1, 0, 1)]
        picture = taps[0] + 2 * taps[1] + taps[2]  # sums of weight 4, then 16: whole numbers
    cb_scale, cr_scale = chroma_scale / (32.0 * (1.0 - kb)), chroma_scale / (32.0 * (1.0 - kr))
    cb = weighted(picture, (1.0 - kb) * cb_scale, -kg * cb_scale, -kr * cb_scale, 128.0)
    cr = weighted(picture, -kb * cr_scale, -kg * cr_scale, (1.0 - kr) * cr_scale, 128.0)
    return luma, torch.stack([cb, cr], dim=-1)
