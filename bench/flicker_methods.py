"""What calms a translated video, and how calm, true and sharp the result is."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from bench.flicker_clips import Clip, sampled

Frames = list[np.ndarray]

Method = Callable[[Clip, Frames], Frames]
"""(clip, its translation frame by frame) -> frames that are shown."""


@dataclasses.dataclass(frozen=True)
class Score:
    """How frames do.

    Attributes:
        warping_error: mean squared difference of visible pixels to where they were before, in squared steps of 255
            (Lai et al., ECCV 2018).
        least_psnr_db, mean_psnr_db: to the translation frame by frame.
        sharpness: energy of the Laplacian, as a root, by that of the translation frame by frame.
    """

    warping_error: float
    least_psnr_db: float
    mean_psnr_db: float
    sharpness: float


def score(clip: Clip, shown: Frames, per_frame: Frames) -> Score:
    """Scores what a method made of the translation."""
    ys, xs = np.mgrid[: shown[0].shape[0], : shown[0].shape[1]].astype(np.float32)
    here = np.stack([xs, ys], axis=2)
    total, count = 0.0, 0
    for number, flow, visible in clip.pairs():
        moved = sampled(shown[number - 1].astype(np.float32), here + flow)
        squares = (shown[number].astype(np.float32) - moved) ** 2
        total += float(squares[visible].sum())
        count += 3 * int(visible.sum())
    psnrs = [_psnr(a, b) for a, b in zip(shown, per_frame, strict=True)]
    return Score(
        warping_error=total / max(count, 1),
        least_psnr_db=min(psnrs),
        mean_psnr_db=float(np.mean(psnrs)),
        sharpness=float(np.sqrt(sum(map(_detail, shown)) / sum(map(_detail, per_frame)))),
    )


def steady(strength: float) -> Method:
    """`--steady STRENGTH`."""
    from engine.steady import Steady

    def method(clip: Clip, translated: Frames) -> Frames:
        steadier = Steady(strength)
        shown = []
        for number, (source, frame) in enumerate(zip(clip.frames, translated, strict=True)):
            steadier.needs(number, lambda _: False)
            shown.append(steadier(source, frame))
        return shown

    return method


def average(share: float) -> Method:
    """An exponential average of the shown frames alone, with this share of the one before."""

    def method(_: Clip, translated: Frames) -> Frames:
        history: np.ndarray = translated[0].astype(np.float32)
        shown = []
        for frame in translated:
            history = share * history + (1.0 - share) * frame
            shown.append(np.rint(history).astype(np.uint8))
        return shown

    return method


def ffmpeg(name: str, options: str, *, around: int = 0) -> Method:
    """A filter of ffmpeg, which leaves out so many frames at the beginning and the end."""

    def method(_: Clip, translated: Frames) -> Frames:
        padded = [translated[0]] * around + translated + [translated[-1]] * around
        return _filtered(padded, name, options)

    return method


METHODS: dict[str, Method] = {
    "per frame": lambda _, translated: translated,
    "ffmpeg tmedian": ffmpeg("tmedian", "radius=1", around=1),
    "ffmpeg deflicker": ffmpeg("deflicker", "size=5"),
    "exponential average": average(0.5),
    "--steady 0.5": steady(0.5),
    "--steady 1": steady(1.0),
}


def _filtered(frames: Sequence[np.ndarray], name: str, options: str) -> Frames:
    import av
    from av.filter import Graph

    height, width = frames[0].shape[:2]
    graph: Any = Graph()
    source = graph.add_buffer(width=width, height=height, format="bgr24", time_base=Fraction(1, 25))
    kinds = {"tmedian": "gbrp", "deflicker": "yuv444p"}
    steps = [source, graph.add("format", kinds[name]), graph.add(name, options), graph.add("format", "bgr24")]
    steps.append(graph.add("buffersink"))
    for before, after in itertools.pairwise(steps):
        before.link_to(after)
    graph.configure()
    made: Frames = []

    def pull() -> None:
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                made.append(graph.pull().to_ndarray(format="bgr24"))

    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
        picture.pts, picture.time_base = number, Fraction(1, 25)
        graph.push(picture)
        pull()
    graph.push(None)
    pull()
    return made


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a.astype(np.float32) - b.astype(np.float32)) ** 2).mean())
    return 10 * float(np.log10(255.0**2 / error)) if error else 99.0


def _detail(frame: np.ndarray) -> float:
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(np.float32)
    return float((cv2.Laplacian(grey, cv2.CV_32F) ** 2).mean())
