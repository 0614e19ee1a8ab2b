"""Makes docs/comparison.jpg: what --preview writes over two frames of what --compare split writes.

python -m engine.run clip.mp4 -o look.png --preview 0.5
python -m engine.run clip.mp4 -o split.mp4 --compare split
python docs/comparison.py look.png split.mp4 docs/comparison.jpg
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from engine import video

SECONDS = (Fraction(5, 2), Fraction(9, 2))
WIDTH_PIXELS = 840


def main(preview: str, split: str, output: str) -> None:
    """Writes the picture; the preview is as wide as both frames together."""
    frames = np.hstack([_frame_at(split, seconds) for seconds in SECONDS])
    picture = np.vstack([next(iter(video.open_source(preview))).image, frames])
    height = round(picture.shape[0] * WIDTH_PIXELS / picture.shape[1])
    picture = cv2.resize(picture, (WIDTH_PIXELS, height), interpolation=cv2.INTER_AREA)
    Path(output).write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())


def _frame_at(path: str, seconds: Fraction) -> np.ndarray:
    (frame,) = video.open_source(path, time_range=video.TimeRange(seconds, is_still=True))
    return frame.image


if __name__ == "__main__":
    main(*sys.argv[1:])
