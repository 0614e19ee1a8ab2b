"""Frames that stay on the device: the hardware decoder's pictures to BGR tensors, and these to the encoder's pictures.

PyAV hands pictures over through DLPack, in FFmpeg's own memory. Where that does not work they come and go as NV12 or
P010 through system memory, and are converted on the device all the same.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.memory import host_image
from engine.precision import psnr_db
from engine.video.color import LUMA_WEIGHTS, RANGE_FULL, Color, ToBgr, color_of
from engine.video.hardware import (
    ENCODER,
    SOFTWARE_ENCODER,
    TRIAL_FRAMES,
    VideoHardware,
    accelerator,
    has_right_timestamps,
    nvenc_options,
    sample_format,
    trial_context,
    trial_level,
    trial_packets,
    trial_times,
)
from engine.video.libav import import_av, one_line

if TYPE_CHECKING:
    import torch
    from av.video.frame import VideoFrame
    from torch import Tensor

# Of a file's first frame on the device, beside swscale's.
PROOF_DB = 40.0

_BITS = {"nv12": 8, "p010le": 10}

# Frames that don't show where chroma lies, after which it is no longer asked.
_MOST_TIES = 16

# A trial's pictures are flat or smooth: an encoder moves their mean by less than this, and leaves this much of them.
_TRIAL_LEVELS = 3.0
_TRIAL_DB = 30.0


def device_errors() -> tuple[type[Exception], ...]:
    """What PyAV, DLPack and torch raise where a device, or a version of theirs, does not do what is asked for."""
    of_versions = (ImportError, AttributeError, TypeError)
    return (import_av().error.FFmpegError, RuntimeError, ValueError, BufferError, MemoryError, OSError, *of_versions)


def in_memory(frame: VideoFrame) -> VideoFrame:
    """A decoded frame in system memory: itself, or a download of one on a device."""
    samples = sample_format(frame)
    return frame if frame.format.name == samples else frame.reformat(format=samples)


class ToDeviceBgr:
    """Converts the hardware decoder's frames to BGR tensors on a device: those of a file, as long as that works.

    Frames are 4:2:0 with even sides, not HDR, and upright. They are compared with swscale's conversion until one has
    shown where the samples of chroma lie, which PyAV does not tell: the first one, unless it is all of one colour. In a
    black-and-white film none does, and they are taken to lie at the left, as most codecs have it.

    Args:
        device: torch's name of it.

    Attributes:
        failure: what has gone wrong, if anything; swscale converts from then on.
    """

    def __init__(self, device: str) -> None:
        import torch

        self.failure: str | None = None
        self._device = torch.device(device)
        self._color = Color()  # of the file, from its first frame on
        self._left_sited: bool | None = None  # not known yet
        self._ties = 0
        self._is_over = False
        self._staged: dict[int, Tensor] = {}  # by plane

    def __call__(self, frame: VideoFrame) -> Tensor | None:
        """A frame as uint8 [H, W, 3] on the device, complete; None where swscale has to convert it."""
        if self._is_over:
            return None
        try:
            if self._left_sited is None:
                return self._prove(frame)
            return self._convert(frame, left_sited=self._left_sited)
        except device_errors() as error:
            self.failure = one_line(error)
        self._is_over = True
        return None

    def _prove(self, frame: VideoFrame) -> Tensor | None:
        host = in_memory(frame)
        self._color = color_of(host)
        is_even = host.width % 2 == 0 and host.height % 2 == 0  # PyAV leaves the last chroma of an odd side out
        self._is_over = self._color.is_hdr or not is_even or host.side_data.get("DISPLAYMATRIX") is not None
        if self._is_over:
            return None
        expected = ToBgr(self._color, host.width, host.height)(host)
        images = {is_left: self._convert(frame, left_sited=is_left) for is_left in (True, False)}
        psnr = {is_left: psnr_db(host_image(image), expected) for is_left, image in images.items()}
        left_sited = psnr[True] >= psnr[False]
        if psnr[left_sited] < PROOF_DB:
            raise ValueError(f"it is at {psnr[left_sited]:.1f} dB of swscale's, {PROOF_DB:.0f} are needed")
        self._ties += psnr[True] == psnr[False]
        if psnr[True] != psnr[False] or self._ties == _MOST_TIES:
            self._left_sited = left_sited
        return images[left_sited]

    def _convert(self, frame: VideoFrame, *, left_sited: bool) -> Tensor:
        from engine import ops

        with _alone(self._device):
            luma, chroma = (self._plane(plane, index) for index, plane in enumerate(frame.planes))
            return ops.yuv_to_bgr(
                luma,
                chroma,
                weights=LUMA_WEIGHTS[self._color.matrix],
                full_range=self._color.range == RANGE_FULL,
                left_sited=left_sited,
                bits=_BITS[sample_format(frame)],
            )

    def _plane(self, plane: Any, index: int) -> Tensor:
        """A plane on the device: the decoder's own memory, or an upload of what lies in the system's."""
        import torch

        samples = _tensor_of(plane)
        if samples.device == self._device:
            return samples
        if index not in self._staged:
            self._staged[index] = torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True)
        return self._staged[index].copy_(samples).to(self._device, non_blocking=True)


class FromDeviceBgr:
    """Converts BGR tensors on a device to NV12 frames, with the matrix and range of `color`.

    Args:
        color: of the frames.
        hardware: the encoder that takes them on its device; None: they come out in system memory.
    """

    def __init__(self, color: Color, hardware: VideoHardware | None) -> None:
        self._color = color
        self._on_device: dict[str, Any] = {}
        self._memory: Any = None
        if hardware is not None:
            import torch
            from av.video.frame import CudaContext

            # NVENC keeps what it knows of an address: memory that was given back and taken again is not to come by it.
            self._memory = torch.cuda.MemPool()
            context = CudaContext(device_id=hardware.device_index, primary_ctx=False, current_ctx=True)
            self._on_device = {"cuda_context": context, "primary_ctx": False, "current_ctx": True}

    def __call__(self, image: Tensor) -> VideoFrame:
        """A frame of an image, uint8 [H, W, 3] with even sides, complete."""
        from engine import ops

        weights, full_range = LUMA_WEIGHTS[self._color.matrix], self._color.range == RANGE_FULL
        with _alone(image.device):
            with self._kept_memory(image.device):
                planes = ops.bgr_to_yuv(image, weights=weights, full_range=full_range)
            if not self._on_device:
                planes = planes[0].cpu(), planes[1].cpu()
        with _torch_is_current(image.device):
            frame = import_av().VideoFrame.from_dlpack(planes, format="nv12", **self._on_device)
        frame.colorspace, frame.color_range = self._color.matrix, self._color.range
        frame.color_primaries, frame.color_trc = self._color.primaries, self._color.transfer
        return frame

    def _kept_memory(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """What is allocated inside stays allocated as long as this object."""
        import torch

        return torch.cuda.use_mem_pool(self._memory, device) if self._memory is not None else contextlib.nullcontext()


def padded(image: Tensor, bottom: int, right: int) -> Tensor:
    """An image [H, W, 3] that goes on with its last row and column."""
    import torch

    image = torch.cat([image, image[-1:].expand(bottom, -1, -1)])
    return torch.cat([image, image[:, -1:].expand(-1, right, -1)], dim=1)


@contextlib.contextmanager
def _alone(device: torch.device) -> Iterator[None]:
    """Lets no graph be captured inside, and waits at the end for what was started."""
    import torch

    from engine.frame_runner import DEVICE_LOCK

    with DEVICE_LOCK:
        yield
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()


@contextlib.contextmanager
def _torch_is_current(device: torch.device) -> Iterator[None]:
    """Makes torch's context the current one of this thread, which FFmpeg takes where it is told to.

    FFmpeg's other way to the same context, the option `primary_ctx`, fails where its flags are not those FFmpeg sets.
    """
    import torch

    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        torch.zeros((), device=device)
        yield


def _tensor_of(plane: Any) -> Tensor:
    import torch

    # Of the capsule: given the plane itself, torch asks to be synchronised with a stream, which PyAV does not know.
    return torch.from_dlpack(plane.__dlpack__())


# --- what works here ---


@contextlib.contextmanager
def shared_accelerator(hardware: VideoHardware) -> Iterator[Any]:
    """PyAV's description of decoder or encoder in torch's context, to be opened inside; their frames stay there."""
    import torch

    with _torch_is_current(torch.device("cuda", hardware.device_index)):
        yield accelerator(hardware.device_index, is_hw_owned=True, options={"primary_ctx": "0", "current_ctx": "1"})


@functools.cache
def decoded_surfaces_missing(hardware: VideoHardware) -> str | None:
    """Why torch can't read the decoder's frames where they are, None if it can: a few that it has read were right."""
    av = import_av()
    levels: list[list[float]] = []
    try:
        packets = trial_packets(SOFTWARE_ENCODER, {})
        with shared_accelerator(hardware) as shared:
            decoder = av.CodecContext.create("h264", "r", hwaccel=shared)
            decoder.thread_count = 1
            for packet in [*packets, None]:
                levels += [
                    [float(_tensor_of(plane).float().mean()) for plane in frame.planes]
                    for frame in decoder.decode(packet)
                    if sample_format(frame) == "nv12"
                ]
    except device_errors() as error:
        return one_line(error)
    expected = [[trial_level(index), 128] for index in range(TRIAL_FRAMES)]
    is_right = np.shape(levels) == np.shape(expected) and np.abs(np.subtract(levels, expected)).max() < _TRIAL_LEVELS
    return None if is_right else "a trial of the decoder's frames on the device gave others"


def not_shared(
    hardware: VideoHardware, crf: int | None, *, width: int, height: int, rate: Fraction, time_base: Fraction
) -> str | None:
    """Why the encoder can't read such a video's tensors where they are, None if it can: it has been opened for them."""
    if (missing := encoded_surfaces_missing(hardware)) is not None:
        return missing
    try:
        with shared_accelerator(hardware) as shared:
            context = import_av().CodecContext.create(ENCODER, "w", hwaccel=shared)
            context.width, context.height, context.pix_fmt = width, height, "nv12"
            context.time_base, context.framerate = time_base, rate
            context.options = nvenc_options(hardware, crf)
            context.open()
    except device_errors() as error:
        return one_line(error)
    return None


@functools.cache
def encoded_surfaces_missing(hardware: VideoHardware) -> str | None:
    """Why the encoder can't read tensors where they are, None if it can: a few, decoded in software, were right."""
    import torch

    av = import_av()
    try:
        with shared_accelerator(hardware) as shared:
            context = trial_context(ENCODER, nvenc_options(hardware, None), hwaccel=shared)
            side = context.width
            ramp = torch.linspace(40, 200, side, device=f"cuda:{hardware.device_index}")
            across, down = ramp.expand(side, -1), ramp[:, None].expand(-1, side)
            image = torch.stack([across, down, across.flip(1)], dim=-1).byte()
            convert, packets = FromDeviceBgr(Color(), hardware), []
            for time in trial_times():
                frame = convert(image)
                frame.pts, frame.time_base = time, context.time_base
                packets += context.encode(frame)
            packets += context.encode(None)
        decoder = av.CodecContext.create("h264", "r")
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        pictures = [ToBgr(Color(), side, side)(frame) for frame in frames]
    except device_errors() as error:
        return one_line(error)
    wrong = [psnr_db(picture, host_image(image)) < _TRIAL_DB for picture in pictures]
    if wrong != [False] * TRIAL_FRAMES or not has_right_timestamps(packets):
        return "a trial of the encoder with frames on the device gave others"
    return None
