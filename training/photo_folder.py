"""Makes a folder for super-resolution out of photographs: reduced until single pixels are sharp, some held out.

    python -m training.fetch_images --only mate lomiri-16 lomiri-20 gcompris
    python -m training.photo_folder --photos ~/.cache/streamgan/data/images --output data/photos

Photographs of cameras are soft at their own size: enlarging a half of one is no task. Reduced ones go into train; of
every sixth, the four tiles around its middle go into test instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from engine.errors import EngineError, SinkError, SourceError
from training.data.images import Image, list_images, read_image
from training.data.transforms import resize

_OF = 6
_TILE = 256


def prepared(picture: Image, number: int, *, width: int) -> Iterator[tuple[str, Image]]:
    """Phase and picture of what a photograph contributes; nothing where it is too small."""
    height = round(picture.shape[0] * width / picture.shape[1])
    if picture.shape[1] < width or height < 2 * _TILE:
        return
    reduced = resize(picture, width, height)
    if number % _OF:
        yield "train", reduced
        return
    middle = (height // 2, width // 2)
    for top in (middle[0] - _TILE, middle[0]):
        for left in (middle[1] - _TILE, middle[1]):
            yield "test", reduced[top : top + _TILE, left : left + _TILE]


def write_photos(photos: Path, output: Path, *, width: int) -> dict[str, int]:
    """Writes all of them as PNG; returns how many of each phase.

    Raises:
        EngineError: there are no photographs large enough, or the output can't be written.
    """
    counts = {"train": 0, "test": 0}
    for number, path in enumerate(list_images(photos)):
        for phase, picture in prepared(read_image(path), number, width=width):
            folder = output / phase
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{number:04d}_{counts[phase]:04d}.png"
            if not cv2.imwrite(str(target), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
                raise SinkError(f"can't write {target}: is the disk full?")
            counts[phase] += 1
    if 0 in counts.values():
        raise SourceError(f"too few photographs in {photos}: some of {width}x{2 * _TILE} pixels and more are needed")
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.photo_folder", description="Makes a folder for super-resolution out of photographs."
    )
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="looked through with all its folders")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--width", type=int, default=1024, help="in pixels, after reducing (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        counts = write_photos(options.photos, options.output, width=options.width)
    except (EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{counts['train']} pictures to train on, {counts['test']} tiles held out, in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
