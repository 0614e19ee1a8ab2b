"""The compiled operators, `torch.ops.streamgan`: typed wrappers and what torch.compile needs to know of them.

Importing this module loads the operator library; it raises `BackendError` where that isn't built or can't be loaded.
The operators are in the dispatcher from then on, so they work in eager mode, TorchScript, torch.compile and export.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from engine import reference
from engine.errors import BackendError, first_line

LIBRARY = Path(__file__).parent / "lib" / "libstreamgan.so"
CUDA_LIBRARY = LIBRARY.with_stem(f"{LIBRARY.stem}_cuda")


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


@functools.cache
def cuda_unavailable() -> str | None:
    """Why the operators can't run on CUDA tensors, in one line; None if they can, and they are loaded then."""
    if torch.version.cuda is None:
        return "this is a CPU build of torch"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if not CUDA_LIBRARY.exists():
        return "the CUDA operators aren't built: with nvcc in PATH, run `pip install -e .` in the repository"
    try:
        torch.ops.load_library(CUDA_LIBRARY)
    except OSError as error:
        return f"the CUDA operators can't be loaded ({error}): rebuild them with `pip install -e .`"
    try:
        pixel = torch.zeros((1, 1, 1, 3), dtype=torch.uint8, device="cuda")
        frames_to_tensor(pixel, value_range=(-1.0, 1.0), size=(1, 1), dtype=torch.float16).cpu()
    except RuntimeError as error:  # built for other devices than this one
        return f"the CUDA operators don't run on {torch.cuda.get_device_name()} ({first_line(error)})"
    return None


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
        frames: uint8 [N, H, W, 3] in BGR order. Rows and frames may lie apart, as in a crop of larger
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


def tensor_to_frames(
    tensor: Tensor, *, value_range: tuple[float, float], size: tuple[int, int], tanh: bool = False
) -> Tensor:
    """Turns a generator's output into video frames: cropped, RGB -> BGR, rounded and clamped to bytes.

    Equivalent to:

        low, high = value_range
        cropped = tensor[:, :, : size[0], : size[1]].float()
        cropped = cropped.tanh() if tanh else cropped
        values = cropped.sub(low).mul(255 / (high - low)).round().clamp(0, 255).nan_to_num(nan=0.0)
        values.byte().permute(0, 2, 3, 1).flip(-1).contiguous()

    byte for byte without tanh: halves go to the even neighbour, infinities to 0 and 255, NaN to 0.

    Args:
        tensor: float32, bfloat16 or float16 [N, 3, H, W] in RGB order. channels_last is the fast layout;
            contiguous is taken as it is too, and any other is copied first.
        value_range: (low, high), the values that become 0 and 255.
        size: (height, width) of the frames in pixels, not larger than the tensor; the top left part is kept.
        tanh: of the values first, for a generator whose last layer is left out.

    Returns:
        uint8 [N, height, width, 3] in BGR order, contiguous.

    Raises:
        RuntimeError: wrong dtype, shape, size or range; the message says which.
    """
    low, high = value_range
    return torch.ops.streamgan.tensor_to_frames(tensor, low, high, size[0], size[1], tanh)


def yuv_to_bgr(
    luma: Tensor,
    chroma: Tensor,
    *,
    weights: tuple[float, float],
    full_range: bool,
    left_sited: bool = False,
    bits: int = 8,
) -> Tensor:
    """Turns a decoded picture in 4:2:0 into a video frame.

    With kr, kb = weights (of a matrix of ITU-T H.273, table 4) and kg = 1 - kr - kb, in levels of 255, equivalent to

        Y', C' = (Y - 16) * 255 / 219, (C - 128) * 255 / 224  # limited range; Y, C - 128 in full range
        B, R = Y' + 2 * (1 - kb) * Cb', Y' + 2 * (1 - kr) * Cr'
        G = Y' - 2 * kb * (1 - kb) / kg * Cb' - 2 * kr * (1 - kr) / kg * Cr'

    rounded to nearest even and clamped to bytes. As in swscale, pixels 2i and 2i + 1 of a row take chroma sample i, or
    3/4 of i and 1/4 of i + 1; row 2i + 1 takes chroma row i, row 2i the mean of i - 1 and i.

    Args:
        luma: uint8, or uint16 with the value in the upper `bits` bits (P010), [H, W]. Rows may lie apart.
        chroma: of the same dtype, [(H + 1) // 2, (W + 1) // 2, 2], Cb and Cr. Rows may lie apart.
        weights: (kr, kb), shares of red and blue in luma, above 0 and below 1 together.
        full_range: black is 0 and white the largest value; else they are 16 and 235 (of 8 bits).
        left_sited: chroma samples lie at the left one of their pixels, as most codecs have it; else between them.
        bits: 8 in uint8, 9 to 16 in uint16.

    Returns:
        uint8 [H, W, 3] in BGR order, contiguous.

    Raises:
        RuntimeError: wrong dtype, shape, weights or bits; the message says which.
    """
    return torch.ops.streamgan.yuv_to_bgr(luma, chroma, *weights, full_range, left_sited, bits)


def bgr_to_yuv(frame: Tensor, *, weights: tuple[float, float], full_range: bool) -> tuple[Tensor, Tensor]:
    """Turns a video frame into a picture in 4:2:0, as encoders take it (NV12): the inverse of `yuv_to_bgr` in 8 bits.

    A chroma sample is the mean of 3x3 pixels, weighted 1 2 1 both ways, around the left one of two columns and the
    lower one of two rows, where `yuv_to_bgr` has placed it. The frame goes on beyond its edges with the outermost
    pixel.

    Args:
        frame: uint8 [H, W, 3] in BGR order, H and W even. Rows may lie apart.
        weights, full_range: as of `yuv_to_bgr`.

    Returns:
        luma, uint8 [H, W], and chroma, uint8 [H / 2, W / 2, 2], in rows of a multiple of 256 bytes, chroma behind luma
        in the same memory.

    Raises:
        RuntimeError: wrong dtype, shape or weights; the message says which.
    """
    height, width = frame.shape[:2]
    picture: Tensor = torch.ops.streamgan.bgr_to_yuv(frame, *weights, full_range)
    return picture[:height], picture[height:].unflatten(1, (width // 2, 2))


_SLOPES = {"none": 1.0, "relu": 0.0}


def instance_norm_act(
    input: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    activation: Literal["none", "relu", "leaky_relu"] = "none",
    negative_slope: float = 0.2,
    over_channels: bool = False,
    pad: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Tensor:
    """InstanceNorm, activation, addition and reflect padding in one operator, with gradients.

    Equivalent to, with `act` the activation:

        normalised = F.group_norm(input, 1 if over_channels else C, weight, bias, eps)
        F.pad(act(normalised) + residual, pad, mode="reflect")

    Args:
        input: float32, bfloat16 or, on a CUDA device, float16 [N, C, H, W], contiguous or channels_last; others are
            copied first.
        weight, bias: float32 [C].
        residual: of the shape and dtype of `input`.
        eps: added to the variance.
        activation: after the norm.
        negative_slope: of "leaky_relu".
        over_channels: one mean and variance for all channels of an image, as GroupNorm of one group has, instead of
            one for each channel.
        pad: left, right, top, bottom, each smaller than the side.

    Returns:
        [N, C, top + H + bottom, left + W + right] in the dtype and layout of `input`. Statistics and arithmetic are
        float32.

    Raises:
        RuntimeError: wrong dtypes, shapes or padding; the message says which.
    """
    slope = _SLOPES.get(activation, negative_slope)
    output, _, _ = torch.ops.streamgan.instance_norm_act(
        input, weight, bias, residual, eps, slope, over_channels, list(pad)
    )
    return output


def fused_generator(image: Tensor, weights: Tensor, program: Tensor, *, channels: int, scale: int = 1) -> Tensor:
    """Runs a whole generator as `engine.fused.lowering.fuse` packed it.

    Args:
        image: float32 or bfloat16 [N, 1 to 4, H, W] on the CPU, any strides.
        weights: uint8 [bytes], packed weights.
        program: int64 [numbers], what is done with them.
        channels: of the picture.
        scale: how many times as high and wide as the image the picture is.

    Returns:
        float32 [N, channels, H * scale, W * scale], contiguous in torch.channels_last.

    Raises:
        RuntimeError: the image is too small for the generator or of another dtype, or program and weights don't fit.
    """
    picture: Tensor = torch.ops.streamgan.fused_generator(image, weights, program, channels, scale)
    return picture.permute(0, 3, 1, 2)


def fused_generator_seconds(
    image: Tensor, weights: Tensor, program: Tensor, *, channels: int, scale: int = 1
) -> Tensor:
    """Runs a generator as `fused_generator` does and returns how long each step took: float64 [steps], seconds."""
    seconds: Tensor = torch.ops.streamgan.fused_generator_seconds(image, weights, program, channels, scale)
    return seconds


@torch.library.register_fake("streamgan::frames_to_tensor")
def _(frames: Tensor, low: float, high: float, height: int, width: int, dtype: torch.dtype) -> Tensor:
    shape = (frames.shape[0], 3, height, width)
    return torch.empty(shape, dtype=dtype, device=frames.device, memory_format=torch.channels_last)


@torch.library.register_fake("streamgan::tensor_to_frames")
def _(tensor: Tensor, low: float, high: float, height: int, width: int, tanh: bool = False) -> Tensor:
    return torch.empty((tensor.shape[0], height, width, 3), dtype=torch.uint8, device=tensor.device)


@torch.library.register_fake("streamgan::yuv_to_bgr")
def _(luma: Tensor, chroma: Tensor, kr: float, kb: float, full_range: bool, left_sited: bool, bits: int) -> Tensor:
    return torch.empty((*luma.shape, 3), dtype=torch.uint8, device=luma.device)


@torch.library.register_fake("streamgan::bgr_to_yuv")
def _empty_yuv(frame: Tensor, kr: float, kb: float, full_range: bool) -> Tensor:
    height, width = frame.shape[:2]
    row_bytes = (width + 255) // 256 * 256
    return torch.empty((height * 3 // 2, row_bytes), dtype=torch.uint8, device=frame.device)[:, :width]


def _yuv_to_bgr_on_cpu(
    luma: Tensor, chroma: Tensor, kr: float, kb: float, full_range: bool, left_sited: bool, bits: int
) -> Tensor:
    """For trying out on the CPU what runs on a device: videos are converted by swscale there."""
    weights = (kr, kb)
    return reference.yuv_to_bgr(luma, chroma, weights=weights, full_range=full_range, left_sited=left_sited, bits=bits)


def _bgr_to_yuv_on_cpu(frame: Tensor, kr: float, kb: float, full_range: bool) -> Tensor:
    """As `_yuv_to_bgr_on_cpu`."""
    luma, chroma = reference.bgr_to_yuv(frame, weights=(kr, kb), full_range=full_range)
    return _empty_yuv(frame, kr, kb, full_range).copy_(torch.cat([luma, chroma.flatten(1)]))


torch.library.register_kernel("streamgan::yuv_to_bgr", "cpu", _yuv_to_bgr_on_cpu)
torch.library.register_kernel("streamgan::bgr_to_yuv", "cpu", _bgr_to_yuv_on_cpu)


@torch.library.register_fake("streamgan::fused_generator")
def _(image: Tensor, weights: Tensor, program: Tensor, channels: int, scale: int = 1) -> Tensor:
    shape = (image.shape[0], image.shape[2] * scale, image.shape[3] * scale, channels)
    return torch.empty(shape, dtype=torch.float32, device=image.device)


def _like(input: Tensor, height: int, width: int) -> Tensor:
    """[N, C, height, width] in the dtype and layout of `input`."""
    one_channel = input.shape[1] == 1 and input.is_contiguous()
    interleaved = input.is_contiguous(memory_format=torch.channels_last) and not one_channel
    layout = torch.channels_last if interleaved else torch.contiguous_format
    return torch.empty((*input.shape[:2], height, width), dtype=input.dtype, device=input.device, memory_format=layout)


@torch.library.register_fake("streamgan::instance_norm_act")
def _(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    epsilon: float,
    slope: float,
    over_channels: bool,
    pad: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    left, right, top, bottom = pad
    output = _like(input, top + input.shape[2] + bottom, left + input.shape[3] + right)
    mean = torch.empty(input.shape[:2], dtype=torch.float32, device=input.device)
    return output, mean, torch.empty_like(mean)


@torch.library.register_fake("streamgan::instance_norm_act_out")
def _(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    epsilon: float,
    slope: float,
    over_channels: bool,
    pad: list[int],
    output: Tensor,
) -> None:
    """Into `output`; what is given to runtimes that bring their own memory, on CUDA alone."""


@torch.library.register_fake("streamgan::instance_norm_act_backward")
def _(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    slope: float,
    over_channels: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    of_channel = torch.empty(input.shape[1], dtype=torch.float32, device=input.device)
    return _like(input, *input.shape[2:]), of_channel, torch.empty_like(of_channel)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    input, weight, bias, residual, _, slope, over_channels, pad = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(input, weight, bias, mean, rstd)
    ctx.settings = (slope, over_channels, pad, residual is not None)


def _instance_norm_act_backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    input, weight, bias, mean, rstd = ctx.saved_tensors
    slope, over_channels, pad, has_residual = ctx.settings
    if any(pad):
        grad = torch.ops.aten.reflection_pad2d_backward(grad, input, pad)
    of_input, of_weight, of_bias = torch.ops.streamgan.instance_norm_act_backward(
        grad, input, weight, bias, mean, rstd, slope, over_channels
    )
    return (
        of_input,
        None if weight is None else of_weight,
        None if bias is None else of_bias,
        grad if has_residual else None,
        *(None,) * 4,
    )


torch.library.register_autograd(
    "streamgan::instance_norm_act", _instance_norm_act_backward, setup_context=_keep_for_backward
)


def _instance_norm_act_backward_on_cuda(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    slope: float,
    over_channels: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What csrc/ops/instance_norm_act.cpp does on the CPU, in plain PyTorch: training is not what it is fused for."""
    channels = input.shape[1]
    per_channel = (1, channels, 1, 1)
    ones, zeros = input.new_ones(channels, dtype=torch.float32), input.new_zeros(channels, dtype=torch.float32)
    weight, bias = (ones if weight is None else weight), (zeros if bias is None else bias)
    normalised = (input.float() - mean[..., None, None]) * rstd[..., None, None]
    is_above = normalised * weight.view(per_channel) + bias.view(per_channel) > 0
    of_affine = torch.where(is_above, grad.float(), grad.float() * slope)
    of_weight, of_bias = (of_affine * normalised).sum(dim=(0, 2, 3)), of_affine.sum(dim=(0, 2, 3))
    of_normalised = of_affine * weight.view(per_channel)
    group = (1, 2, 3) if over_channels else (2, 3)
    of_mean = of_normalised.mean(dim=group, keepdim=True)
    of_deviation = (of_normalised * normalised).mean(dim=group, keepdim=True)
    of_input = (of_normalised - of_mean - normalised * of_deviation) * rstd[..., None, None]
    layout = torch.preserve_format
    return of_input.to(input.dtype, memory_format=layout), of_weight, of_bias


torch.library.register_kernel("streamgan::instance_norm_act_backward", "cuda", _instance_norm_act_backward_on_cuda)

if torch.version.cuda is not None:
    cuda_unavailable()  # loads them where it can
