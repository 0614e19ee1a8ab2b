"""Makes docs/frames.jpg: frames of a clip over the same frames of its translation, both read back from their files.

python docs/picture.py SOURCE TRANSLATED docs/frames.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from engine import video

COLUMNS = 3
WIDTH_PIXELS = 420


def main(source: str, translated: str, output: str) -> None:
    """Writes the picture: one column per moment, input above output."""
    positions = [(2 * column + 1) / (2 * COLUMNS) for column in range(COLUMNS)]
    rows = [_frames_at(path, positions) for path in (source, translated)]
    picture = np.vstack([np.hstack(row) for row in rows])
    Path(output).write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())


def _frames_at(path: str, positions: list[float]) -> list[np.ndarray]:
    source = video.open_source(path)
    images = [frame.image for frame in source]
    source.close()
    chosen = [images[int(position * len(images))] for position in positions]
    return [_resized(image) for image in chosen]


def _resized(image: np.ndarray) -> np.ndarray:
    height = round(image.shape[0] * WIDTH_PIXELS / image.shape[1])
    return cv2.resize(image, (WIDTH_PIXELS, height), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main(*sys.argv[1:])
