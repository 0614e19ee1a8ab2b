"""Steadying: what it computes, that it calms, what it must not do, and that it does not depend on where it begins."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine import _native
from engine.run import main
from engine.samples import SAMPLE
from engine.steady import BLOCK, FLOOR_DB, WARM_UP, Steady
from tests.engine.steady_definition import steadied

Picture = np.ndarray

WIDTH, HEIGHT = 256, 144


@pytest.fixture(scope="module")
def photo() -> Picture:
    """A frame of the sample clip, large enough to move over it."""
    capture = cv2.VideoCapture(str(SAMPLE))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 120)
    _, frame = capture.read()
    return frame


def look(photo: Picture, step: int, *, speed: tuple[float, float] = (1.3, 0.6)) -> Picture:
    """What a camera sees that moves over the photo."""
    matrix = np.array([[1, 0, 200 + speed[0] * step], [0, 1, 150 + speed[1] * step]])
    return cv2.warpAffine(photo, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def translate(picture: Picture) -> Picture:
    """Edges and colours, with a texture that sticks to a grid of four pixels: what makes translations flicker."""
    ys, xs = np.mgrid[: picture.shape[0], : picture.shape[1]]
    grid = 10 * np.sin(xs * (np.pi / 2) + picture[..., 0] / 40) * np.cos(ys * (np.pi / 2) + picture[..., 1] / 40)
    values = 1.2 * picture.astype(np.float32) + 0.5 * cv2.Laplacian(picture, cv2.CV_32F) - 20 + grid[..., None]
    return np.clip(values, 0, 255).astype(np.uint8)


def run(steady: Steady, sources: list[Picture], kept: Callable[[int], bool] = lambda _: False) -> dict[int, Picture]:
    """Steadied frames by their numbers."""
    made = {}
    for number, source in enumerate(sources):
        if steady.needs(number, kept):
            made[number] = steady(source, translate(source)).copy()
    return made


def psnr(a: Picture, b: Picture) -> float:
    error = float(((a.astype(np.float64) - b) ** 2).mean())
    return 10 * float(np.log10(255**2 / error)) if error else 99.0


def warping_error(frames: list[Picture], speed: tuple[float, float]) -> float:
    """Mean squared difference to the frame before, moved as the camera moved."""
    matrix = np.array([[1, 0, speed[0]], [0, 1, speed[1]]])
    errors = []
    for before, now in itertools.pairwise(frames):
        moved = cv2.warpAffine(before.astype(np.float32), matrix, (WIDTH, HEIGHT), flags=cv2.WARP_INVERSE_MAP)
        errors.append(((now - moved)[4:-4, 4:-4] ** 2).mean())
    return float(np.mean(errors))


def detail(frames: list[Picture]) -> float:
    return float(np.sqrt(np.mean([cv2.Laplacian(frame, cv2.CV_32F).var() for frame in frames])))


@pytest.fixture(params=_native.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(None)


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (5, 64), (17, 65), (40, 131)])
@pytest.mark.parametrize("limit", [1e9, 4000.0, 60.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_native_pass_equals_its_definition(isa: str, size: tuple[int, int], limit: float, threads: int) -> None:
    random = np.random.default_rng(size[1])
    height, width = size
    native = _native.Steadier(threads)
    for gain, map_size in ((0, (2, 2)), (90, (9, 16)), (1024, (7, 5))):
        fresh, history = (random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(2))
        flow_x, flow_y = (random.integers(-700 * side, 700 * side, map_size, np.int32) // 4 for side in (width, height))
        weight = random.integers(0, 257, map_size, np.int32)
        made, before, after = native.run(fresh, history, flow_x, flow_y, weight, gain, limit)
        expected = steadied(fresh, history, flow_x, flow_y, weight, gain, limit)
        assert np.array_equal(made, expected[0])
        assert (before, after) == expected[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": np.zeros((4, 7, 3), np.uint8)}, "history must have the shape of fresh"),
        ({"fresh": np.zeros((1, 6, 3), np.uint8)}, "fresh must be"),
        ({"weight": np.zeros((2, 3), np.int32)}, "maps must be"),
        ({"gain": 1025}, "gain 1025"),
    ],
)
def test_the_native_pass_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    picture, values = np.zeros((4, 6, 3), np.uint8), np.zeros((2, 2), np.int32)
    fitting = {"fresh": picture, "history": picture, "flow_x": values, "flow_y": values, "weight": values, "gain": 0}
    with pytest.raises(RuntimeError, match=message):
        _native.Steadier(1).run(**{**fitting, "squared_limit": 1.0, **change})  # type: ignore[arg-type]


def test_a_moving_camera_is_calmed_and_stays_sharp(photo: Picture) -> None:
    speed = (1.3, 0.6)
    sources = [look(photo, step, speed=speed) for step in range(30)]
    translated = [translate(source) for source in sources]
    shown = list(run(Steady(1.0), sources).values())
    assert warping_error(shown, speed) < 0.5 * warping_error(translated, speed)
    assert abs(detail(shown[5:]) / detail(translated[5:]) - 1) < 0.05
    assert min(map(psnr, shown, translated)) >= FLOOR_DB
    half = list(run(Steady(0.5), sources).values())
    assert warping_error(shown, speed) < warping_error(half, speed) < warping_error(translated, speed)


def test_a_cut_leaves_no_ghost(photo: Picture) -> None:
    after = np.ascontiguousarray(255 - photo[::-1])
    sources = [look(photo, step) for step in range(6)] + [look(after, step) for step in range(6)]
    shown = run(Steady(1.0), sources)
    assert not np.array_equal(shown[5], translate(sources[5]))
    assert np.array_equal(shown[6], translate(sources[6]))


def test_a_flash_leaves_no_ghost(photo: Picture) -> None:
    sources = [look(photo, step) for step in range(8)]
    sources[4] = cv2.add(sources[4] // 2, (128, 128, 128, 0))
    shown = run(Steady(1.0), sources)
    for number in (4, 5):
        assert np.array_equal(shown[number], translate(sources[number]))


def test_a_dissolve_is_bounded(photo: Picture) -> None:
    other = np.ascontiguousarray(photo[::-1, ::-1])
    sources = [cv2.addWeighted(look(photo, i), 1 - i / 12, look(other, i), i / 12, 0) for i in range(13)]
    sources += [look(other, 13 + i) for i in range(6)]
    shown = run(Steady(1.0), sources)
    distances = [psnr(shown[number], translate(source)) for number, source in enumerate(sources)]
    assert min(distances) >= FLOOR_DB


def test_what_an_object_uncovers_is_fresh(photo: Picture) -> None:
    """A bright square moves fast over dark ground: behind it no trace is left."""
    ground = cv2.GaussianBlur(photo, (0, 0), 9) // 3
    sources = []
    for step in range(8):
        source = look(ground, 0)
        source[40:100, 20 + 24 * step : 60 + 24 * step] = 230
        sources.append(source)
    shown = run(Steady(1.0), sources)
    for number in range(1, 8):
        left = 20 + 24 * (number - 1)
        uncovered = np.s_[44:96, left + 4 : left + 20]
        difference = shown[number][uncovered].astype(int) - translate(sources[number])[uncovered]
        assert np.abs(difference).mean() < 8  # of the 180 by which the square is brighter


def test_another_style_leaves_no_ghost(photo: Picture) -> None:
    steady = Steady(1.0)
    for number in range(4):
        source = look(photo, number)
        translated = translate(source) if number < 3 else 255 - translate(source)
        steady.needs(number, lambda _: False)
        shown = steady(source, translated)
    assert np.array_equal(shown, translated)


@pytest.mark.parametrize("kept", [range(0), range(40), range(30, 41), range(10, 77), range(64, 200), range(200)])
def test_frames_do_not_depend_on_where_a_run_begins(
    photo: Picture, kept: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.steady.BLOCK", 32)
    monkeypatch.setattr("engine.steady.WARM_UP", 8)
    sources = [look(photo, step) for step in range(100)]
    whole = run(Steady(1.0), sources)
    resumed = run(Steady(1.0), sources, kept.__contains__)
    missing = set(range(100)) - set(kept)
    assert missing <= resumed.keys()
    assert all(np.array_equal(resumed[number], whole[number]) for number in missing)
    assert len(resumed) - len(missing) <= 2 * (32 + 8)


def test_no_seam_shows_where_a_block_begins(photo: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [look(photo, 20 - abs(20 - step % 40)) for step in range(100)]
    monkeypatch.setattr("engine.steady.BLOCK", 1000)
    endless = run(Steady(1.0), sources)
    monkeypatch.setattr("engine.steady.BLOCK", 64)
    blocks = run(Steady(1.0), sources)
    assert BLOCK > 4 * WARM_UP
    assert np.array_equal(blocks[63], endless[63])
    # The texture of these frames is the worst case; frames of real styles agree to 57 dB.
    assert psnr(blocks[64], endless[64]) > 37


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 3), (300, 2), (33, 47)])
@pytest.mark.parametrize("scale", [1, 4])
def test_frames_of_any_size(size: tuple[int, int], scale: int) -> None:
    steady, random = Steady(1.0), np.random.default_rng(0)
    source = random.integers(0, 256, (*size, 3), np.uint8)
    translated = random.integers(0, 256, (scale * size[0], scale * size[1], 3), np.uint8)
    for number in range(3):
        steady.needs(number, lambda _: False)
        assert psnr(steady(source, translated), translated) >= FLOOR_DB


def test_the_size_may_change(photo: Picture) -> None:
    steady = Steady(1.0)
    for number, source in enumerate([photo, photo, photo[:200], photo[:200], photo[:, :300]]):
        steady.needs(number, lambda _: False)
        assert steady(source, source).shape == source.shape


def test_what_was_translated_is_not_written_to(photo: Picture) -> None:
    steady, translated = Steady(1.0), translate(photo)
    before = translated.copy()
    for number in range(3):
        steady.needs(number, lambda _: False)
        steady(photo, translated)
    assert np.array_equal(translated, before)


def test_the_summary_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    options = ["--frames", "3", "--precision", "fp32", "--json", str(report)]
    assert main([str(SAMPLE), "-o", str(tmp_path / "a.mp4"), "--steady", "0.5", *options]) == 0
    assert ", steady 0.5" in capsys.readouterr().err
    assert json.loads(report.read_text())["results"][0]["steady"] == 0.5
    assert main([str(SAMPLE), "-o", str(tmp_path / "b.mp4"), *options]) == 0
    assert "steady" not in capsys.readouterr().err
    assert json.loads(report.read_text())["results"][0]["steady"] == 0


@pytest.mark.parametrize("text", ["-0.1", "1.5", "nan", "much", ""])
def test_a_strength_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main([str(SAMPLE), f"--steady={text}"])
    assert status.value.code == 2
    assert f"argument --steady: {text!r} is not a number from 0 to 1" in capsys.readouterr().err


def test_not_on_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SAMPLE), "--steady", "1", "--cluster", "auto"]) == 1
    assert "give it without --cluster" in capsys.readouterr().err
