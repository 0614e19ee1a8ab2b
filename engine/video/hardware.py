"""NVIDIA's video hardware: whether it works here, which streams its decoder gets, and when its encoder is taken.

FFmpeg lists the hardware it was built for, not what is there: what works is found out by doing it, on a few frames.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import sys
from collections.abc import Generator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import BackendError, SourceError
from engine.video.encoders import encoder_options
from engine.video.libav import PacketReader, import_av, indexed_frames, one_line, open_input

if TYPE_CHECKING:
    import torch
    from av.container import InputContainer
    from av.video.frame import VideoFrame

ENCODER = "h264_nvenc"

# What stands in for it: the encoder that `ENCODER` replaces where the user names none.
SOFTWARE_ENCODER = "libx264"

# FFmpeg's decoder -> profiles and pixel formats that all of NVIDIA's decoders know. AV1 is missing because the decoder
# that PyAV takes for it, libdav1d, has no hardware.
_DECODED = {
    "h264": (("Constrained Baseline", "Main", "High"), ("yuv420p", "yuvj420p")),
    "hevc": (("Main", "Main 10"), ("yuv420p", "yuvj420p", "yuv420p10le")),
    "vp9": (("Profile 0", "Profile 2"), ("yuv420p", "yuv420p10le")),
    "mpeg2video": (("Simple", "Main"), ("yuv420p",)),
}

# As frames of 8 and 10 bits are on the device, and come back from it.
_DOWNLOADED_FORMATS = ("nv12", "p010le")

# The scale of constant quality ends at 51, as libx264's does. Libx264's 0 is lossless.
_MOST_CQ = 51

_TRIAL_SIZE = 256
TRIAL_FRAMES = 8
_TRIAL_TICKS = 512
_TRIAL_CLOCK = Fraction(1, 12800)


@dataclasses.dataclass(frozen=True)
class VideoHardware:
    """Hardware to be used where it can do the job.

    Attributes:
        device_index: of the CUDA device.
        is_wanted: it was asked for by name: what it can't do is told.
        frames_device: torch's name of the device on which decoded frames stay, as tensors; "": arrays in system memory.
    """

    device_index: int = 0
    is_wanted: bool = False
    frames_device: str = ""


class HardwareDecoderError(Exception):
    """The hardware decoder met what the software decoder has to decide on. Never shown: software goes on."""


def choose_hardware(hwaccel: str, device: torch.device) -> VideoHardware | None:
    """Which hardware to use, None for software only.

    Args:
        hwaccel: `auto`: where frames are translated on a CUDA device; `none`; `cuda`: in any case.
        device: that frames are translated on.

    Raises:
        BackendError: `cuda` was asked for, and neither decoder nor encoder works here.
    """
    if hwaccel == "none" or (hwaccel == "auto" and device.type != "cuda"):
        return None
    index = (device.index or 0) if device.type == "cuda" else 0
    if hwaccel == "cuda":
        reason = decoder_missing(index)
        if reason is not None and encoder_missing(index) is not None:
            raise BackendError(f"--hwaccel cuda: no video hardware can be used here ({reason}); leave the option out")
    return VideoHardware(index, is_wanted=hwaccel == "cuda", frames_device=_frames_device(device, index))


def _frames_device(device: torch.device, index: int) -> str:
    """Frames stay where they are translated, if the operators that convert them are there."""
    if device.type != "cuda":
        return ""
    from engine import ops

    return f"cuda:{index}" if ops.cuda_unavailable() is None else ""


# --- what is there ---


@functools.cache
def decoder_missing(device_index: int) -> str | None:
    """Why the hardware decoder (NVDEC) can't be used, None if it can: it has decoded a few frames of H.264."""
    missing = _missing_library("libcuda.so.1") or _missing_library("libnvcuvid.so.1")
    if missing is not None:
        return missing
    av = import_av()
    try:
        packets = trial_packets(SOFTWARE_ENCODER, {})
        decoder = av.CodecContext.create("h264", "r", hwaccel=accelerator(device_index))
        decoder.thread_count = 1
        frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        return f"a trial of the decoder failed: {one_line(error)}"
    if [frame.format.name for frame in frames] != ["nv12"] * TRIAL_FRAMES:
        return "a trial of the decoder failed: its frames are not the hardware's"
    return None


@functools.cache
def encoder_missing(device_index: int) -> str | None:
    """Why the hardware encoder (NVENC) can't be used, None if it can: it has encoded a few frames, timestamps right."""
    missing = _missing_library("libcuda.so.1") or _missing_library("libnvidia-encode.so.1")
    if missing is not None:
        return missing
    av = import_av()
    try:
        packets = trial_packets(ENCODER, nvenc_options(VideoHardware(device_index), None))
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        return f"a trial of the encoder failed: {one_line(error)}"
    return None if has_right_timestamps(packets) else "a trial of the encoder failed: its timestamps are wrong"


def has_right_timestamps(packets: list[Any]) -> bool:
    """True if the packets of a trial carry the frames' timestamps, in an order that a container takes."""
    if any(packet.pts is None or packet.dts is None for packet in packets):
        return False
    shown = sorted(packet.pts for packet in packets)
    decoded = [packet.dts for packet in packets]
    return (
        shown == trial_times()
        and decoded == sorted(set(decoded))
        and all(packet.dts <= packet.pts for packet in packets)
    )


def _missing_library(name: str) -> str | None:
    """Says so where a library of the driver, which FFmpeg loads by that name, is not there."""
    if not sys.platform.startswith("linux"):
        return None  # the trial tells
    try:
        ctypes.CDLL(name)
    except OSError:
        if name == "libcuda.so.1":
            return "no NVIDIA driver: libcuda.so.1 can't be loaded"
        return f"the NVIDIA driver's {name} can't be loaded; a container needs NVIDIA_DRIVER_CAPABILITIES=video"
    return None


def trial_context(encoder: str, options: dict[str, str], *, hwaccel: Any = None) -> Any:
    """An encoder for a trial, not yet open, on a clock as fine as that of MP4 files."""
    context = import_av().CodecContext.create(encoder, "w", hwaccel=hwaccel)
    context.width = context.height = _TRIAL_SIZE
    context.pix_fmt = "nv12" if hwaccel is not None else "yuv420p"
    context.time_base, context.framerate = _TRIAL_CLOCK, Fraction(25)
    context.options = dict(options)
    return context


def trial_times() -> list[int]:
    """The timestamps of a trial's frames."""
    return [index * _TRIAL_TICKS for index in range(TRIAL_FRAMES)]


def trial_level(index: int) -> int:
    """The luma of a trial's flat grey frame."""
    return 16 + 8 * index


def trial_packets(encoder: str, options: dict[str, str]) -> list[Any]:
    """A few flat grey frames, encoded."""
    context = trial_context(encoder, options)
    packets = []
    for index, time in enumerate(trial_times()):
        planes = np.full((_TRIAL_SIZE * 3 // 2, _TRIAL_SIZE), 128, np.uint8)
        planes[:_TRIAL_SIZE] = trial_level(index)
        frame = import_av().VideoFrame.from_ndarray(planes, "yuv420p")
        frame.pts, frame.time_base = time, _TRIAL_CLOCK
        packets += context.encode(frame)
    return packets + context.encode(None)


def accelerator(device_index: int, **settings: Any) -> Any:
    """PyAV's description of NVIDIA's decoder or encoder."""
    from av.codec.hwaccel import HWAccel

    # No fallback of FFmpeg's own: it would go on in one thread, and not say so.
    return HWAccel("cuda", device=str(device_index), allow_software_fallback=False, **settings)


# --- decoding ---


def not_decoded(stream: Any) -> str | None:
    """Why the hardware decoder does not get this stream, None if it does.

    Args:
        stream: a video stream, opened for the software decoder.
    """
    context = stream.codec_context
    profiles, pixel_formats = _DECODED.get(context.name, ((), ()))
    if not profiles:
        return f"{context.name} is not decoded by hardware"
    if context.profile not in profiles or context.pix_fmt not in pixel_formats:
        return f"{context.name} {context.profile}, {context.pix_fmt} is not decoded by all hardware"
    return None


def open_on_hardware(spec: str, hardware: VideoHardware) -> InputContainer:
    """Opens a file a second time, its streams on the hardware decoder."""
    if hardware.frames_device.startswith("cuda"):
        from engine.video.device_frames import decoded_surfaces_missing, shared_accelerator

        if decoded_surfaces_missing(hardware) is None:
            with shared_accelerator(hardware) as shared:
                return open_input(spec, hwaccel=shared)
    return open_input(spec, hwaccel=accelerator(hardware.device_index))


def decode_on_hardware(spec: str, stream: Any, hardware: VideoHardware) -> Generator[VideoFrame, None, None]:
    """Decodes a stream to its end; the frames are in system memory, as NV12 or P010, or on the device if they can be.

    Args:
        spec: the file.
        stream: one of its streams for which `not_decoded` is None, opened for the software decoder.
        hardware: what to decode it on.

    Raises:
        HardwareDecoderError: at the first thing that is not as it should be. The frames until then are right.
    """
    av = import_av()
    try:
        container = open_on_hardware(spec, hardware)
    except (SourceError, RuntimeError) as error:
        raise HardwareDecoderError(one_line(error)) from error
    try:
        twin: Any = container.streams[stream.index]
        # Each thread of FFmpeg's takes surfaces of its own, and the device has 32 of them.
        twin.thread_count = 1
        reader = PacketReader(container, [twin])
        count = 0
        for packet in reader:
            try:
                frames = twin.decode(packet)
            except av.error.EOFError:
                continue
            except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
                raise HardwareDecoderError(one_line(error)) from error
            if reader.damaged:
                raise HardwareDecoderError("a damaged packet")
            for frame in frames:
                _check(frame, stream)
                count += 1
                yield frame
        if reader.damaged or count < indexed_frames(stream):
            raise HardwareDecoderError("a damaged file, or frames that did not come")
    finally:
        container.close()


def sample_format(frame: VideoFrame) -> str:
    """The pixel format of a frame's samples, wherever they are."""
    return str((getattr(frame, "sw_format", None) or frame.format).name)


def _check(frame: VideoFrame, stream: Any) -> None:
    if frame.is_corrupt:
        raise HardwareDecoderError("a damaged frame")
    name = sample_format(frame)
    if name not in _DOWNLOADED_FORMATS:
        raise HardwareDecoderError(f"a frame in {name}, which is not the hardware's")
    # Of a cropped picture FFmpeg cuts off only the right and the bottom where it comes from hardware.
    if (frame.width, frame.height) != (stream.width, stream.height):
        raise HardwareDecoderError(
            f"a frame of {frame.width}x{frame.height} where {stream.width}x{stream.height} is due"
        )


# --- encoding ---


def nvenc_options(hardware: VideoHardware, crf: int | None) -> dict[str, str]:
    """Options of `ENCODER` for the quality that `crf` is in `SOFTWARE_ENCODER`, whose scale is one step off."""
    options, _ = encoder_options(ENCODER, None if crf is None else crf + 1)
    return {**options, "gpu": str(hardware.device_index)}


def not_encoded(
    hardware: VideoHardware, crf: int | None, *, width: int, height: int, rate: Fraction, time_base: Fraction
) -> str | None:
    """Why the hardware encoder does not get such a video, None if it does: it has been opened for it.

    Args:
        hardware: what to encode on.
        crf: quality, on the scale of `SOFTWARE_ENCODER`.
        width, height: of the frames, in pixels.
        rate: frames per second.
        time_base: seconds per unit of the timestamps.
    """
    if crf is not None and not 0 < crf < _MOST_CQ:
        return f"--crf {crf} is beyond its scale"
    missing = encoder_missing(hardware.device_index)
    if missing is not None:
        return missing
    av = import_av()
    context = av.CodecContext.create(ENCODER, "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = time_base, rate
    context.options = nvenc_options(hardware, crf)
    try:
        context.open()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return f"it can't be opened for {width}x{height}: {one_line(error)}"
    return None


def describe_hardware(device_index: int = 0) -> str:
    """One line on what works here."""
    missing = {"NVDEC": decoder_missing(device_index), f"NVENC ({ENCODER})": encoder_missing(device_index)}
    if len(set(missing.values())) == 1 and None not in missing.values():
        return f"not available: {missing['NVDEC']}"
    return ", ".join(
        f"{name} {'works' if reason is None else f'not available: {reason}'}" for name, reason in missing.items()
    )
