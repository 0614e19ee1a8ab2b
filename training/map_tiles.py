"""Cuts pairs of satellite picture and relief map out of two world maps: data like pix2pix's `maps`.

    python -m training.fetch_images --only maps
    python -m training.map_tiles --maps ~/.cache/streamgan/data/images/maps --output data/maps --size 128

Both maps are equirectangular and aligned to the pixel. Tiles go into trainA and trainB (satellite and map, equal
names), testA and testB. Whole strips of longitudes are held out for the test, so that no place is in both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from engine.errors import EngineError, SinkError
from training.data.images import Image, read_image

# Of the strips of longitude, this one of every so many is held out.
_HELD_OUT, _OF = 2, 5
# Degrees of latitude between which tiles are taken: further out the maps are ice, and stretched.
_LATITUDES = (-56.0, 72.0)


def tiles(satellite: Image, relief: Image, *, size: int, least_land: float = 0.3) -> Iterator[tuple[str, str, Image]]:
    """Phase, name and pair (side by side) of each tile with land on at least that share of it.

    Training tiles overlap by half, test tiles don't.
    """
    height, width = satellite.shape[:2]
    top, bottom = (round((90.0 - latitude) / 180.0 * height) for latitude in reversed(_LATITUDES))
    # The relief map paints the sea blue.
    land = relief[..., 0].astype(np.int16) + 10 > relief[..., 2]
    strips = width // size
    for strip in range(strips):
        phase = "test" if strip % _OF == _HELD_OUT else "train"
        # A training strip's shifted tiles must not reach into a held-out one.
        reaches = phase == "train" and (strip + 1) % _OF != _HELD_OUT and strip + 1 < strips
        lefts = [strip * size, *([strip * size + size // 2] if reaches else [])]
        for left in lefts:
            for y in range(top, bottom - size + 1, size // 2 if phase == "train" else size):
                place = np.s_[y : y + size, left : left + size]
                if land[place].mean() >= least_land:
                    yield phase, f"{left:05d}_{y:05d}", np.hstack([satellite[place], relief[place]])


def write_tiles(maps: Path, output: Path, *, size: int) -> dict[str, int]:
    """Writes all tiles as PNG; returns how many of each phase.

    Raises:
        EngineError: a map is missing or the maps differ in size; the output can't be written.
    """
    satellite, relief = (read_image(maps / name) for name in ("bmng.jpg", "etopo1.jpg"))
    if satellite.shape != relief.shape:
        raise EngineError(f"the maps in {maps} differ in size: {satellite.shape} and {relief.shape}")
    counts = {"train": 0, "test": 0}
    for phase, name, pair in tiles(satellite, relief, size=size):
        for domain, image in (("A", pair[:, :size]), ("B", pair[:, size:])):
            folder = output / f"{phase}{domain}"
            folder.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(folder / f"{name}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
                raise SinkError(f"can't write {folder / name}.png: is the disk full?")
        counts[phase] += 1
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.map_tiles", description="Cuts pairs of satellite picture and map out of world maps."
    )
    parser.add_argument("--maps", type=Path, required=True, metavar="DIR", help="with bmng.jpg and etopo1.jpg")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--size", type=int, default=128, help="side of a tile in pixels (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        counts = write_tiles(options.maps, options.output, size=options.size)
    except (EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{counts['train']} pairs to train on, {counts['test']} held out, in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
