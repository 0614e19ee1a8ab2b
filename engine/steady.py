"""Steadies the translation of a video: `--steady`.

Each translated frame is blended with the last steadied one, moved along the optical flow of the source, where the
source says that both show the same. What becomes softer that way is sharpened again. It is causal and untrained.

    flow       DIS (Kroeger et al., ECCV 2016) between source frames of about 160x90
    weight     strength * exp(-(residual / 16)^2): little where the source is not what the flow says it is
    blend      csrc/steady.h, which also keeps each frame at least 31 dB from the translation of its own
    sharpen    as much as brings back the detail of the translation

Frames are in blocks. A frame depends on the frames of its block, and on the last ones of the block before: the history
of a block begins anew so many frames early. So what is translated from the middle of a video on, as in a run that was
resumed, equals what is translated in one piece.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from engine import _native
from engine.device import available_cores

BLOCK = 128
"""Frames in a block."""

WARM_UP = 24
"""Frames of the block before, which the history of a block begins with."""

FLOOR_DB = 31.0
"""Least PSNR of a steadied frame to the translation of its own."""

# Pixels of the pictures that flow is found between.
_FLOW_PIXELS = 160 * 90

# The least width and height of these pictures, which the flow's patches and pyramid need.
_LEAST_SIDE = 32

# Residual, in steps of 255, at which the weight is 1/e of the strength.
_RESIDUAL = 16.0

# Share of the local range of grey that errors of a part of a pixel may make.
_TEXTURE = 0.2

_NEIGHBOURS = np.ones((3, 3), np.uint8)

# Mean residual of a frame that shows another scene than the one before.
_CUT_RESIDUAL = 30.0

# Share of the history at `strength` 1: all of it would never let go.
_MOST_HISTORY = 0.75

# The gain of the sharpening in 256ths: at first, by how much it follows the share of detail that is missing, at most.
_FIRST_GAIN, _GAIN_STEP, _MOST_GAIN = 128.0, 256.0, 1024.0


@dataclasses.dataclass
class _Chain:
    """The last steadied frame, uint8 [H, W, 3]; and the gain of the sharpening, in 256ths."""

    frame: np.ndarray
    gain: float


@dataclasses.dataclass(frozen=True)
class _Motion:
    """Where the pixels of a frame were in the one before, and how far that is to be trusted: for `Steadier.run`."""

    flow_x: np.ndarray
    flow_y: np.ndarray
    weight: np.ndarray


class Steady:
    """Steadies frames in their order.

    Args:
        strength: 0 to 1.
        threads: of the blending; None: as many as there are cores.
    """

    def __init__(self, strength: float, *, threads: int | None = None) -> None:
        self._strength = strength
        self._native = _native.Steadier(threads or available_cores())
        self._motion = _MotionFinder(strength)
        self._numbers: collections.deque[int] = collections.deque()
        self._before: int | None = None  # the number of the last frame
        self._chain: _Chain | None = None
        self._next: _Chain | None = None  # of the next block, towards the end of one

    def needs(self, number: int, is_kept: Callable[[int], bool]) -> bool:
        """Whether a frame is to be translated; asked for each frame of a source in order, the first being 0.

        Args:
            number: of the frame.
            is_kept: whether a frame, by its number, is there already.
        """
        block_end = (number // BLOCK + 1) * BLOCK
        end = block_end if number < block_end - WARM_UP else block_end + BLOCK
        is_needed = not all(map(is_kept, range(number, end)))
        if is_needed:
            self._numbers.append(number)
        return is_needed

    def __call__(self, source: np.ndarray, translated: np.ndarray) -> np.ndarray:
        """Steadies the next frame of those that were needed.

        Args:
            source, translated: uint8 [H, W, 3], BGR; the translation may be of another size.

        Returns:
            As `translated`, which stays as it is.
        """
        number = self._numbers.popleft()
        if self._before is None or number != self._before + 1:
            self._chain = self._next = None
            self._motion.forget()
        self._before = number
        motion = self._motion.find(source, (translated.shape[0], translated.shape[1]))
        if number % BLOCK == 0 and self._next is not None:
            self._chain, self._next = self._next, None
        self._chain = self._follow(self._chain, translated, motion)
        if number % BLOCK == BLOCK - WARM_UP:
            self._next = _Chain(translated, _FIRST_GAIN)
        elif number % BLOCK > BLOCK - WARM_UP and self._next is not None:
            self._next = self._follow(self._next, translated, motion)
        return self._chain.frame

    def _follow(self, chain: _Chain | None, translated: np.ndarray, motion: _Motion | None) -> _Chain:
        """The chain with a frame more."""
        if chain is None or motion is None or chain.frame.shape != translated.shape:
            return _Chain(translated, _FIRST_GAIN if chain is None else chain.gain)
        limit = 255.0**2 / 10 ** (FLOOR_DB / 10)
        frame, detail, steady_detail = self._native.run(
            np.ascontiguousarray(translated),
            np.ascontiguousarray(chain.frame),
            motion.flow_x,
            motion.flow_y,
            motion.weight,
            round(chain.gain),
            limit,
        )
        missing = 1.0 - math.sqrt(steady_detail / detail) if detail else 0.0
        return _Chain(frame, min(max(chain.gain + _GAIN_STEP * missing, 0.0), _MOST_GAIN))


class _MotionFinder:
    """Finds the motion from each source frame to the one before."""

    def __init__(self, strength: float) -> None:
        import cv2

        self._cv2: Any = cv2
        self._strength = strength
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setFinestScale(0)
        self._before: tuple[np.ndarray, np.ndarray] | None = None
        self._here = np.empty(0)  # the place of each pixel

    def forget(self) -> None:
        """The next frame has none before it."""
        self._before = None

    def find(self, source: np.ndarray, size: tuple[int, int]) -> _Motion | None:
        """The motion, for translations of `size` (height, width); None: of a first frame, or of another scene."""
        cv2 = self._cv2
        color = self._shrunk(source)
        grey = cv2.cvtColor(color, cv2.COLOR_BGR2GRAY)
        before, self._before = self._before, (color, grey)
        if before is None or before[0].shape != color.shape or min(size) < 2:
            return None
        flow = self._flow.calc(grey, before[1], None)
        height, width = grey.shape
        if self._here.shape != flow.shape:
            self._here = np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)
        places = cv2.add(self._here, flow)
        moved = cv2.remap(before[0], places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        blue, green, red = cv2.split(cv2.absdiff(color, moved))
        residual = cv2.blur(cv2.max(cv2.max(blue, green), red).astype(np.float32), (3, 3))
        if residual.mean() > _CUT_RESIDUAL:
            return None
        texture = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, _NEIGHBOURS).astype(np.float32)
        residual = np.maximum(residual - np.float32(_TEXTURE) * texture, np.float32(0))
        weight = cv2.exp(residual * residual * np.float32(-1 / _RESIDUAL**2))
        # What comes from outside of the picture is not known.
        x, y = cv2.split(places)
        weight *= (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
        right, down = cv2.split(flow)
        return _Motion(
            _fixed(right, size[1] / width, size[1]),
            _fixed(down, size[0] / height, size[0]),
            _fixed(weight, self._strength * _MOST_HISTORY, 1.0),
        )

    def _shrunk(self, source: np.ndarray) -> np.ndarray:
        height, width = source.shape[:2]
        scale = math.sqrt(_FLOW_PIXELS / (height * width))
        size = (max(_LEAST_SIDE, round(width * scale)), max(_LEAST_SIDE, round(height * scale)))
        shrunk: np.ndarray = self._cv2.resize(source, size, interpolation=self._cv2.INTER_AREA)
        return shrunk


def _fixed(values: np.ndarray, factor: float, limit: float) -> np.ndarray:
    """Values times a factor, none beyond the limit, in 256ths."""
    limit *= 256.0
    return np.rint(np.clip(values * np.float32(256.0 * factor), -limit, limit)).astype(np.int32)
