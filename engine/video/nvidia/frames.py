"""Frames that stay on the device: converts the hardware decoder's pictures to BGR tensors and back for the encoder.

PyAV hands pictures over through DLPack, in FFmpeg's own memory. Where that does not work, they pass through system
memory as NV12 or P010, and are still converted on the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.device import DEVICE_LOCK, host_image
from engine.errors import first_line
from engine.parity import psnr_db
from engine.video.color import LUMA_WEIGHTS, RANGE_FULL, Color, ToBgr, color_of
from engine.video.nvidia.trials import VideoHardware, device_errors, sample_format, torch_is_current
from engine.video.pyav import import_av

if TYPE_CHECKING:
    import torch
    from av.video.frame import VideoFrame
    from torch import Tensor

# PSNR that a file's first frame, converted on the device, needs against swscale's.
PROOF_DB = 40.0

_BITS = {"nv12": 8, "p010le": 10}

# After so many frames that don't show where chroma lies, no more are compared.
_MOST_TIES = 16


def in_memory(frame: VideoFrame) -> VideoFrame:
    """A decoded frame in system memory: itself, or a download of one on a device."""
    samples = sample_format(frame)
    return frame if frame.format.name == samples else frame.reformat(format=samples)


class ToDeviceBgr:
    """Converts the frames of one file from the hardware decoder to BGR tensors on a device, as long as that works.

    Frames are 4:2:0 with even sides, not HDR, and upright. They are compared with swscale's conversion until one has
    shown where the samples of chroma lie, which PyAV does not tell: the first one, unless it is all of one colour. In a
    black-and-white film none does, and they are taken to lie at the left, as most codecs have it.

    Args:
        device: torch's name of the device.

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
            self.failure = first_line(error)
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

        samples = tensor_of(plane)
        if samples.device == self._device:
            return samples
        if index not in self._staged:
            self._staged[index] = torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True)
        return self._staged[index].copy_(samples).to(self._device, non_blocking=True)


class FromDeviceBgr:
    """Converts BGR tensors on a device to NV12 frames, with the matrix and range of `color`.

    Args:
        color: the frames' colour properties.
        hardware: the encoder that takes them on its device; None: they come out in system memory.
    """

    def __init__(self, color: Color, hardware: VideoHardware | None) -> None:
        self._color = color
        self._on_device: dict[str, Any] = {}
        self._memory: Any = None
        if hardware is not None:
            import torch
            from av.video.frame import CudaContext

            # NVENC remembers what lies at an address, so memory that was freed must not be allocated for it again.
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
        with torch_is_current(image.device):
            frame = import_av().VideoFrame.from_dlpack(planes, format="nv12", **self._on_device)
        frame.colorspace, frame.color_range = self._color.matrix, self._color.range
        frame.color_primaries, frame.color_trc = self._color.primaries, self._color.transfer
        return frame

    def _kept_memory(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """Memory allocated inside stays allocated as long as this object."""
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

    with DEVICE_LOCK:
        yield
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()


def tensor_of(plane: Any) -> Tensor:
    import torch

    # From the capsule: given the plane, torch asks PyAV to synchronise with a stream, which it can't.
    return torch.from_dlpack(plane.__dlpack__())
