"""NVIDIA's video hardware: how it is opened, and whether it works here.

FFmpeg lists the hardware that it was built for, not what the machine has. A trial on a few frames shows what works.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import first_line
from engine.video.encoders import VideoParameters, encoder_context, encoder_options
from engine.video.pyav import import_av

if TYPE_CHECKING:
    import torch
    from av.video.frame import VideoFrame

ENCODER = "h264_nvenc"

SOFTWARE_ENCODER = "libx264"
"""The encoder that `ENCODER` replaces where the user names none."""

SHARED_FORMAT = "cuda"
"""The pixel format of an encoder that reads frames where torch has them. It opens at its first frame, which tells it
where they are; opened with PyAV's description of the hardware, it would take memory for 32 frames more."""

TRIAL = VideoParameters(256, 256, rate=Fraction(25), time_base=Fraction(1, 12800))
"""The video of a trial. Its clock is as fine as that of MP4 files."""

TRIAL_FRAMES = 8
TRIAL_TIMES = [512 * index for index in range(TRIAL_FRAMES)]
TRIAL_LEVELS = [16 + 8 * index for index in range(TRIAL_FRAMES)]
"""The luma of each flat grey frame."""


@dataclasses.dataclass(frozen=True)
class VideoHardware:
    """Hardware to be used where it can do the job.

    Attributes:
        device_index: index of the CUDA device.
        is_wanted: the user asked for it by name, so a warning tells what it can't do.
        frames_device: torch's name of the device on which decoded frames stay as tensors; "": they become arrays.
    """

    device_index: int = 0
    is_wanted: bool = False
    frames_device: str = ""


# --- opening ---


def device_errors() -> tuple[type[Exception], ...]:
    """The exceptions of PyAV, DLPack and torch where a device, or their version, does not do what was asked."""
    of_versions = (ImportError, AttributeError, TypeError)
    return (import_av().error.FFmpegError, RuntimeError, ValueError, BufferError, MemoryError, OSError, *of_versions)


def accelerator(device_index: int, **settings: Any) -> Any:
    """PyAV's description of NVIDIA's decoder."""
    from av.codec.hwaccel import HWAccel

    # FFmpeg's own fallback would go on in one thread without a warning.
    return HWAccel("cuda", device=str(device_index), allow_software_fallback=False, **settings)


@contextlib.contextmanager
def shared_accelerator(hardware: VideoHardware) -> Iterator[Any]:
    """PyAV's description of the decoder in torch's context, to be opened inside; its frames stay there."""
    import torch

    with torch_is_current(torch.device("cuda", hardware.device_index)):
        yield accelerator(hardware.device_index, is_hw_owned=True, options={"primary_ctx": "0", "current_ctx": "1"})


@contextlib.contextmanager
def torch_is_current(device: torch.device) -> Iterator[None]:
    """Makes torch's context the current one of this thread, which FFmpeg uses if told to.

    FFmpeg's other way to the same context, the option `primary_ctx`, fails where its flags are not those FFmpeg sets.
    """
    import torch

    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        torch.zeros((), device=device)
        yield


def nvenc_options(hardware: VideoHardware, crf: int | None) -> dict[str, str]:
    """Options of `ENCODER` for the quality that `crf` is in `SOFTWARE_ENCODER`, whose scale is one step off."""
    options, _ = encoder_options(ENCODER, None if crf is None else crf + 1)
    return {**options, "gpu": str(hardware.device_index)}


def sample_format(frame: VideoFrame) -> str:
    """The pixel format of a frame's samples, wherever they are."""
    return str((getattr(frame, "sw_format", None) or frame.format).name)


# --- trials ---


@functools.cache
def decoder_missing(device_index: int) -> str | None:
    """Why the hardware decoder (NVDEC) can't be used, None if it can: it has decoded a few frames of H.264."""
    if missing := _missing_library("libnvcuvid.so.1"):
        return missing
    try:
        frames = list(decoded(trial_packets(SOFTWARE_ENCODER, {}), accelerator(device_index)))
    except device_errors() as error:
        return f"a trial of the decoder failed: {first_line(error)}"
    if [frame.format.name for frame in frames] != ["nv12"] * TRIAL_FRAMES:
        return "a trial of the decoder failed: its frames are not the hardware's"
    return None


@functools.cache
def encoder_missing(device_index: int) -> str | None:
    """Why the hardware encoder (NVENC) can't be used, None if it can: it has encoded a few frames, timestamps right."""
    if missing := _missing_library("libnvidia-encode.so.1"):
        return missing
    try:
        packets = trial_packets(ENCODER, nvenc_options(VideoHardware(device_index), None))
    except device_errors() as error:
        return f"a trial of the encoder failed: {first_line(error)}"
    return None if has_right_timestamps(packets) else "a trial of the encoder failed: its timestamps are wrong"


def _missing_library(name: str) -> str | None:
    """The reason if FFmpeg can't load the driver, or this library of it."""
    if not sys.platform.startswith("linux"):
        return None  # the trial tells
    reasons = {
        "libcuda.so.1": "no NVIDIA driver: libcuda.so.1 can't be loaded",
        name: f"the NVIDIA driver's {name} can't be loaded; a container needs NVIDIA_DRIVER_CAPABILITIES=video",
    }
    for library, reason in reasons.items():
        with contextlib.suppress(OSError):
            ctypes.CDLL(library)
            continue
        return reason
    return None


def trial_packets(encoder: str, options: dict[str, str]) -> list[Any]:
    """A few flat grey frames, encoded."""

    def flat(level: int) -> VideoFrame:
        planes = np.full((TRIAL.height * 3 // 2, TRIAL.width), 128, np.uint8)
        planes[: TRIAL.height] = level
        return import_av().VideoFrame.from_ndarray(planes, "yuv420p")

    return encoded(map(flat, TRIAL_LEVELS), encoder_context(encoder, options, TRIAL, "yuv420p"))


def encoded(frames: Iterable[VideoFrame], context: Any) -> list[Any]:
    """The packets of a trial's frames, which get their timestamps here."""
    packets = []
    for frame, time in zip(frames, TRIAL_TIMES, strict=True):
        frame.pts, frame.time_base = time, TRIAL.time_base
        packets += context.encode(frame)
    return packets + context.encode(None)


def has_right_timestamps(packets: list[Any]) -> bool:
    """True if the packets of a trial carry the frames' timestamps, in an order that a container takes."""
    if any(packet.pts is None or packet.dts is None for packet in packets):
        return False
    in_order = [packet.dts for packet in packets]
    return (
        sorted(packet.pts for packet in packets) == TRIAL_TIMES
        and in_order == sorted(set(in_order))
        and all(packet.dts <= packet.pts for packet in packets)
    )


def decoded(packets: list[Any], hwaccel: Any = None) -> Iterator[VideoFrame]:
    """The frames of a trial's packets of H.264."""
    decoder = import_av().CodecContext.create("h264", "r", hwaccel=hwaccel)
    decoder.thread_count = 1
    for packet in [*packets, None]:
        yield from decoder.decode(packet)
