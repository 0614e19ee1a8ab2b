"""The compiled operators, `torch.ops.streamgan`: typed wrappers and what torch.compile needs to know of them.

Importing this module loads the operator library; it raises `BackendError` where that isn't built or can't be loaded.
The operators are in the dispatcher from then on, so they work in eager mode, TorchScript, torch.compile and export.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import BackendError

LIBRARY = Path(__file__).parent / "lib" / ("libstreamgan.dll" if sys.platform == "win32" else "libstreamgan.so")


def _load_library() -> None:
    """Loads the operators and checks that STREAMGAN_ISA, if set, names an instruction set that can run here."""
    if not LIBRARY.exists():
        raise BackendError(
            f"the operators aren't built ({LIBRARY} is missing): run `pip install -e .` in the repository"
        )
    try:
        torch.ops.load_library(LIBRARY)
        from engine import _native
    except (ImportError, OSError) as error:
        cause = error.__cause__ or error
        raise BackendError(f"the operators can't be loaded ({cause}): rebuild them with `pip install -e .`") from error
    try:
        _native.active_isa()
    except ValueError as error:
        raise BackendError(str(error)) from error


_load_library()


def frames_to_tensor(
    frames: Tensor, *, value_range: tuple[float, float], size: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """Turns video frames into a generator's input: BGR -> RGB, normalised, padded by reflection, channels_last.

    Equivalent to:

        low, high = value_range
        image = frames.flip(-1).permute(0, 3, 1, 2).float().div(255 / (high - low)).add(low)
        image = F.pad(image, (0, size[1] - W, 0, size[0] - H), mode="reflect")
        image.to(dtype).contiguous(memory_format=torch.channels_last)

    bit for bit, except that the padding may be wider than the picture (it then bounces between the edges; a side of one
    pixel repeats).

    Args:
        frames: uint8 [N, H, W, 3] in BGR order, on the CPU. Rows and frames may lie apart, as in a crop of larger
            frames; any other layout is copied first.
        value_range: (low, high), the values that 0 and 255 become.
        size: (height, width) of the result in pixels, not smaller than the frames. Padding is on the right and bottom.
        dtype: float32, bfloat16 or float16. Computed in float32, then rounded to nearest even.

    Returns:
        `dtype` [N, 3, height, width] in RGB order, contiguous in torch.channels_last.

    Raises:
        RuntimeError: wrong dtype, shape, size or range; the message says which.
    """
    low, high = value_range
    return torch.ops.streamgan.frames_to_tensor(frames, low, high, size[0], size[1], dtype)


def tensor_to_frames(tensor: Tensor, *, value_range: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Turns a generator's output into video frames: cropped, RGB -> BGR, rounded and clamped to bytes.

    Equivalent to:

        low, high = value_range
        cropped = tensor[:, :, : size[0], : size[1]].float()
        values = cropped.sub(low).mul(255 / (high - low)).round().clamp(0, 255).nan_to_num(nan=0.0)
        values.byte().permute(0, 2, 3, 1).flip(-1).contiguous()

    byte for byte: halves go to the even neighbour, infinities to 0 and 255, NaN to 0.

    Args:
        tensor: float32, bfloat16 or float16 [N, 3, H, W] in RGB order, on the CPU. channels_last is the fast layout;
            contiguous is taken as it is too, and any other is copied first.
        value_range: (low, high), the values that become 0 and 255.
        size: (height, width) of the frames in pixels, not larger than the tensor; the top left part is kept.

    Returns:
        uint8 [N, height, width, 3] in BGR order, contiguous.

    Raises:
        RuntimeError: wrong dtype, shape, size or range; the message says which.
    """
    low, high = value_range
    return torch.ops.streamgan.tensor_to_frames(tensor, low, high, size[0], size[1])


@torch.library.register_fake("streamgan::frames_to_tensor")
def _(frames: Tensor, low: float, high: float, height: int, width: int, dtype: torch.dtype) -> Tensor:
    shape = (frames.shape[0], 3, height, width)
    return torch.empty(shape, dtype=dtype, device=frames.device, memory_format=torch.channels_last)


@torch.library.register_fake("streamgan::tensor_to_frames")
def _(tensor: Tensor, low: float, high: float, height: int, width: int) -> Tensor:
    return torch.empty((tensor.shape[0], height, width, 3), dtype=torch.uint8, device=tensor.device)
