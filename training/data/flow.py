"""How the picture moves from one frame of a video to the next, and where that is known."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.images import Image

Floats = npt.NDArray[np.float32]

# Pixels by which the way there and back may miss its start before a place counts as hidden.
_MISSED_PIXELS = 1.0


def flow_between(image: Image, other: Image) -> tuple[Floats, Floats]:
    """For each pixel of `image`, where it is in `other`.

    Args:
        image, other: uint8 [H, W, 3].

    Returns:
        Flow [H, W, 2] in pixels, x and y, by dense inverse search (Kroeger et al., arXiv:1603.03590); and a mask
        [H, W], 0 where flowing to `other` and back misses by more than a pixel or leaves the picture, else 1.
    """
    first, second = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (image, other))
    if min(first.shape) < 16:  # less than the search's patches need
        return np.zeros((*first.shape, 2), np.float32), np.zeros(first.shape, np.float32)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    unknown = np.zeros((*first.shape, 2), np.float32)
    there = np.asarray(search.calc(first, second, unknown.copy()), dtype=np.float32)
    back = np.asarray(search.calc(second, first, unknown.copy()), dtype=np.float32)
    height, width = first.shape
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = xs + there[..., 0], ys + there[..., 1]
    returned = there + cv2.remap(back, x, y, cv2.INTER_LINEAR)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    known = inside & (np.hypot(returned[..., 0], returned[..., 1]) < _MISSED_PIXELS)
    return there, known.astype(np.float32)


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Takes each pixel from where `flow` points: [N, C, H, W] and [N, 2, H, W] in pixels -> [N, C, H, W]."""
    height, width = images.shape[2:]
    xs = torch.arange(width, device=flow.device, dtype=flow.dtype)
    ys = torch.arange(height, device=flow.device, dtype=flow.dtype)
    x = (xs + flow[:, 0]) * (2 / max(1, width - 1)) - 1
    y = (ys[:, None] + flow[:, 1]) * (2 / max(1, height - 1)) - 1
    return F.grid_sample(images, torch.stack((x, y), dim=3), align_corners=True, padding_mode="border")
