"""Whether anything moved: small things and slow changes count, a camera's noise does not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from engine.similar import StillDetector

HEIGHT, WIDTH = 180, 320


def scene() -> np.ndarray:
    """Slopes from dark to bright, and some edges."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([40 + x * 0.5, 60 + y * 0.8, 200 - x * 0.4], axis=-1)
    picture[60:120, 100:200] = (180, 90, 30)
    return picture.clip(0, 255).astype(np.uint8)


class Camera:
    """Makes frames: normal noise, brighter pixels having more of it, and JPEG if that is asked for."""

    def __init__(self, noise: float, quality: int | None = None) -> None:
        self._noise, self._quality = noise, quality
        self._random = np.random.default_rng(7)

    def frame(self, picture: np.ndarray) -> np.ndarray:
        if self._noise:
            sigma = self._noise * (0.5 + picture / 255)
            picture = (picture + sigma * self._random.standard_normal(picture.shape)).round().clip(0, 255)
            picture = picture.astype(np.uint8)
        if self._quality is not None:
            _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return picture

    def detector(self, picture: np.ndarray, frames: int = 40) -> StillDetector:
        """One that has seen the picture for a while."""
        detector = StillDetector()
        for _ in range(frames):
            detector(self.frame(picture))
        return detector


def with_square(picture: np.ndarray, x: int, y: int, contrast: int, side: int = 6) -> np.ndarray:
    changed = picture.astype(np.int16)
    changed[y : y + side, x : x + side] += contrast
    return changed.clip(0, 255).astype(np.uint8)


CAMERAS = [(0.0, None), (1.0, None), (3.0, None), (2.0, 90), (4.0, 85)]


@pytest.mark.parametrize(("noise", "quality"), CAMERAS)
def test_noise_is_not_motion(noise: float, quality: int | None) -> None:
    camera, picture = Camera(noise, quality), scene()
    detector = StillDetector()
    still = [detector(camera.frame(picture)) for _ in range(150)]
    assert not still[0]
    assert sum(still) >= 147


@pytest.mark.parametrize(("noise", "quality"), CAMERAS)
@pytest.mark.parametrize("x", [0, 1, 97, WIDTH - 6])
@pytest.mark.parametrize("y", [0, 51, HEIGHT - 6])
def test_a_square_of_6_pixels_that_comes_moves_and_goes(noise: float, quality: int | None, x: int, y: int) -> None:
    camera, picture = Camera(noise, quality), scene()
    detector = camera.detector(picture)
    contrast = 20
    assert not detector(camera.frame(with_square(picture, x, y, contrast)))
    x += 6 if x < WIDTH // 2 else -6
    assert not detector(camera.frame(with_square(picture, x, y, contrast)))
    assert not detector(camera.frame(picture))


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_square_that_differs_in_one_colour_only(channel: int) -> None:
    camera, picture = Camera(0.0), scene()
    detector = camera.detector(picture)
    picture[90:96, 30:36, channel] += 4
    assert not detector(camera.frame(picture))
    assert detector(camera.frame(picture))


def test_what_moves_all_the_time_in_one_place_still_counts() -> None:
    camera, picture = Camera(2.0), scene()
    detector = camera.detector(picture)
    places = itertools.cycle([40, 44, 48, 52, 48, 44])
    still = [detector(camera.frame(with_square(picture, next(places), 80, 40))) for _ in range(200)]
    assert not any(still)


def frames_until_seen(detector: StillDetector, frames: Iterator[np.ndarray]) -> int:
    return next(number for number, frame in enumerate(frames, 1) if not detector(frame))


@pytest.mark.parametrize(("noise", "most_levels"), [(0.0, 1), (2.0, 6)])
def test_slow_changes_add_up(noise: float, most_levels: int) -> None:
    """It grows brighter by one level in ten frames: no frame differs visibly from the one before."""
    camera, picture = Camera(noise), scene()
    detector = camera.detector(picture)
    brighter = (np.clip(picture.astype(np.int16) + number // 10, 0, 255).astype(np.uint8) for number in range(400))
    for _ in range(3):  # again and again
        assert frames_until_seen(detector, map(camera.frame, brighter)) <= 10 * most_levels + 10


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_an_object_that_creeps_is_never_far_from_what_is_shown(noise: float) -> None:
    """A pixel in five frames."""
    camera, picture = Camera(noise), scene()
    detector = camera.detector(with_square(picture, 20, 40, 40))
    shown = 20
    for number in range(200):
        x = 20 + number // 5
        if not detector(camera.frame(with_square(picture, x, 40, 40))):
            shown = x
        assert x - shown <= (1 if noise == 0 else 3)
    assert shown > 50


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_a_long_fade_is_not_noise(noise: float) -> None:
    """A level in each frame, for seconds."""
    camera, picture = Camera(noise), scene() // 4
    detector = camera.detector(picture)
    shown = 0
    for level in range(150):
        if not detector(camera.frame(picture + np.uint8(level))):
            shown = level
        assert level - shown <= (0 if noise == 0 else 6)


@pytest.mark.parametrize("every", [2, 3, 4])
def test_a_camera_that_is_slower_than_its_rate(every: int) -> None:
    """Each of its pictures comes several times: it has noise all the same."""
    camera, picture = Camera(2.0), scene()
    detector = StillDetector()
    still = []
    for _ in range(100):
        frame = camera.frame(picture)
        still += [detector(frame) for _ in range(every)]
    assert sum(still[20:]) >= len(still) - 25


def test_another_size_or_state_is_not_still() -> None:
    state = ["vermilion"]
    picture = scene()
    detector = StillDetector(lambda: state[0])
    seen = [detector(picture), detector(picture)]
    state[0] = "another"
    seen += [detector(picture), detector(picture), detector(picture[:-20]), detector(picture[:-20])]
    assert seen == [False, True, False, True, False, True]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (17, 33)])
def test_tiny_frames(size: tuple[int, int]) -> None:
    detector = StillDetector()
    picture = np.full((*size, 3), 100, np.uint8)
    assert [detector(picture), detector(picture), detector(picture + 9), detector(picture + 9)] == [False, True] * 2
