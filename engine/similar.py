"""Whether anything has moved since the frame that was translated last.

Looked at are windows of 6x6 pixels, one for each 2x2 pixels and channel: the mean difference between the frame and the
reference, which is the frame that was translated last, so slow changes add up. One window above its threshold is a
change. The threshold is `_FACTOR` times the largest mean that noise makes in a block of 16x16 pixels, measured on
frames that follow each other. What differs alike in a whole block, as light that fades does, is not noise.

- For each of eight classes of brightness, as noise depends on that, the median of all blocks counts, and of that the
  least of the last frames: a part of the picture that moves is not noise.
- Each block has its own noise, running, but at most twice its class's: what moves all the time in one place counts.

No threshold exceeds `_MOST`, whatever the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from engine.device import host_image

# Pixels of a frame for one of the picture that is looked at, and of those for a window, each way: 6x6 pixels.
_SHRINK, _WINDOW = 2, 3
_AREA = _WINDOW * _WINDOW

# Pixels of the smaller picture in a block, each way.
_BLOCK = 8

# In grey levels, of a window's mean.
_LEAST, _MOST = 0.5, 12.0

_FACTOR = 3.5

_CLASSES = 8

# The noise is measured on every frame in the beginning, then on one of so many.
_FIRST_FRAMES, _EVERY = 8, 5

# The same picture twice is a camera that is slower than its rate; so many times in a row, it is one without noise.
_SAME = 8

# The least noise is that of the last one or two times so many frames.
_LEAST_FRAMES = 60

_SHARE_OF_NEW = 0.2  # in a block's running mean


class StillDetector:
    """Says of one frame after the other whether it shows what the last reference shows.

    Args:
        state: what the translation depends on besides the frame; where that changes, a frame is not still.
    """

    def __init__(self, state: Callable[[], Any] = lambda: None) -> None:
        self._state = state
        self._reference: np.ndarray | None = None
        self._reference_state: Any = None
        self._noise: _Noise | None = None

    def __call__(self, image: Any) -> bool:
        """Whether nothing has moved. If something has, this frame is the reference from now on.

        Args:
            image: uint8 [H, W, 3], an array or a tensor; not changed, and not kept.
        """
        frame = host_image(image)
        size = (max(1, frame.shape[1] // _SHRINK), max(1, frame.shape[0] // _SHRINK))
        small, state = cv2.resize(frame, size, interpolation=cv2.INTER_AREA), self._state()
        if self._noise is None or self._noise.shape != small.shape:
            self._noise, self._reference = _Noise(small), None
        is_still = (
            self._reference is not None
            and state == self._reference_state
            and self._noise.is_all(_window_sums(small, self._reference))
        )
        self._noise.look(small)
        if not is_still:
            self._reference, self._reference_state = small, state
        return is_still


class _Noise:
    """The noise of a camera, and the thresholds that follow from it; of pictures of one size."""

    def __init__(self, first: np.ndarray) -> None:
        self.shape = first.shape
        self._before = first
        self._frames = self._same = 0
        # Of each block, the running mean of the largest window sum that noise makes.
        self._blocks: np.ndarray | None = None
        self._least: list[tuple[int, np.ndarray]] = []  # by class, of the frames since one
        self._set(np.zeros(()))

    def look(self, small: np.ndarray) -> None:
        """Measures the noise between this frame and the one before, on some frames."""
        self._frames += 1
        is_first = self._frames <= _FIRST_FRAMES
        if is_first or self._frames % _EVERY == 1:
            self._measure(small)
        if is_first or self._frames % _EVERY == 0:
            self._before = small

    def _measure(self, small: np.ndarray) -> None:
        size = max(1, self.shape[1] // _BLOCK), max(1, self.shape[0] // _BLOCK)
        sums = _window_sums(small, self._before).astype(np.float32)
        self._same = 0 if sums.any() else self._same + 1
        if 0 < self._same < _SAME:
            return
        means = _enlarged(cv2.resize(sums, size, interpolation=cv2.INTER_AREA), self.shape)
        blocks = _largest(np.abs(sums - means), size)
        light = cv2.resize(small, size, interpolation=cv2.INTER_AREA).mean(axis=2)
        classes = np.minimum((light * (_CLASSES / 256)).astype(np.intp), _CLASSES - 1)
        by_class = self._least_of(_by_class(blocks, classes))[classes]
        self._blocks = blocks if self._blocks is None else self._blocks + _SHARE_OF_NEW * (blocks - self._blocks)
        self._set(np.clip(self._blocks, by_class, 2 * by_class))

    def is_all(self, sums: np.ndarray) -> bool:
        """Whether the windows' sums, int16 [h, w, 3], could all be noise."""
        return bool(cv2.inRange(sums, -self._thresholds, self._thresholds).all())

    def _set(self, largest: np.ndarray) -> None:
        """Thresholds for blocks in which noise makes such window sums."""
        limits = np.clip(_FACTOR * largest, _LEAST * _AREA, _MOST * _AREA).astype(np.int16)
        self._thresholds = cv2.merge([_enlarged(np.atleast_2d(limits), self.shape)] * 3)

    def _least_of(self, by_class: np.ndarray) -> np.ndarray:
        if not self._least or self._frames >= self._least[-1][0] + _LEAST_FRAMES:
            self._least = [*self._least[-1:], (self._frames, by_class)]
        self._least[-1] = (self._least[-1][0], np.minimum(self._least[-1][1], by_class))
        return np.minimum.reduce([least for _, least in self._least])


def _window_sums(small: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Sums of the differences in all windows, int16 of the pictures' shape."""
    difference = cv2.subtract(small, other, dtype=cv2.CV_16S)
    return cv2.boxFilter(difference, -1, (_WINDOW, _WINDOW), normalize=False, borderType=cv2.BORDER_REFLECT)


def _enlarged(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A value of each block for each of its pixels."""
    return cv2.resize(blocks, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)


def _largest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The largest value in each of (columns, rows) blocks and all channels."""
    around = cv2.dilate(values, np.ones((_BLOCK, _BLOCK), np.uint8), anchor=(0, 0))
    return cv2.resize(around, size, interpolation=cv2.INTER_NEAREST).max(axis=2)


def _by_class(blocks: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The median of each class; where few blocks are of a class, that of all."""
    of_all = np.median(blocks)
    enough = [np.count_nonzero(classes == number) >= 16 for number in range(_CLASSES)]
    return np.array([np.median(blocks[classes == n]) if enough[n] else of_all for n in range(_CLASSES)])
