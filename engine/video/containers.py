"""The containers that an output can have, and what each of them takes."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import TYPE_CHECKING

from engine.errors import SinkError
from engine.video.pyav import has_flag, import_av

if TYPE_CHECKING:
    from av.container import OutputContainer

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

SUMS_DURATIONS = ("mp4", "mov")
"""These add up the packets' durations in decoding order instead of keeping timestamps."""

WITHOUT_B_FRAMES = ("asf", "avi")
"""These have no place for times before zero: the delay of B-frames and the encoder's first samples would move all."""

WITHOUT_SOUND_TIMES = ("avi",)
"""The place of sound in these is how much comes before it, so it has to be one unbroken run from zero on."""

# MPEG-4 part 2 and its relatives count time in 16 bits.
_SMALL_CLOCKS = {"mpeg4", "msmpeg4", "msmpeg4v2"}
_SMALL_CLOCK_LIMIT = 65535

# These know nothing but a constant frame rate.
_CONSTANT_RATE = {"mpeg1video", "mpeg2video"}


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


def can_hold(container: str, encoder: str) -> bool:
    """Whether a container takes an encoder's video."""
    trial = import_av().open(io.BytesIO(), "w", format=container)
    try:
        trial.add_stream(encoder, rate=25, width=64, height=64)
    except ValueError:
        return False
    return True


def container_options(container: str, start_unit: int) -> dict[str, str]:
    """Options of FFmpeg's muxer; `start_unit`: see `engine.video.base.Media`."""
    if container not in SUMS_DURATIONS:
        return {}
    # The start of a track is kept in the movie's own unit: 1/1000 s unless a start needs a finer one.
    unit = start_unit if start_unit < 1 << 31 else 1000
    return {"movflags": "+faststart", "movie_timescale": str(unit)}


def encoder_time_base(output: OutputContainer, encoder: str, wanted: Fraction | None, rate: Fraction) -> Fraction:
    """The clock `wanted`, the source's, so that timestamps stay exact; 1 / `rate` where the format has none as fine."""
    is_variable = has_flag(output, "variable_fps") or output.format.name == "asf"  # in ms, but FFmpeg does not say so
    is_too_fine = wanted is not None and encoder in _SMALL_CLOCKS and wanted.denominator > _SMALL_CLOCK_LIMIT
    is_too_fine = is_too_fine or encoder in _CONSTANT_RATE
    return 1 / rate if wanted is None or is_too_fine or not is_variable else wanted
