"""Looks at an uploaded file, in a process of its own with limits: `python -m engine.serve.probe FILE LIMITS`."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
from typing import Any

# Containers that hold all that they show, as FFmpeg calls them. It would read whatever other files a playlist names.
_CONTAINERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg"),
    *("gif", "mxf", "nut", "dv", "ivf", "h264", "hevc", "mpegvideo", "m4v"),
)

_MEMORY_BYTES = 2 << 30
_CPU_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is accepted.

    Attributes:
        bytes: size of the file.
        seconds: how long the video lasts.
        pixels: of one frame.
    """

    bytes: int = 2 << 30
    seconds: float = 1800.0
    pixels: int = 4096 * 2304


def probe(path: str, limits: Limits) -> dict[str, Any]:
    """`{frames}` as the file says, 0 where it doesn't; or `{error}` in one line."""
    import av

    try:
        with av.open(path, options={"format_whitelist": ",".join(_CONTAINERS)}) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                return {"error": "the file has no picture"}
            _check_size(stream.width, stream.height, limits)
            seconds = float((container.duration or 0) / 1e6)
            if seconds > limits.seconds:
                return {"error": f"the video lasts {seconds:.0f} s; at most {limits.seconds:.0f} s are accepted"}
            first = next(container.decode(stream), None)
            if first is None:
                return {"error": "no picture of the file can be decoded"}
            _check_size(first.width, first.height, limits)
            return {"frames": stream.frames or round(seconds * float(stream.average_rate or 0))}
    except (av.error.FFmpegError, ValueError, MemoryError, OSError):
        return {"error": "this is no video, or a damaged one"}
    except _TooLargeError as error:
        return {"error": str(error)}


class _TooLargeError(Exception):
    pass


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise _TooLargeError(f"its frames of {width}x{height} are larger than the {limits.pixels} pixels accepted")


def main() -> None:
    """Prints what `probe` says as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    print(json.dumps(probe(sys.argv[1], Limits(**json.loads(sys.argv[2])))))


if __name__ == "__main__":
    main()
