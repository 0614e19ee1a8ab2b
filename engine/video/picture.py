"""The picture of a decoded frame as the eye should see it: whole, in its own colours, opaque, upright, of one size."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.video.color import (
    MATRIX_YCGCO,
    RANGE_LIMITED,
    ToBgr,
    color_of,
    full_range,
    unconverted_matrix,
    ycgco_to_bgr,
)
from engine.video.orientation import Orientation, orientation_of
from engine.video.pyav import import_av
from engine.video.tonemap import ToneMapper
from engine.video.video_decoder import Decoded

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

BLACK = (0, 0, 0)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How frames of one kind are converted."""

    to_bgr: Callable[[VideoFrame], np.ndarray]
    orientation: Orientation


class Picture:
    """Turns decoded frames into upright BGR images of one size, the first one's.

    Matrix, range, transfer, size and rotation may change from frame to frame.

    Args:
        name: of the source, for notes.
        first: its first frame.
        background: what transparent pixels show, as bytes of blue, green and red.

    Attributes:
        size: width and height of all images in pixels.
        orientation: of the first frame.
    """

    def __init__(self, name: str, first: VideoFrame, *, background: tuple[int, int, int] = BLACK) -> None:
        self._name = name
        self._background = background
        self._kinds: dict[tuple[Any, ...], _Kind] = {}
        self._notes: dict[str, None] = {}
        self._fitted = 0
        self.orientation = self._kind(first).orientation
        self.size = self.orientation.size(first.width, first.height)

    @property
    def notes(self) -> list[str]:
        """One line for each thing that was changed, or could not be."""
        lines = list(self._notes)
        if self._fitted:
            width, height = self.size
            lines.append(f"{self._fitted} frames of another size are fitted into {width}x{height}, with bars")
        return [f"{self._name}: {line}" for line in lines]

    def image(self, frame: VideoFrame) -> np.ndarray:
        """The upright BGR image of a frame, uint8 [H, W, 3]."""
        kind = self._kind(frame)
        image = kind.orientation.apply(kind.to_bgr(frame))
        return image if (image.shape[1], image.shape[0]) == self.size else self._fit(image)

    def _kind(self, frame: VideoFrame) -> _Kind:
        side_data: Any = frame.side_data
        matrix = side_data.get("DISPLAYMATRIX")
        placed = bytes(matrix) if matrix is not None else b""
        colors = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
        key = (frame.format.name, frame.width, frame.height, *colors, placed)
        if key not in self._kinds:
            orientation = orientation_of(placed) if placed else Orientation()
            if not orientation.is_exact:
                self._note("its rotation is not a multiple of 90 degrees and is left out")
            if side_data.get("DOVI_METADATA") is not None and not color_of(frame).is_hdr:
                self._note("Dolby Vision without a base layer that others can show (profile 5): its colours are wrong")
            self._kinds[key] = _Kind(self._conversion(frame), orientation)
        return self._kinds[key]

    def _conversion(self, frame: VideoFrame) -> Callable[[VideoFrame], np.ndarray]:
        size, color = (frame.width, frame.height), color_of(frame)
        unconverted = unconverted_matrix(frame)
        if unconverted:
            self._note(f"its colours are coded as {unconverted}, which is not converted: they will look wrong")
        if color.is_hdr:
            self._note("HDR is tone-mapped to standard dynamic range (BT.709)")
            return ToneMapper(color, *size)
        if color.matrix == MATRIX_YCGCO:
            return lambda frame: ycgco_to_bgr(frame, color)
        if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
            to_bgra = ToBgr(color, *size, with_alpha=True)
            return lambda frame: self._opaque(to_bgra(frame))
        to_bgr = ToBgr(color, *size)
        if frame.format.name == "yuvj420p" and color.range == RANGE_LIMITED:  # a film whose range changes
            return lambda frame: to_bgr(full_range(frame))
        return to_bgr

    def _opaque(self, image: np.ndarray) -> np.ndarray:
        """BGR of a BGRA image over the background."""
        alpha = image[:, :, 3:].astype(np.uint16)
        color = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
        if alpha.min() == 255:
            return color
        self._note("transparent pixels show the background; --background chooses its colour")
        background = np.array(self._background, np.uint16)
        return ((color * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)

    def _fit(self, image: np.ndarray) -> np.ndarray:
        self._fitted += 1
        (width, height), (rows, columns) = self.size, image.shape[:2]
        scale = min(width / columns, height / rows)
        inside = max(1, round(columns * scale)), max(1, round(rows * scale))
        image = cv2.resize(image, inside, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
        right, bottom = width - inside[0] - left, height - inside[1] - top
        return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=BLACK)

    def _note(self, line: str) -> None:
        self._notes[line] = None


def deinterlaced(frames: Iterable[Decoded], note: Callable[[str], None]) -> Generator[Decoded, None, None]:
    """The same frames, made of one field and the motion around it where they hold two fields (FFmpeg's bwdif).

    Args:
        frames: decoded frames; those that were converted on a device stay as they are.
        note: is told when the first one is met.
    """
    bwdif: _Bwdif | None = None
    for frame, image in frames:
        if bwdif is not None and not bwdif.takes(frame):
            yield from bwdif.flush()
            bwdif = None
        if bwdif is None and image is None and frame.interlaced_frame:
            note("interlaced: its frames are deinterlaced; --deinterlace no keeps the fields")
            bwdif = _Bwdif(frame)
        if bwdif is None:
            yield frame, image
        else:
            yield from bwdif.push(frame)
    if bwdif is not None:
        yield from bwdif.flush()


class _Bwdif:
    """The filter for frames of one size and format. It gives a frame back when the next one is there."""

    def __init__(self, first: VideoFrame) -> None:
        av = import_av()
        self._layout = _layout(first)
        self._waiting: collections.deque[VideoFrame] = collections.deque()
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=first.width, height=first.height, format=first.format, time_base=first.time_base
        )
        bwdif = self._graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced:threads=1")
        self._graph.link_nodes(source, bwdif, self._graph.add("buffersink")).configure()

    def takes(self, frame: VideoFrame) -> bool:
        return _layout(frame) == self._layout

    def push(self, frame: VideoFrame | None) -> Generator[Decoded, None, None]:
        error = import_av().error
        if frame is not None:
            self._waiting.append(frame)
        self._graph.vpush(frame)
        while self._waiting:
            try:
                whole = self._graph.vpull()
            except (error.BlockingIOError, error.EOFError):
                return
            before = self._waiting.popleft()
            whole.pts, whole.time_base, whole.duration = before.pts, before.time_base, before.duration
            yield whole, None

    def flush(self) -> Generator[Decoded, None, None]:
        yield from self.push(None)


def _layout(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
