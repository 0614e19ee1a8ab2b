"""Encoders: which there are, and with which settings they run."""

from __future__ import annotations

import dataclasses
import difflib
import os
from fractions import Fraction
from typing import Any

from engine.errors import SinkError
from engine.video.pyav import import_av


@dataclasses.dataclass(frozen=True)
class VideoParameters:
    """A video for an encoder.

    Attributes:
        width, height: the frames' size in pixels.
        rate: frames per second.
        time_base: seconds per unit of the timestamps.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction


# FFmpeg counts the quality of encoders without `crf` in this unit.
_LAMBDA = 118

# Encoders with a scale of 1 to 31 instead: options that make it constant.
_BY_SCALE = (
    *("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2", "flv", "h261", "h263", "h263p"),
    *("mjpeg", "svq1", "snow", "speedhq", "asv1", "asv2", "amv"),
)
_GOOD_SCALE = 2

# encoder -> name of its constant-quality option, the usual value (hardly distinguishable from the frames encoded), and
# options that trade some size for much speed.
_SETTINGS: dict[str, tuple[str, int, dict[str, str]]] = {
    "libx264": ("crf", 18, {"preset": "veryfast"}),
    "libx265": ("crf", 20, {"preset": "superfast", "x265-params": "log-level=none"}),
    # A target rate that is never reached leaves the quality to decide.
    "libvpx": ("crf", 8, {"deadline": "realtime", "cpu-used": "4", "b": "100M", "qmin": "0"}),
    "libvpx-vp9": ("crf", 24, {"deadline": "realtime", "cpu-used": "6", "row-mt": "1"}),
    "libsvtav1": ("crf", 28, {"preset": "9"}),
    # The quality alone decides, without a target rate; B-frames and profile are those of libx264.
    "h264_nvenc": ("cq", 19, {"preset": "p4", "rc": "vbr", "b": "0", "bf": "3", "profile": "high"}),
    "hevc_nvenc": ("cq", 21, {"preset": "p4", "rc": "vbr"}),
    "av1_nvenc": ("cq", 26, {"preset": "p4", "rc": "vbr"}),
}

# Options of encoders that have no constant-quality mode.
_OPTIONS = {
    "gif": {"gifflags": "-transdiff"},  # what did not change would show through from the frame before, in its palette
    "dnxhd": {"profile": "dnxhr_hq"},  # the older profiles know only some sizes
    "prores_ks": {"profile": "hq", "vendor": "apl0"},
}

# These take what is stored in the full range only.
_FULL_RANGE = ("mjpeg", "amv", "ljpeg")


def find_encoder(name: str) -> Any:
    """The video encoder of that name.

    Raises:
        SinkError: unknown, or no video encoder; the message suggests near names.
    """
    codec = _video_encoder(name)
    if codec is None:
        near = difflib.get_close_matches(name.lower(), video_encoders(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "accepted: libx264, libx265, libvpx-vp9, h264_nvenc..."
        raise SinkError(f"--codec {name}: no such video encoder here; {hint}")
    return codec


def video_encoders() -> list[str]:
    """Names of all video encoders in this build of FFmpeg."""
    found = [_video_encoder(name) for name in import_av().codecs_available]
    return sorted({codec.name for codec in found if codec is not None})


def _video_encoder(name: str) -> Any:
    av = import_av()
    try:
        codec = av.Codec(name, "w")
    except (av.error.FFmpegError, ValueError):
        return None
    return codec if codec.type == "video" else None


def encoder_options(name: str, crf: int | None) -> tuple[dict[str, str], str | None]:
    """Options for an encoder, and a warning where it has no constant-quality mode that `crf` could set."""
    if name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes to stderr past FFmpeg's log
    if name not in _SETTINGS:
        options = dict(_OPTIONS.get(name, {}))
        if name in _BY_SCALE:
            options |= {"flags": "+qscale", "global_quality": str(_GOOD_SCALE * _LAMBDA)}
        return options, f"--crf {crf} has no effect with {name}" if crf is not None else None
    quality, usual, options = _SETTINGS[name]
    return {**options, quality: str(usual if crf is None else crf)}, None


def pixel_format_of(codec: Any) -> str:
    """The encoder's pixel format that most players show: yuv420p where there is the choice."""
    names = [pixel_format.name for pixel_format in codec.video_formats or []]
    if codec.name == "gif":
        return "pal8"
    if codec.name in _FULL_RANGE and "yuvj420p" in names:
        return "yuvj420p"
    for wanted in ("yuv420p", "nv12", "yuvj420p", "yuv422p", "yuv422p10le", "yuv444p", "rgb24", "bgr0", "rgb8"):
        if wanted in names:
            return wanted
    return names[0] if names else "yuv420p"


def encoder_context(name: str, options: dict[str, str], video: VideoParameters, pixel_format: str) -> Any:
    """An encoder for a video, not yet open, outside of any container."""
    context = import_av().CodecContext.create(name, "w")
    context.width, context.height, context.pix_fmt = video.width, video.height, pixel_format
    context.time_base, context.framerate = video.time_base, video.rate
    context.options = dict(options)
    return context
