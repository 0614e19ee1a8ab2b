"""Cuts pairs of satellite picture and map out of world maps: data like pix2pix's `maps`.

    python -m training.fetch_images --only maps
    python -m training.map_tiles --maps ~/.cache/streamgan/data/images/maps --output data/maps --size 128

The pictures are equirectangular and aligned to the pixel. Tiles go into trainA and trainB (satellite and map, equal
names), testA and testB. Whole strips of longitudes are held out for the test, so that no place is in both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.command_line import errors_in_one_line
from engine.errors import EngineError
from training.data.images import Image, read_image, write_image
from training.data.transforms import resize

# Strip number 2 of every 5 strips of longitude is held out.
_HELD_OUT, _OF = 2, 5
# Tiles lie between these degrees of latitude: further out the maps are ice, and stretched.
_LATITUDES = (-56.0, 72.0)

SATELLITE, RELIEF = "bmng.jpg", "etopo1.jpg"
MAPS = {"etopo1": RELIEF, "shadedrelief": "shadedrelief.jpg"}
"""Maps to pair the satellite picture with: colours of height, or soft ones of vegetation, height and sea."""


def tiles(
    satellite: Image, target: Image, land: npt.NDArray[np.bool_], *, size: int, least_land: float = 0.3
) -> Iterator[tuple[str, str, Image]]:
    """Phase, name and pair (side by side) of each tile that is land to at least the share `least_land`.

    Training tiles overlap by half, test tiles don't.

    Args:
        satellite, target: picture and map of the whole world, of one shape.
        land: [height, width], where there is land.
    """
    height, width = satellite.shape[:2]
    top, bottom = (round((90.0 - latitude) / 180.0 * height) for latitude in reversed(_LATITUDES))
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
                    yield phase, f"{left:05d}_{y:05d}", np.hstack([satellite[place], target[place]])


def is_land(relief: Image) -> npt.NDArray[np.bool_]:
    """Where the relief map has land: it paints the sea blue."""
    return relief[..., 0].astype(np.int16) + 10 > relief[..., 2]


def write_tiles(maps: Path, output: Path, *, size: int, target: str = "etopo1") -> dict[str, int]:
    """Writes all tiles of the map `target`, a key of MAPS, as PNG; returns the number per phase.

    Raises:
        EngineError: a map is missing, the maps don't fit together, or the output can't be written.
    """
    satellite, relief, goal = (read_image(maps / name) for name in (SATELLITE, RELIEF, MAPS[target]))
    if satellite.shape != relief.shape:
        raise EngineError(f"the maps in {maps} differ in size: {satellite.shape} and {relief.shape}")
    height, width = satellite.shape[:2]
    if goal.shape[0] * width != goal.shape[1] * height:
        raise EngineError(f"{maps / MAPS[target]}: not of the shape of {SATELLITE}: {goal.shape} and {satellite.shape}")
    goal = resize(goal, width, height)
    counts = {"train": 0, "test": 0}
    for phase, name, pair in tiles(satellite, goal, is_land(relief), size=size):
        for domain, image in (("A", pair[:, :size]), ("B", pair[:, size:])):
            write_image(output / f"{phase}{domain}" / f"{name}.png", image)
        counts[phase] += 1
    return counts


@errors_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.map_tiles", description="Cuts pairs of satellite picture and map out of world maps."
    )
    parser.add_argument("--maps", type=Path, required=True, metavar="DIR", help=f"with {SATELLITE} and {RELIEF}")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--map", choices=MAPS, default="etopo1", help="map to pair with (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of a tile in pixels (default: %(default)s)")
    options = parser.parse_args(arguments)
    counts = write_tiles(options.maps, options.output, size=options.size, target=options.map)
    print(f"{counts['train']} pairs to train on, {counts['test']} held out, in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
