"""What a source on the command line means: which files, in which order, and what the output is called."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from engine.errors import SourceError
from engine.video.pyav import is_url

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob"),
    *(".wmv", ".asf", ".3gp", ".ogv", ".gif", ".y4m", ".mxf", ".nut", ".h264", ".hevc", ".ivf"),
)  # fmt: skip


def is_camera(spec: str) -> bool:
    """True for a webcam: its index ("0") or, on Linux, its device (/dev/video0)."""
    return spec.isdecimal() or re.fullmatch(r"/dev/video\d+", spec) is not None


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key by which frame_9.png comes before frame_10.png, whatever the padding and the case."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def media_files(spec: str) -> list[Path] | None:
    """Images and videos that a folder or glob names, in natural order; None if `spec` is neither.

    Raises:
        SourceError: there are none.
    """
    if is_url(spec) or is_camera(spec):
        return None
    path = Path(spec)
    if path.is_dir():
        found = list(path.iterdir())
    elif not path.exists() and glob.has_magic(spec):
        found = [Path(name) for name in glob.glob(spec, recursive=True)]
    else:
        return None
    visible = [file for file in found if file.is_file() and not file.name.startswith(".")]
    files = sorted((file for file in visible if is_image(file) or is_video(file)), key=natural_key)
    if not files:
        what = "the folder holds" if path.is_dir() else "matches"
        raise SourceError(
            f"{spec}: {what} no video and no image ({len(visible)} other files); accepted: "
            f"{' '.join(VIDEO_SUFFIXES[:6])}... {' '.join(IMAGE_SUFFIXES[:4])}..."
        )
    return files


def expand(spec: str) -> list[str]:
    """The jobs in a source: each video of a folder or glob is one, all its images together are one.

    Each job is a spec for `open_source`. Anything else (a file, a webcam, a URL) is one job as it is.

    Raises:
        SourceError: a folder or glob without media.
    """
    files = media_files(spec)
    if files is None:
        return [spec]
    videos = [str(file) for file in files if is_video(file)]
    return videos + ([spec] if any(is_image(file) for file in files) else [])


def output_stem(spec: str) -> Path:
    """Folder and stem for an output that is named after its source."""
    if is_camera(spec):
        return Path(f"webcam{re.sub(r'[^0-9]', '', spec)}")
    if is_url(spec):
        name = Path(spec.partition("://")[2].partition("?")[0]).stem
        return Path(re.sub(r"[^\w.-]+", "_", name) or "stream")
    if spec == "-" or spec.startswith("/dev/"):
        return Path("stdin" if spec in ("-", "/dev/stdin") else Path(spec).name)
    path = Path(spec)
    if path.is_dir():
        path = path.resolve()
        return path.parent / path.name
    if glob.has_magic(spec) and not path.exists():
        fixed = path.parent
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        return fixed.parent / (fixed.resolve().name or "images")
    return path.with_suffix("")
