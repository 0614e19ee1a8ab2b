"""Frames of a GIF: each with the 256 colours that suit it best."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.video.pyav import import_av

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class PaletteFromBgr:
    """Converts BGR arrays to frames of a palette of their own, by libavfilter's palettegen and paletteuse.

    A palette for each frame instead of one for the clip needs no second pass, and so no room for the frames.
    """

    def __init__(self) -> None:
        self._graph: Any = None

    def __call__(self, image: np.ndarray) -> VideoFrame:
        if self._graph is None:
            self._graph = _graph(image.shape[1], image.shape[0])
        frame = import_av().VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), "bgr24")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        self._graph.vpush(frame)
        return self._graph.vpull()


def _graph(width: int, height: int) -> Any:
    av = import_av()
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("bgr24"), time_base=Fraction(1, 25))
    to_rgb = graph.add("format", "rgb32")
    split = graph.add("split")
    palette = graph.add("palettegen", stats_mode="single", reserve_transparent="0")
    use = graph.add("paletteuse", new="1", dither="sierra2_4a")
    source.link_to(to_rgb)
    to_rgb.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()
    return graph
