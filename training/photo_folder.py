"""Makes a folder for super-resolution out of photographs: reduced until single pixels are sharp, some held out.

    python -m training.fetch_images --only mate lomiri-16 lomiri-20 gcompris
    python -m training.photo_folder --photos ~/.cache/streamgan/data/images --output data/photos

Photographs of cameras are soft at their own size: enlarging a half of one is too easy. Reduced ones go into train. The
four tiles around the middle of every sixth go into test instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.command_line import errors_in_one_line
from engine.errors import SourceError
from training.data.images import Image, list_images, read_image, write_image
from training.data.transforms import resize

_OF = 6
_TILE = 256


def prepared(picture: Image, number: int, *, width: int) -> Iterator[tuple[str, Image]]:
    """The pictures that a photograph contributes, with their phases; none where it is too small."""
    height = round(picture.shape[0] * width / picture.shape[1])
    if picture.shape[1] < width or height < 2 * _TILE:
        return
    reduced = resize(picture, width, height)
    if number % _OF:
        yield "train", reduced
        return
    for top in (height // 2 - _TILE, height // 2):
        for left in (width // 2 - _TILE, width // 2):
            yield "test", reduced[top : top + _TILE, left : left + _TILE]


def write_photos(photos: Path, output: Path, *, width: int) -> dict[str, int]:
    """Writes all pictures as PNG; returns the number per phase. Raises EngineError where that fails."""
    counts = {"train": 0, "test": 0}
    for number, path in enumerate(list_images(photos)):
        for phase, picture in prepared(read_image(path), number, width=width):
            write_image(output / phase / f"{number:04d}_{counts[phase]:04d}.png", picture)
            counts[phase] += 1
    if 0 in counts.values():
        raise SourceError(f"too few photographs in {photos}: some of {width}x{2 * _TILE} pixels and more are needed")
    return counts


@errors_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.photo_folder", description="Makes a folder for super-resolution out of photographs."
    )
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="looked through with all its folders")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--width", type=int, default=1024, help="in pixels, after reducing (default: %(default)s)")
    options = parser.parse_args(arguments)
    counts = write_photos(options.photos, options.output, width=options.width)
    print(f"{counts['train']} pictures to train on, {counts['test']} tiles held out, in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
