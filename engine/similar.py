"""Whether anything has moved since the frame that was translated last.

Looked at are windows of 6x6 pixels, one for each 2x2 pixels and channel: the mean difference between the frame and the
reference, which is the frame that was translated last, so slow changes add up. One window above its threshold is a
change. The threshold is `_SIGMAS` standard deviations of the noise in such means, measured on frames that follow each
other:

- for each of eight classes of brightness, as noise depends on that: a low quartile over all blocks of 16x16 pixels, the
  least of the last seconds, so that a part of the picture that moves does not count as noise;
- for each block its own, running, but at most twice its class: what moves all the time in one place still counts.

No threshold exceeds `_MOST`, whatever the noise.
"""

from __future__ import annotations

import time
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

_SIGMAS = 7.0
_SIGMA_OF_MEAN = 1.2533  # a normal distribution's standard deviation over its mean absolute value

_CLASSES = 8

# The noise is measured on every frame in the beginning, then on one of so many.
_FIRST_FRAMES, _EVERY = 8, 4

# The least noise is that of the last one or two times so many seconds.
_LEAST_SECONDS = 2.0

_SHARE_OF_NEW = 0.2  # in a block's running mean


class StillDetector:
    """Says of one frame after the other whether it shows what the last reference shows.

    Args:
        state: what the translation depends on besides the frame; where that changes, a frame is not still.
        clock: seconds.
    """

    def __init__(self, state: Callable[[], Any] = lambda: None, clock: Callable[[], float] = time.monotonic) -> None:
        self._state, self._clock = state, clock
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
        else:
            self._noise.look(small, self._clock())
        if (
            self._reference is not None
            and state == self._reference_state
            and self._noise.is_all(_window_sums(small, self._reference))
        ):
            return True
        self._reference, self._reference_state = small, state
        return False


class _Noise:
    """The noise of a camera, and the thresholds that follow from it; of pictures of one size."""

    def __init__(self, first: np.ndarray) -> None:
        self.shape = first.shape
        self._before = first
        self._frames = 0
        self._blocks: np.ndarray | None = None  # of each block, the running mean of its windows' absolute sums
        self._least: list[tuple[float, np.ndarray]] = []  # by class, of the time since a moment
        self._set(np.zeros(()))

    def look(self, small: np.ndarray, now: float) -> None:
        """Measures the noise between this frame and the one before, on some frames."""
        self._frames += 1
        if self._frames > _FIRST_FRAMES and self._frames % _EVERY > 1:
            return
        if self._frames > _FIRST_FRAMES and self._frames % _EVERY == 0:
            self._before = small  # of the next one
            return
        sums = np.abs(_window_sums(small, self._before)).astype(np.float32)
        self._before = small
        width, height = max(1, self.shape[1] // _BLOCK), max(1, self.shape[0] // _BLOCK)
        blocks = cv2.resize(sums, (width, height), interpolation=cv2.INTER_AREA).max(axis=2)
        if not blocks.any():
            return  # the same picture once more: a camera slower than its rate
        light = cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA).mean(axis=2)
        classes = np.minimum((light * (_CLASSES / 256)).astype(np.intp), _CLASSES - 1)
        by_class = self._least_of(_by_class(blocks, classes), now)[classes]
        share = 1.0 if self._blocks is None else _SHARE_OF_NEW
        self._blocks = blocks if self._blocks is None else (1 - share) * self._blocks + share * blocks
        self._set(np.clip(self._blocks, by_class, 2 * by_class))

    def is_all(self, sums: np.ndarray) -> bool:
        """Whether the windows' sums, int16 [h, w, 3], could all be noise."""
        return bool(cv2.inRange(sums, -self._thresholds, self._thresholds).all())

    def _set(self, mean_sums: np.ndarray) -> None:
        """Thresholds for blocks whose windows' absolute sums are so large in the mean."""
        limits = np.clip(_SIGMAS * _SIGMA_OF_MEAN * mean_sums, _LEAST * _AREA, _MOST * _AREA).astype(np.int16)
        height, width = self.shape[:2]
        whole = cv2.resize(np.atleast_2d(limits), (width, height), interpolation=cv2.INTER_NEAREST)
        self._thresholds = cv2.merge([whole] * 3)

    def _least_of(self, by_class: np.ndarray, now: float) -> np.ndarray:
        if not self._least or now - self._least[-1][0] > _LEAST_SECONDS:
            self._least = [*self._least[-1:], (now, by_class)]
        self._least[-1] = (self._least[-1][0], np.fmin(self._least[-1][1], by_class))
        return np.fmin.reduce([least for _, least in self._least])


def _window_sums(small: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Sums of the differences in all windows, int16 of the pictures' shape."""
    difference = cv2.subtract(small, other, dtype=cv2.CV_16S)
    return cv2.boxFilter(difference, -1, (_WINDOW, _WINDOW), normalize=False, borderType=cv2.BORDER_REFLECT)


def _by_class(blocks: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The lower quartile of each class; where few blocks are of a class, that of all."""
    of_all = np.quantile(blocks, 0.25)
    enough = [np.count_nonzero(classes == number) >= 16 for number in range(_CLASSES)]
    return np.array([np.quantile(blocks[classes == n], 0.25) if enough[n] else of_all for n in range(_CLASSES)])
