"""What `--skip-similar` saves while nothing moves, and the smallest things that it sees: `python -m bench similar`.

The scene is a frame of the sample clip with the noise of a camera: normal, stronger in bright pixels, and then as JPEG,
as most webcams send it. Cost: milliseconds of the whole pipeline for a frame, without an output, with and without the
option in turn. Detection: how many of some squares, each on a random place, are seen when they have moved by their own
size; a square's contrast is in grey levels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bench import results
from bench.results import Row
from engine.pipeline import Pipeline
from engine.samples import SAMPLE
from engine.similar import StillDetector
from engine.sizes import parse_size
from engine.styles import DEFAULT_STYLE
from engine.translator import Translator
from engine.video import Frame, NullSink, Source, SourceInfo, open_source

CAMERAS: dict[str, tuple[float, int | None]] = {
    "no noise": (0.0, None),
    "noise 1": (1.0, None),
    "noise 2": (2.0, None),
    "noise 4": (4.0, None),
    "noise 2, JPEG 90": (2.0, 90),
    "noise 4, JPEG 85": (4.0, 85),
}
"""Standard deviation of a mid-grey pixel in grey levels, and quality as JPEG."""

CONTRASTS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
SIDES = (2, 3, 4, 6, 8, 12)

# Frames in which a detector learns the noise, and the part of the scene that squares are in, which saves time.
_FRAMES_BEFORE = 60
_CUT = (320, 180)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench similar`."""
    parser.add_argument("--size", type=parse_size, default=(640, 360), metavar="WxH", help="(default: 640x360)")
    parser.add_argument("--frames", type=int, default=60, help="of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--squares", type=int, default=50, help="of each kind (default: %(default)s)")
    parser.add_argument("--style", default=DEFAULT_STYLE, help="bundled style or checkpoint (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results")


def run(arguments: argparse.Namespace) -> None:
    """Measures and prints two tables."""
    told = {name: getattr(arguments, name) for name in ("size", "frames", "rounds", "squares", "style")}
    report = results.start("similar", threads=torch.get_num_threads(), device="cpu", arguments=told)
    translator = Translator(arguments.style)
    scene = _scene(arguments.size)
    for name, (noise, quality) in CAMERAS.items():
        frames = list(_frames(scene, noise, quality, arguments.frames))
        rows = {label: Row(f"still scene, {name}", label, ours=True) for label in ("all frames", "--skip-similar")}
        report.rows += rows.values()
        for _ in range(arguments.rounds):
            for label, row in rows.items():
                seconds, skipped = _cost(translator, frames, skips=label != "all frames")
                row.seconds.append(seconds)
                row.facts.setdefault("skipped", []).append(skipped)
        watcher = _Watcher(scene, noise, quality)
        rows["--skip-similar"].facts["smallest_contrast"] = {
            str(side): watcher.smallest_contrast(side, arguments.squares) for side in SIDES
        }
        print(_line(name, rows), file=sys.stderr, flush=True)
        if arguments.json:
            report.write(arguments.json)
    print("camera | ms a frame, of all | with --skip-similar | skipped | " + " | ".join(f"{n}x{n}" for n in SIDES))
    for name in CAMERAS:
        print(_line(name, {row.contender: row for row in report.group(f"still scene, {name}")}))


class _Still(Source):
    """Frames that are there already."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        height, width = frames[0].shape[:2]
        self.info = SourceInfo("scene", width, height, len(frames), Fraction(30), Fraction(1, 30))
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        return (Frame(image, pts=number) for number, image in enumerate(self._frames))

    def close(self) -> None:
        return None


def _scene(size: tuple[int, int]) -> np.ndarray:
    source = open_source(str(SAMPLE))
    scene = np.asarray(next(iter(source)).image)
    source.close()
    return cv2.resize(scene, size, interpolation=cv2.INTER_AREA)


def _frames(scene: np.ndarray, noise: float, quality: int | None, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield _noisy(scene, noise, quality, random)


def _noisy(picture: np.ndarray, noise: float, quality: int | None, random: np.random.Generator) -> np.ndarray:
    if noise:
        sigma = noise * (0.5 + picture.astype(np.float32) / 255)
        values = picture + sigma * random.standard_normal(picture.shape, dtype=np.float32)
        picture = values.round().clip(0, 255).astype(np.uint8)
    if quality is not None:
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        picture = np.asarray(decoded)
    return picture


def _cost(translator: Translator, frames: list[np.ndarray], *, skips: bool) -> tuple[float, int]:
    """Seconds of a frame in the pipeline, and how many were skipped."""
    pipeline = Pipeline(_Still(frames), translator, NullSink(), batch=1, is_still=StillDetector() if skips else None)
    start = time.perf_counter()
    result = pipeline.run()
    return (time.perf_counter() - start) / len(frames), result.skipped


class _Watcher:
    """A detector that knows the noise of a camera before it is asked."""

    def __init__(self, scene: np.ndarray, noise: float, quality: int | None) -> None:
        self._scene = scene[: _CUT[1], : _CUT[0]]
        self._camera = noise, quality
        self._random = np.random.default_rng(1)
        self._trial = 0
        self._detector = StillDetector(lambda: self._trial)
        for _ in range(_FRAMES_BEFORE):
            self._looks_still(self._scene)

    def smallest_contrast(self, side: int, count: int) -> int | None:
        """The smallest contrast from which on all of `count` squares are seen; None: there is none."""
        smallest = None
        for contrast in reversed(CONTRASTS):
            if not all(self._sees(side, contrast) for _ in range(count)):
                break
            smallest = contrast
        return smallest

    def _sees(self, side: int, contrast: int) -> bool:
        height, width = self._scene.shape[:2]
        y, x = int(self._random.integers(0, height - side)), int(self._random.integers(0, width - 2 * side))
        self._trial += 1  # makes the next frame the reference
        self._looks_still(_with_square(self._scene, y, x, side, contrast))
        return not self._looks_still(_with_square(self._scene, y, x + side, side, contrast))

    def _looks_still(self, picture: np.ndarray) -> bool:
        return self._detector(_noisy(picture, *self._camera, self._random))


def _with_square(scene: np.ndarray, y: int, x: int, side: int, contrast: int) -> np.ndarray:
    picture = scene.astype(np.int16)
    square = picture[y : y + side, x : x + side]
    square += -contrast if square.mean() > 127 else contrast
    return picture.clip(0, 255).astype(np.uint8)


def _line(name: str, rows: dict[str, Row]) -> str:
    every, skipping = (statistics.median(rows[label].measured) * 1e3 for label in ("all frames", "--skip-similar"))
    facts: dict[str, Any] = rows["--skip-similar"].facts
    contrasts = " | ".join(str(contrast) for contrast in facts["smallest_contrast"].values())
    return f"{name} | {every:.1f} | {skipping:.1f} ({skipping / every:.0%}) | {facts['skipped'][-1]} | {contrasts}"
