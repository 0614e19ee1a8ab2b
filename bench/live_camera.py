"""The window with a camera that numbers its frames, for `python -m bench live --window`, which starts it.

The camera takes the place of `cv2.VideoCapture`. It hands over a picture at each tick of its rate, waits for nobody,
and ends after a time. Everything behind it is `python -m engine.run 0 --show`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from bench.numbers import BITS, mark
from engine import run
from engine.samples import SAMPLE
from engine.sizes import parse_size
from engine.video import live_source, open_source

# Frames of the sample clip that are shown in turn.
_PICTURES = 48


class NumberedCamera:
    """Stands in for `cv2.VideoCapture`: frame after frame of the sample clip, each with its number.

    Attributes:
        captured: of each frame, its number and the moment (`time.perf_counter()`) it was handed over.
    """

    def __init__(self, size: tuple[int, int], rate: float, seconds: float) -> None:
        source = open_source(str(SAMPLE))
        pictures = [np.asarray(frame.image) for _, frame in zip(range(_PICTURES), source, strict=False)]
        source.close()
        self._pictures = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
        self._rate, self._ticks = rate, round(rate * seconds)
        self._begin, self._tick = time.perf_counter(), 0
        self.captured: list[tuple[int, float]] = []

    def read(self) -> tuple[bool, np.ndarray | None]:
        """The picture of the next tick."""
        number = len(self.captured) % (1 << BITS)
        picture = self._pictures[number % len(self._pictures)].copy()
        mark(picture, number)
        now = time.perf_counter()
        self._tick = max(self._tick + 1, math.ceil((now - self._begin) * self._rate))
        if self._tick >= self._ticks:
            return False, None
        time.sleep(max(0.0, self._begin + self._tick / self._rate - now))
        self.captured.append((number, time.perf_counter()))
        return True, picture

    def get(self, which: int) -> float:
        return self._rate if which == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        return None


def main() -> int:
    """Shows the window until the camera ends; writes what was captured when."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=parse_size, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--captured", type=Path, required=True)
    options, others = parser.parse_known_args()
    camera = NumberedCamera(options.size, options.rate, options.seconds)
    live_source._open_capture = lambda *_: camera
    status = run.main(["0", "--show", "--reconnect", "0", *others])
    options.captured.write_text(json.dumps(camera.captured))
    return status


if __name__ == "__main__":
    sys.exit(main())
