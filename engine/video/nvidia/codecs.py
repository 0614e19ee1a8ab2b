"""NVIDIA's decoder and encoder: which streams they get, and decoding on hardware."""

from __future__ import annotations

import functools
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.device import host_image
from engine.errors import BackendError, SourceError, first_line
from engine.parity import psnr_db
from engine.video.color import Color, ToBgr
from engine.video.encoders import VideoParameters, encoder_context
from engine.video.nvidia.frames import FromDeviceBgr, tensor_of
from engine.video.nvidia.trials import (
    ENCODER,
    SHARED_FORMAT,
    SOFTWARE_ENCODER,
    TRIAL,
    TRIAL_FRAMES,
    TRIAL_LEVELS,
    VideoHardware,
    accelerator,
    decoded,
    decoder_missing,
    device_errors,
    encoded,
    encoder_missing,
    has_right_timestamps,
    nvenc_options,
    sample_format,
    shared_accelerator,
    torch_is_current,
    trial_packets,
)
from engine.video.pyav import import_av, indexed_frames, open_input

if TYPE_CHECKING:
    import torch
    from av.container import InputContainer
    from av.video.frame import VideoFrame

    from engine.video.demuxer import Demuxer

# FFmpeg's decoder -> profiles and pixel formats that all of NVIDIA's decoders know. AV1 is missing because the decoder
# that PyAV takes for it, libdav1d, has no hardware.
_DECODED = {
    "h264": (("Constrained Baseline", "Main", "High"), ("yuv420p", "yuvj420p")),
    "hevc": (("Main", "Main 10"), ("yuv420p", "yuvj420p", "yuv420p10le")),
    "vp9": (("Profile 0", "Profile 2"), ("yuv420p", "yuv420p10le")),
    "mpeg2video": (("Simple", "Main"), ("yuv420p",)),
}

# Frames of 8 and of 10 bits, on the device and downloaded from it.
_DEVICE_FORMATS = ("nv12", "p010le")

# The scale of constant quality ends at 51, as libx264's does. 0 is lossless in libx264 only.
_MOST_CQ = 51

# A trial's pictures are flat or smooth: an encoder changes their mean by less than this, and keeps this PSNR.
_LEVEL_TOLERANCE = 3.0
_TRIAL_DB = 30.0


class HardwareDecoderError(Exception):
    """The hardware decoder met something that only the software decoder may judge, which then goes on. Never shown."""


def choose_hardware(hwaccel: str, device: torch.device) -> VideoHardware | None:
    """The hardware to use, None for software only.

    Args:
        hwaccel: `auto`: where frames are translated on a CUDA device; `none`; `cuda`: in any case.
        device: the device that translates the frames.

    Raises:
        BackendError: `cuda` was asked for, and neither decoder nor encoder works here.
    """
    is_on_cuda = device.type == "cuda"
    if hwaccel == "none" or (hwaccel == "auto" and not is_on_cuda):
        return None
    index = (device.index or 0) if is_on_cuda else 0
    if hwaccel == "cuda":
        reason = decoder_missing(index)
        if reason is not None and encoder_missing(index) is not None:
            raise BackendError(f"--hwaccel cuda: no video hardware can be used here ({reason}); leave the option out")
    frames_device = ""
    if is_on_cuda:
        from engine import ops

        # Frames stay where they are translated, if the operators that convert them are there.
        frames_device = f"cuda:{index}" if ops.cuda_unavailable() is None else ""
    return VideoHardware(index, is_wanted=hwaccel == "cuda", frames_device=frames_device)


def describe_hardware(device_index: int = 0) -> str:
    """One line on what works here."""
    missing = {"NVDEC": decoder_missing(device_index), f"NVENC ({ENCODER})": encoder_missing(device_index)}
    if len(set(missing.values())) == 1 and None not in missing.values():
        return f"not available: {missing['NVDEC']}"
    return ", ".join(
        f"{name} {'works' if reason is None else f'not available: {reason}'}" for name, reason in missing.items()
    )


# --- decoding ---


def why_not_decoded(stream: Any) -> str | None:
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
    if hardware.frames_device.startswith("cuda") and decoded_surfaces_missing(hardware) is None:
        with shared_accelerator(hardware) as shared:
            return open_input(spec, hwaccel=shared)
    return open_input(spec, hwaccel=accelerator(hardware.device_index))


def decode_on_hardware(
    spec: str, demuxer: Demuxer, stream: Any, hardware: VideoHardware
) -> Generator[VideoFrame, None, None]:
    """Decodes a stream to its end; the frames are in system memory, as NV12 or P010, or on the device if they can be.

    Args:
        spec: the file. It is opened for its decoder only.
        demuxer: gives the picture's packets.
        stream: the picture, for which `why_not_decoded` is None, opened for the software decoder.
        hardware: what to decode it on.

    Raises:
        HardwareDecoderError: at the first thing that is not as it should be. The frames until then are right.
    """
    av = import_av()
    try:
        container = open_on_hardware(spec, hardware)
    except (SourceError, RuntimeError) as error:
        raise HardwareDecoderError(first_line(error)) from error
    try:
        twin: Any = container.streams[stream.index]
        # Each thread of FFmpeg's takes surfaces of its own, and the device has 32 of them.
        twin.thread_count = 1
        count = 0
        for packet in demuxer.pictures():
            try:
                frames = twin.decode(packet)
            except av.error.EOFError:
                continue
            except device_errors() as error:
                raise HardwareDecoderError(first_line(error)) from error
            if demuxer.damaged:
                raise HardwareDecoderError("a damaged packet")
            for frame in frames:
                _check(frame, stream)
                count += 1
                yield frame
        if demuxer.damaged or count < indexed_frames(stream):
            raise HardwareDecoderError("a damaged file, or frames that did not come")
    finally:
        container.close()


def _check(frame: VideoFrame, stream: Any) -> None:
    if frame.is_corrupt:
        raise HardwareDecoderError("a damaged frame")
    name = sample_format(frame)
    if name not in _DEVICE_FORMATS:
        raise HardwareDecoderError(f"a frame in {name}, which is not the hardware's")
    # If a cropped picture comes from hardware, FFmpeg cuts off its right and bottom only.
    if (frame.width, frame.height) != (stream.width, stream.height):
        raise HardwareDecoderError(
            f"a frame of {frame.width}x{frame.height} where {stream.width}x{stream.height} is due"
        )


# --- encoding ---


def why_not_encoded(hardware: VideoHardware, crf: int | None, video: VideoParameters) -> str | None:
    """Why the hardware encoder does not get such a video, None if it does: it has been opened for it.

    Args:
        hardware: what to encode on.
        crf: quality, on the scale of `SOFTWARE_ENCODER`.
        video: what to encode.
    """
    if crf is not None and not 0 < crf < _MOST_CQ:
        return f"--crf {crf} is beyond its scale"
    missing = encoder_missing(hardware.device_index)
    if missing is not None:
        return missing
    try:
        encoder_context(ENCODER, nvenc_options(hardware, crf), video, "yuv420p").open()
    except device_errors() as error:
        return f"it can't be opened for {video.width}x{video.height}: {first_line(error)}"
    return None


# --- frames that stay on the device ---


@functools.cache
def decoded_surfaces_missing(hardware: VideoHardware) -> str | None:
    """Why torch can't read the decoder's frames where they are, None if it can: a few that it read were right."""
    try:
        with shared_accelerator(hardware) as shared:
            levels = [
                [float(tensor_of(plane).float().mean()) for plane in frame.planes]
                for frame in decoded(trial_packets(SOFTWARE_ENCODER, {}), shared)
                if sample_format(frame) == "nv12"
            ]
    except device_errors() as error:
        return first_line(error)
    expected = [[level, 128] for level in TRIAL_LEVELS]
    is_right = np.shape(levels) == np.shape(expected) and np.abs(np.subtract(levels, expected)).max() < _LEVEL_TOLERANCE
    return None if is_right else "a trial of the decoder's frames on the device gave others"


def why_not_shared(hardware: VideoHardware, crf: int | None, video: VideoParameters) -> str | None:
    """Why the encoder can't read such a video's tensors where they are, None if it can: it has taken one."""
    if (missing := encoded_surfaces_missing(hardware)) is not None:
        return missing
    import torch

    try:
        plain, context = (
            encoder_context(ENCODER, nvenc_options(hardware, crf), video, pixel_format)
            for pixel_format in ("nv12", SHARED_FORMAT)
        )
        for each in (plain, context):
            each.flags |= import_av().codec.context.Flags.global_header
        plain.open()
        convert = FromDeviceBgr(Color(), hardware)
        shape = (video.height, video.width, 3)
        picture = convert(torch.zeros(shape, dtype=torch.uint8, device=f"cuda:{hardware.device_index}"))
        picture.pts, picture.time_base = 0, video.time_base
        context.encode(picture)
        context.encode(None)
    except device_errors() as error:
        return first_line(error)
    # A file has the header of the one, and the frames of the other.
    return None if context.extradata == plain.extradata else "the encoder has another header for frames on the device"


@functools.cache
def encoded_surfaces_missing(hardware: VideoHardware) -> str | None:
    """Why the encoder can't read tensors where they are, None if it can: a few, decoded in software, were right."""
    import torch

    try:
        device = torch.device("cuda", hardware.device_index)
        with torch_is_current(device):
            context = encoder_context(ENCODER, nvenc_options(hardware, None), TRIAL, SHARED_FORMAT)
            ramp = torch.linspace(40, 200, TRIAL.width, device=device)
            across, down = ramp.expand(TRIAL.height, -1), ramp[:, None].expand(-1, TRIAL.width)
            image = torch.stack([across, down, across.flip(1)], dim=-1).byte()
            convert = FromDeviceBgr(Color(), hardware)
            packets = encoded((convert(image) for _ in range(TRIAL_FRAMES)), context)
            pictures = [ToBgr(Color(), TRIAL.width, TRIAL.height)(frame) for frame in decoded(packets)]
    except device_errors() as error:
        return first_line(error)
    wrong = [psnr_db(picture, host_image(image)) < _TRIAL_DB for picture in pictures]
    if wrong != [False] * TRIAL_FRAMES or not has_right_timestamps(packets):
        return "a trial of the encoder with frames on the device gave others"
    return None
