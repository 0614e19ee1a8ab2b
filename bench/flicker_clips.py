"""Clips whose motion is known: exactly, because they are rendered from photographs, or by an optical flow."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.errors import SourceError

NOISE = 2.0
"""Standard deviation of the noise of rendered clips, in steps of 255."""

CRF = 23
"""Quality of the H.264 that rendered clips pass through."""

MOTIONS = ("pan", "zoom", "rotation", "object")


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames and their motion.

    Attributes:
        name: of the motion or of the file.
        frames: uint8 [H, W, 3], BGR.
        flows: for each frame but the first, where its pixels were in the frame before: float32 [H, W, 2], (x, y).
        visible: for each frame but the first, which of its pixels were in the frame before: bool [H, W].
    """

    name: str
    frames: list[np.ndarray]
    flows: list[np.ndarray]
    visible: list[np.ndarray]

    def pairs(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Number of a frame, its flow and what of it is visible, from the second frame on."""
        for number, (flow, visible) in enumerate(zip(self.flows, self.visible, strict=True), start=1):
            yield number, flow, visible


def rendered(
    photo: np.ndarray, motion: str, *, size: tuple[int, int], frame_count: int, other: np.ndarray | None = None
) -> Clip:
    """A camera that moves over a photograph, with noise and through H.264.

    Args:
        photo: uint8 [H, W, 3].
        motion: one of `MOTIONS`. object: a part of `other` moves over a pan.
        size: (width, height) of the frames.
    """
    width, height = size
    camera = _Camera(photo, motion, size)
    cut_out = cv2.resize(photo if other is None else other, size, interpolation=cv2.INTER_AREA)
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 5, height // 2), (width // 8, height // 4), 0, 0, 360, 255, -1)
    frames, flows, visible = [], [], []
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    here = np.stack([xs, ys], axis=2)
    for time in range(frame_count):
        frame = camera.picture(time)
        is_object = np.zeros((height, width), bool)
        shift = _object_shift(time, size)
        if motion == "object":
            is_object = _moved(mask, shift, size) > 127
            frame = np.where(is_object[..., None], _moved(cut_out, shift, size), frame)
        if time:
            flow = camera.places(here, time, time - 1) - here
            was_object = _moved(mask, _object_shift(time - 1, size), size) > 127
            if motion == "object":
                flow[is_object] = np.subtract(_object_shift(time - 1, size), shift)
            places = here + flow
            inside = (places >= 0).all(axis=2) & (places <= (width - 1, height - 1)).all(axis=2)
            if motion == "object":
                before = sampled(was_object.astype(np.float32), places)  # a part where both are in a pixel
                is_mixed = (before != is_object).astype(np.uint8)
                inside &= cv2.dilate(is_mixed, np.ones((3, 3), np.uint8)) == 0
            flows.append(flow.astype(np.float32))
            visible.append(inside)
        frames.append(frame)
    noise = np.random.default_rng(0)
    noisy = [np.clip(frame + noise.normal(0, NOISE, frame.shape), 0, 255).astype(np.uint8) for frame in frames]
    return Clip(motion, through_h264(noisy), flows, visible)


def filmed(path: Path, *, size: tuple[int, int], frame_count: int, start_seconds: float = 0.0) -> Clip:
    """Part of a video, with Farneback's flow, which the product doesn't use.

    Raises:
        SourceError: it has no such part.
    """
    frames = read_frames(path, size=size, frame_count=frame_count, start_seconds=start_seconds)
    if len(frames) < 2:
        raise SourceError(f"{path}: it has no two frames from {start_seconds:g} s on")
    greys = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    ys, xs = np.mgrid[: size[1], : size[0]].astype(np.float32)
    here = np.stack([xs, ys], axis=2)
    flows, visible = [], []
    for before, now in itertools.pairwise(greys):
        back, forth = _farneback(now, before), _farneback(before, now)
        there = sampled(forth, here + back)
        # Of Sundaram et al., ECCV 2010: forth and back again ends where it began.
        limit = 0.01 * ((back**2).sum(axis=2) + (there**2).sum(axis=2)) + 0.5
        places = here + back
        inside = (places >= 0).all(axis=2) & (places <= (size[0] - 1, size[1] - 1)).all(axis=2)
        flows.append(back)
        visible.append((((back + there) ** 2).sum(axis=2) <= limit) & inside & (not _is_cut(before, now, back)))
    name = f"{path.stem} at {start_seconds:g} s" if start_seconds else path.stem
    return Clip(name, frames, flows, visible)


def read_frames(path: Path, *, size: tuple[int, int], frame_count: int, start_seconds: float = 0.0) -> list[np.ndarray]:
    """Frames of a video, uint8 [H, W, 3], BGR, scaled to `size` (width, height).

    Raises:
        SourceError: it can't be read.
    """
    import av

    try:
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            if start_seconds:
                source.seek(round(start_seconds * av.time_base))
            frames: list[np.ndarray] = []
            for frame in source.decode(stream):
                if (frame.time or 0.0) < start_seconds:
                    continue
                image = frame.to_ndarray(format="bgr24")
                frames.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
                if len(frames) == frame_count:
                    break
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise SourceError(f"{path}: it can't be read as a video ({error})") from error
    return frames


def sampled(picture: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A picture's values at places, float32 [H, W, 2], (x, y); those outside are 0."""
    values: np.ndarray = cv2.remap(picture, places, None, cv2.INTER_LINEAR)  # type: ignore[call-overload]
    return values


def through_h264(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Frames as they come out of H.264."""
    import av

    file = io.BytesIO()
    height, width = frames[0].shape[:2]
    output: Any
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": str(CRF), "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        output.mux(stream.encode())
    file.seek(0)
    source: Any
    with av.open(file) as source:
        return [frame.to_ndarray(format="bgr24") for frame in source.decode(video=0)]


class _Camera:
    """Looks at a photograph at one place, scale and angle after the other."""

    def __init__(self, photo: np.ndarray, motion: str, size: tuple[int, int]) -> None:
        self._photo, self._motion, self._size = photo, motion, size

    def _matrix(self, time: int) -> np.ndarray:
        """From places in the frame to places in the photograph, [3, 3]."""
        width, height = self._size
        photo_height, photo_width = self._photo.shape[:2]
        fit = min(photo_width / width, photo_height / height)
        scale, angle, x, y = 0.7, 0.0, 0.0, 0.0
        if self._motion in ("pan", "object"):
            x, y = 1.7 * time - 0.1 * width, 0.6 * time - 0.05 * height
        elif self._motion == "zoom":
            scale *= 1.0 - 0.004 * time
        else:
            angle = np.deg2rad(0.35 * time)
        factor = fit * scale
        cos, sin = factor * np.cos(angle), factor * np.sin(angle)
        centre = np.array([[1, 0, x - width / 2 + 0.5], [0, 1, y - height / 2 + 0.5], [0, 0, 1]])
        turn = np.array([[cos, -sin, photo_width / 2 - 0.5], [sin, cos, photo_height / 2 - 0.5], [0, 0, 1]])
        return np.asarray(turn @ centre)

    def picture(self, time: int) -> np.ndarray:
        """The frame at a time."""
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        matrix = self._matrix(time)[:2]
        return cv2.warpAffine(self._photo, matrix, self._size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)

    def places(self, here: np.ndarray, time: int, other: int) -> np.ndarray:
        """Where the places of one time lie at another."""
        matrix = np.linalg.inv(self._matrix(other)) @ self._matrix(time)
        return here @ matrix[:2, :2].T.astype(np.float32) + matrix[:2, 2].astype(np.float32)


def _object_shift(time: int, size: tuple[int, int]) -> tuple[float, float]:
    return size[0] * 0.008 * time, 12.0 * float(np.sin(time / 9))


def _moved(picture: np.ndarray, shift: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    return cv2.warpAffine(picture, np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64), size)


def _farneback(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    flow: np.ndarray = cv2.calcOpticalFlowFarneback(now, before, None, 0.5, 5, 21, 3, 7, 1.5, 0)  # type: ignore[call-overload]
    return flow


def _is_cut(before: np.ndarray, now: np.ndarray, back: np.ndarray) -> bool:
    """Whether two pictures show other scenes, so that no pixel of the one is in the other."""
    ys, xs = np.mgrid[: now.shape[0], : now.shape[1]].astype(np.float32)
    moved = sampled(before, np.stack([xs, ys], axis=2) + back)
    return float(cv2.absdiff(now, moved).mean()) > 25.0
