"""Whether an encoder works here, and whether its video in a container can be read again: tried before a job starts."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import numpy as np

from engine.errors import SinkError, first_line
from engine.video.color import RANGE_FULL, Color, FromBgr
from engine.video.encoders import VideoParameters, encoder_context, pixel_format_of
from engine.video.pyav import import_av

# Encoders that only need to be opened in these containers: their videos are read by everything.
_KNOWN_GOOD = {
    "mp4": ("libx264", "libx265", "h264_nvenc", "hevc_nvenc"),
    "mov": ("libx264", "libx265", "h264_nvenc", "hevc_nvenc"),
    "matroska": ("libx264", "libx265", "h264_nvenc", "hevc_nvenc", "libvpx-vp9"),
    "webm": ("libvpx-vp9",),
    "gif": ("gif",),
    "avi": ("libx264",),
    "flv": ("libx264",),
    "mpegts": ("libx264",),
    "asf": ("libx264",),
}

# Encoders that take few sizes, and which.
_SIZES = {
    "h261": ((176, 144), (352, 288)),
    "h263": ((128, 96), (176, 144), (352, 288), (704, 576), (1408, 1152)),
    "dvvideo": ((720, 480), (720, 576)),
}

_HARDWARE = ("nvenc", "qsv", "amf", "vaapi", "v4l2m2m", "vulkan", "videotoolbox", "mf")

# A smooth picture that comes back with less than this many decibels is another picture.
_LEAST_DB = 24.0


def check_encoder(name: str, container: str, options: dict[str, str]) -> None:
    """Opens the encoder; writes two frames and reads them back where the pair isn't known to be good.

    Args:
        name: the encoder.
        container: FFmpeg's name of the output's container.
        options: the encoder's.

    Raises:
        SinkError: the encoder can't be opened, or the container's file can't be read; what is accepted instead.
    """
    av = import_av()
    width, height = _SIZES.get(name, ((640, 360),))[-1]
    video = VideoParameters(width, height, Fraction(25), Fraction(1, 25))
    pixel_format = pixel_format_of(av.Codec(name, "w"))
    if name in _KNOWN_GOOD.get(container, ()):
        try:
            encoder_context(name, options, video, pixel_format).open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise _not_opened(name, error) from error
        return
    written = io.BytesIO()
    output = av.open(written, "w", format=container)
    try:
        stream: Any = output.add_stream(
            name, rate=25, options=dict(options), width=width, height=height, time_base=Fraction(1, 25)
        )
        stream.pix_fmt = pixel_format
        stream.codec_context.open()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _not_opened(name, error) from error
    picture = np.broadcast_to(np.linspace(30, 220, width)[None, :, None], (height, width, 3)).astype(np.uint8)
    try:
        reason = _why_not_read(output, stream, written, picture)
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        reason = first_line(error)
    if reason:
        raise SinkError(
            f"--codec {name}: its video in {container} can't be read back ({reason}); name the output .mkv, "
            "or leave --codec out"
        )


def _why_not_read(output: Any, stream: Any, written: io.BytesIO, picture: np.ndarray) -> str:
    """Writes the picture twice and reads it back; returns what is wrong, "" if nothing is."""
    color = Color(range=RANGE_FULL) if stream.pix_fmt.startswith("yuvj") else Color()
    convert = FromBgr(color, stream.pix_fmt)
    for number in range(2):
        frame = convert(picture)
        frame.pts, frame.time_base = number, Fraction(1, 25)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
    output.close()
    written.seek(0)
    with import_av().open(written) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    if len(frames) != 2 or frames[0].shape != picture.shape:
        return f"{len(frames)} of 2 frames"
    error = np.mean((frames[0].astype(np.float64) - picture) ** 2)
    return "the picture is another one" if error > 255**2 / 10 ** (_LEAST_DB / 10) else ""


def accepted_sizes(name: str) -> str:
    """The sizes that an encoder takes, in words for a message; "" where they are not a few."""
    return "it takes only " + ", ".join(f"{w}x{h}" for w, h in _SIZES[name]) if name in _SIZES else ""


def _accepted_formats(name: str) -> str:
    formats = [pixel_format.name for pixel_format in import_av().Codec(name, "w").video_formats or []]
    return "it takes the pixel formats " + " ".join(formats[:8]) if formats else ""


def _not_opened(name: str, error: BaseException) -> SinkError:
    if name.rpartition("_")[2] in _HARDWARE:
        cause = "its hardware or driver may be missing, or --crf be out of its range"
    else:
        cause = accepted_sizes(name) or _accepted_formats(name) or "--crf may be out of its range"
    return SinkError(
        f"--codec {name}: the encoder can't be opened ({first_line(error)}); {cause}; libx264 works everywhere"
    )
