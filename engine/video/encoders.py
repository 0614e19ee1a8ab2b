"""Which encoder writes an output, and with which settings."""

from __future__ import annotations

import dataclasses
import difflib
import os
from typing import Any

from engine.errors import SinkError
from engine.video.libav import import_av

# suffix -> (FFmpeg's name of the container, encoder)
CONTAINERS = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
    ".avi": ("avi", "libx264"),
    ".flv": ("flv", "libx264"),
    ".ts": ("mpegts", "libx264"),
    ".wmv": ("asf", "libx264"),
    ".gif": ("gif", "gif"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to drive an encoder: options that trade some size for much speed.

    Attributes:
        quality: name of the constant-quality option; "" if there is none.
        default_quality: its value where the user gives none: hardly distinguishable from the frames encoded.
        options: the others.
    """

    quality: str
    default_quality: int
    options: dict[str, str]


_SETTINGS = {
    "libx264": Settings("crf", 18, {"preset": "veryfast"}),
    "libx265": Settings("crf", 20, {"preset": "superfast", "x265-params": "log-level=none"}),
    "libvpx-vp9": Settings("crf", 24, {"deadline": "realtime", "cpu-used": "6", "row-mt": "1"}),
    "libsvtav1": Settings("crf", 28, {"preset": "9"}),
    # No target rate beside the quality; B-frames and profile as libx264 has them.
    "h264_nvenc": Settings("cq", 19, {"preset": "p4", "rc": "vbr", "b": "0", "bf": "3", "profile": "high"}),
    "hevc_nvenc": Settings("cq", 21, {"preset": "p4", "rc": "vbr"}),
    "av1_nvenc": Settings("cq", 26, {"preset": "p4", "rc": "vbr"}),
}
_NO_SETTINGS = Settings("", 0, {})


def container_of(suffix: str) -> tuple[str, str]:
    """FFmpeg's name of the container for a file name's suffix, and the encoder used unless the user names one.

    Raises:
        SinkError: no video container has this suffix.
    """
    known = CONTAINERS.get(suffix.lower())
    if known is None:
        accepted = " ".join(CONTAINERS)
        raise SinkError(f"{suffix or 'no suffix'}: no video container is known for it; accepted: {accepted}")
    return known


def find_encoder(name: str) -> Any:
    """The video encoder of that name.

    Raises:
        SinkError: unknown, or no video encoder; the message suggests near names.
    """
    av = import_av()
    try:
        codec = av.Codec(name, "w")
    except (av.error.FFmpegError, ValueError):
        codec = None
    if codec is None or codec.type != "video":
        near = difflib.get_close_matches(name.lower(), video_encoders(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "accepted: libx264, libx265, libvpx-vp9, h264_nvenc..."
        raise SinkError(f"--codec {name}: no such video encoder here; {hint}")
    return codec


def video_encoders() -> list[str]:
    """Names of all video encoders in this build of FFmpeg."""
    av = import_av()
    names = []
    for name in sorted(av.codecs_available):
        try:
            codec = av.Codec(name, "w")
        except (av.error.FFmpegError, ValueError):
            continue
        if codec.type == "video":
            names.append(codec.name)
    return sorted(set(names))


def encoder_options(name: str, crf: int | None) -> tuple[dict[str, str], str | None]:
    """Options for an encoder, and a warning where it has no constant-quality mode that `crf` could set."""
    if name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes to stderr past FFmpeg's log
    settings = _SETTINGS.get(name, _NO_SETTINGS)
    options = dict(settings.options)
    if settings.quality:
        options[settings.quality] = str(settings.default_quality if crf is None else crf)
        return options, None
    return options, f"--crf {crf} has no effect with {name}" if crf is not None else None


def pixel_format_of(codec: Any) -> str:
    """The encoder's pixel format that most players show: yuv420p where there is the choice."""
    names = [pixel_format.name for pixel_format in codec.video_formats or []]
    for wanted in ("yuv420p", "nv12", "yuvj420p", "yuv422p", "yuv422p10le", "yuv444p", "rgb24", "bgr0", "rgb8"):
        if wanted in names:
            return wanted
    return names[0] if names else "yuv420p"
