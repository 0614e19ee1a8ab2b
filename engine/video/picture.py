"""Decoded frames to what the eye should see: upright BGR images of one size, in standard dynamic range."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from engine.video.color import RANGE_FULL, RANGE_LIMITED, Color, ToBgr, color_of, full_range, has_alpha, yuv_side
from engine.video.matrices import CONVERTED, is_unknown, name_of, rgb_of
from engine.video.orientation import Orientation, orientation_of
from engine.video.pyav import import_av
from engine.video.tonemap import ToneMapper, tone_map

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from torch import Tensor

Image = np.ndarray
Converter = Callable[["VideoFrame"], Image]


class Pictures:
    """Converts the frames of one source. What a frame says of itself counts: colours, size and rotation may change.

    Args:
        name: the source, for notes.
        first: its first frame, whose upright size all images get.
        deinterlace: make one whole picture of the two fields of a frame that is marked as interlaced.
        background: BGR colour that is seen through transparent places.

    Attributes:
        width, height: size of the images in pixels.
        orientation: the first frame's.
    """

    def __init__(
        self,
        name: str,
        first: VideoFrame,
        *,
        deinterlace: bool = True,
        background: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self._name = name
        self._background = np.array(background, np.float32)
        self._deinterlaces = deinterlace
        self._deinterlacer: _Deinterlacer | None = None
        self._notes: dict[str, str] = {}  # kind of note -> its line
        self._number = 0
        self._interlaced = 0
        self._fitted = 0
        self._key: Any = None
        self._convert: Converter | None = None
        self.orientation = self._orientation_of(first)
        self.width, self.height = self.orientation.size(first.width, first.height)

    @property
    def notes(self) -> list[str]:
        """One line for each thing that had to be done to the pictures so far."""
        lines = [f"{self._name}: {line}" for line in self._notes.values()]
        if self._interlaced:
            done = f"{self._interlaced} interlaced frames were deinterlaced (--deinterlace no keeps them)"
            lines.append(f"{self._name}: {done}")
        if self._fitted:
            size = f"{self.width}x{self.height}"
            lines.append(f"{self._name}: {self._fitted} frames of another size were fitted into {size} with bars")
        return lines

    def of(
        self, decoded: Iterable[tuple[VideoFrame, Tensor | None]]
    ) -> Iterator[tuple[VideoFrame, np.ndarray | Tensor]]:
        """Yields each frame with its image, in order; images that are on a device already are passed on."""
        for frame, image in decoded:
            if image is not None:
                if self._deinterlaces and frame.interlaced_frame:
                    self._note(
                        "interlaced", "interlaced frames stay on the device as they are (--hwaccel none mends it)"
                    )
                yield from self._rest()
                yield frame, image
            elif self._deinterlaces and (frame.interlaced_frame or self._deinterlacer is not None):
                yield from self._deinterlaced(frame)
            else:
                yield frame, self.image(frame)
        yield from self._rest()

    def image(self, frame: VideoFrame) -> Image:
        """The upright BGR image of one progressive frame."""
        orientation = self._orientation_of(frame)
        key = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range, frame.color_trc)
        if key != self._key:
            self._key, self._convert = key, self._converter(frame)
        assert self._convert is not None
        image = orientation.apply(self._convert(frame))
        self._number += 1
        return image if image.shape[:2] == (self.height, self.width) else self._fit(image)

    # --- interlaced frames ---

    def _deinterlaced(self, frame: VideoFrame) -> Iterator[tuple[VideoFrame, Image]]:
        if self._deinterlacer is not None and not self._deinterlacer.takes(frame):
            yield from self._rest()
        if self._deinterlacer is None:
            self._deinterlacer = _Deinterlacer(frame)
        yield from self._whole(self._deinterlacer.push(frame))

    def _rest(self) -> Iterator[tuple[VideoFrame, Image]]:
        if self._deinterlacer is not None:
            yield from self._whole(self._deinterlacer.flush())
            self._deinterlacer = None

    def _whole(self, pictures: Iterator[tuple[VideoFrame, VideoFrame]]) -> Iterator[tuple[VideoFrame, Image]]:
        for frame, picture in pictures:
            self._interlaced += frame.interlaced_frame and picture is not frame
            yield frame, self.image(picture)

    # --- colours ---

    def _converter(self, frame: VideoFrame) -> Converter:
        """What makes BGR of frames like this one; notes what is unusual about them."""
        color = color_of(frame)
        if _is_dolby_vision_only(frame):
            self._note("matrix", "Dolby Vision profile 5: its colours (IPT) are not converted and will look wrong")
        elif is_unknown(frame.colorspace) and not _is_rgb(frame):
            self._note("matrix", f"its colour matrix {name_of(frame.colorspace)} is read as if it were not named")
        if color.is_hdr or frame.colorspace == 14:
            where = f" from frame {self._number} on" if self._number else ""
            self._note("hdr", f"HDR is tone-mapped to standard dynamic range (BT.709){where}")
        if frame.colorspace in CONVERTED and not _is_rgb(frame):
            return _Unusual(Color(frame.colorspace, color.range, color.primaries, color.transfer))
        if color.is_hdr:
            return ToneMapper(color, frame.width, frame.height)
        if has_alpha(frame.format):
            return self._over_background(ToBgr(color, frame.width, frame.height, layout="bgra"))
        to_bgr = ToBgr(color, frame.width, frame.height)
        if frame.format.name == "yuvj420p" and color.range == RANGE_LIMITED:  # a film whose range changes
            return lambda frame: to_bgr(full_range(frame))
        return to_bgr

    def _over_background(self, to_bgra: ToBgr) -> Converter:
        def convert(frame: VideoFrame) -> Image:
            image = to_bgra(frame)
            alpha = image[..., 3:]
            if alpha.min() == 255:
                return np.ascontiguousarray(image[..., :3])
            blue, green, red = self._background.astype(int)
            color = f"#{red:02x}{green:02x}{blue:02x}"
            self._note("alpha", f"its transparent places show {color} (--background changes that)")
            share = alpha.astype(np.float32) / 255
            return np.rint(image[..., :3] * share + self._background * (1 - share)).astype(np.uint8)

        return convert

    # --- place ---

    def _orientation_of(self, frame: VideoFrame) -> Orientation:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return Orientation()
        orientation = orientation_of(bytes(matrix))
        if not orientation.is_exact:
            self._note("rotation", "its rotation is not a multiple of 90 degrees and is left out")
        return orientation

    def _fit(self, image: Image) -> Image:
        """The image as large as it fits, in the middle of a black one of the first frame's size."""
        self._fitted += 1
        height, width = image.shape[:2]
        scale = min(self.width / width, self.height / height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        top, left = (self.height - height) // 2, (self.width - width) // 2
        bottom, right = self.height - height - top, self.width - width - left
        return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT)

    def _note(self, kind: str, line: str) -> None:
        self._notes.setdefault(kind, line)


class _Deinterlacer:
    """FFmpeg's bwdif: a picture for each frame, one frame late because it looks at the next one."""

    def __init__(self, first: VideoFrame) -> None:
        self._form = _form_of(first)
        self._waiting: deque[VideoFrame] = deque()
        self._graph = import_av().filter.Graph()
        source = self._graph.add_buffer(
            width=first.width, height=first.height, format=first.format, time_base=first.time_base
        )
        # Frames that are not marked as interlaced pass through as they are.
        bwdif = self._graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
        self._graph.link_nodes(source, bwdif, self._graph.add("buffersink")).configure()

    def takes(self, frame: VideoFrame) -> bool:
        return _form_of(frame) == self._form

    def push(self, frame: VideoFrame) -> Iterator[tuple[VideoFrame, VideoFrame]]:
        """Yields the frames that are ready, each with its picture."""
        self._waiting.append(frame)
        self._graph.vpush(frame)
        yield from self._pull()

    def flush(self) -> Iterator[tuple[VideoFrame, VideoFrame]]:
        """Yields the frames that are still inside."""
        self._graph.vpush(None)
        yield from self._pull()
        while self._waiting:
            frame = self._waiting.popleft()
            yield frame, frame

    def _pull(self) -> Iterator[tuple[VideoFrame, VideoFrame]]:
        av = import_av()
        while self._waiting:
            try:
                picture = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield self._waiting.popleft(), picture


class _Unusual:
    """Frames with a matrix that swscale doesn't know, converted in floating point."""

    def __init__(self, color: Color) -> None:
        self._color = color
        self._reformatter = import_av().video.reformatter.VideoReformatter()
        self._flags = import_av().video.reformatter.Interpolation.BILINEAR

    def __call__(self, frame: VideoFrame) -> Image:
        # The same matrix on both sides, whichever it is: only chroma is made as large as luma.
        whole = self._reformatter.reformat(
            frame,
            format="yuv444p16le",
            interpolation=self._flags,
            threads=1,
            **yuv_side("src", frame.format, Color(range=self._color.range)),
            **yuv_side("dst", frame.format, Color(range=self._color.range)),
        )
        planes = [
            np.frombuffer(plane, np.uint16).reshape(plane.height, plane.line_size // 2)[:, : plane.width]
            for plane in whole.planes
        ]
        samples = np.stack(planes, -1).astype(np.float32)
        if self._color.range == RANGE_FULL:
            ycc = samples / 65535 - (0, 32768 / 65535, 32768 / 65535)
        else:
            ycc = (samples / 256 - (16, 128, 128)) / (219, 224, 224)
        rgb = rgb_of(ycc, self._color)
        if self._color.is_hdr or self._color.matrix == 14:
            rgb = tone_map(rgb, self._color.transfer)
        return np.ascontiguousarray(np.rint(rgb[..., ::-1] * 255).astype(np.uint8))


def _form_of(frame: VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _is_rgb(frame: VideoFrame) -> bool:
    return bool(frame.format.is_rgb or frame.format.has_palette)


def _is_dolby_vision_only(frame: VideoFrame) -> bool:
    """True for profile 5, whose picture without Dolby's metadata is none; the other profiles have an HDR one."""
    return frame.color_trc == 2 and (frame.colorspace == 15 or frame.side_data.get("DOVI_METADATA") is not None)
