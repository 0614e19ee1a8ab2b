"""From capture to display on the live path, with a webcam that is a clock: `python -m bench latency`.

The path is that of `python -m engine.run 0 --show`: `open_camera`, `Pipeline`, and a sink that is written in the
calling thread, as a window is. Only the ends are played: the camera delivers real pictures at a given rate and knows
when each was captured, and the display notes when a translated picture was handed to it. The generator changes every
pixel, so a frame is recognised by what the pipeline carries beside it, `Frame.captured_seconds`.

What there is to expect, with a generator time G and a camera interval I:

    floor                                G
    newest frame wins, I > G             G
    newest frame wins, I < G             G to G + I, so less than 2 G
    queueing loop, I < G                 towards 5 G: four frames wait in the driver before each

The queueing loop is `read, translate, show`, as tutorials write it, over the four buffers that OpenCV's V4L2 capture
keeps: the driver fills them oldest first and loses what comes while all are full. Growth of the age, from the first
quarter of a run to its last, means that frames queue; the loop's ends where its four buffers are full.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bench import results
from bench.results import Row
from engine.errors import SourceError
from engine.pipeline import Pipeline
from engine.samples import SAMPLE
from engine.sizes import parse_size
from engine.styles import DEFAULT_STYLE
from engine.translator import Translator
from engine.video import Frame, Sink, StopStream
from engine.video.live_source import SILENCE_SECONDS, open_camera
from engine.video.window import TeeSink, WindowSink

DEFAULT_RATES = ("0.5x", "0.9x", "1.5x", "3x")

# Buffers that OpenCV asks V4L2 for if nothing else was set.
DRIVER_BUFFERS = 4

# Different pictures that the camera repeats: enough for the picture to move, little enough for memory.
_IMAGES = 30

# Ages that a row keeps; its facts are of all of them.
_MOST_AGES = 500

# A run whose translations took this many times the generator's time alone was disturbed, and its ages mean little.
_DISTURBED = 1.25

# Calls and seconds that the generator's own time is measured for, at least, before every run.
_GENERATOR_CALLS = 5
_GENERATOR_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench latency`."""
    parser.add_argument("--style", default=DEFAULT_STYLE, help="bundled style or checkpoint (default: %(default)s)")
    parser.add_argument("--size", type=parse_size, default="640x360", metavar="WxH", help="(default: %(default)s)")
    parser.add_argument(
        "--rates",
        nargs="+",
        type=_rate,
        default=list(DEFAULT_RATES),
        metavar="RATE",
        help=f"of the camera: 30 is frames per second, 1.5x is the generator's own speed times 1.5 "
        f"(default: {' '.join(DEFAULT_RATES)})",
    )
    parser.add_argument("--seconds", type=_positive, default=10.0, help="per rate and contender (default: %(default)g)")
    parser.add_argument("--threads", type=_count, metavar="N", help="of the generator (default: all cores)")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument("--backend", default="auto", help="(default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="(default: %(default)s)")
    parser.add_argument("--window", action="store_true", help="show the frames in a real window, and count its time")
    parser.add_argument("--json", metavar="FILE", help="write the figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures all rates and prints the table."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    translator = Translator(
        arguments.style, device=arguments.device, backend=arguments.backend, precision=arguments.precision
    )
    images = sample_images(*arguments.size)
    engine = translator.engine_for(images[0])
    report = results.start(
        "latency",
        threads=torch.get_num_threads(),
        device=str(translator.device),
        arguments={
            **{name: value for name, value in vars(arguments).items() if name not in ("run", "command", "json")},
            "size": "{}x{}".format(*arguments.size),
        },
    )
    report.rows = measure(
        translator,
        images,
        rates=arguments.rates,
        seconds=arguments.seconds,
        open_window=(lambda: WindowSink("latency")) if arguments.window else None,
    )
    for row in report.rows:
        row.facts["engine"] = str(engine)
    _print_rows(report.rows, f"style {Path(arguments.style).stem}, {engine}, {torch.get_num_threads()} threads")
    if arguments.json:
        report.write(Path(arguments.json))


def sample_images(width: int, height: int) -> list[np.ndarray]:
    """The first pictures of the sample clip, uint8 [height, width, 3], BGR."""
    capture = cv2.VideoCapture(str(SAMPLE))
    images: list[np.ndarray] = []
    while len(images) < _IMAGES:
        read, image = capture.read()
        if not read:
            break
        images.append(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    capture.release()
    if not images:
        raise SourceError(f"{SAMPLE}: not one frame of it can be read; install the package again")
    return images


def measure(
    translator: Translator,
    images: Sequence[np.ndarray],
    *,
    rates: Sequence[str],
    seconds: float,
    open_window: Callable[[], Sink] | None = None,
) -> list[Row]:
    """Runs the live path and the queueing loop at every rate, one after the other.

    Args:
        translator: what translates, in both.
        images: what the camera sees, uint8 [H, W, 3], BGR, all of one size.
        rates: as on the command line: "30" frames per second, "1.5x" the generator's own speed.
        seconds: how long the camera delivers, per rate and contender.
        open_window: makes a window that frames are shown in before their time is taken; None: they are not shown.

    Returns:
        Two rows per rate. `seconds` are ages at display of at most 500 shown frames, in the order they were shown. In
        the facts, `generator_ms` is the median of the generator alone before the run, `translate_ms` its mean within.
    """
    height, width = images[0].shape[:2]
    own_seconds = generator_seconds(translator, images[0])
    rows = []
    for rate in dict.fromkeys(rates):
        fps = _fps(rate, own_seconds)
        for contender, play in (("engine.run", play_live), ("queueing loop", play_queueing_loop)):
            generator_ms = 1e3 * generator_seconds(translator, images[0])  # again: a shared machine's speed drifts
            camera = FakeWebcam(images, fps=fps, frame_count=max(1, round(fps * seconds)))
            display = Display()
            translate_ms = play(camera, translator, TeeSink(open_window(), display) if open_window else display)
            ages = display.ages_seconds(camera)
            facts = _describe(camera, display, ages)
            rows.append(
                Row(
                    group=f"live {width}x{height}, {_said(rate)}",
                    contender=contender,
                    ours=play is play_live,
                    seconds=[*_evenly(ages, _MOST_AGES)],
                    failure=None if ages else "no frame was shown",
                    facts={**facts, "generator_ms": generator_ms, "translate_ms": translate_ms},
                )
            )
    return rows


def _said(rate: str) -> str:
    return f"{rate} the generator's speed" if rate.endswith("x") else f"{rate} frames/s"


def generator_seconds(translator: Translator, image: np.ndarray) -> float:
    """Median time of one call on one frame: the least age that a frame can have when it is shown."""
    translator(image)  # the engine is made ready on the first
    times: list[float] = []
    while len(times) < _GENERATOR_CALLS or sum(times) < _GENERATOR_SECONDS:
        start = time.perf_counter()
        translator(image)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class FakeWebcam:
    """A camera with `cv2.VideoCapture`'s interface that captures by the clock, whether anybody reads or not.

    Captured frames wait in the driver's buffers, oldest first; one that comes while all are full is lost. The picture
    of the first `read`, with which programs ask for the size, starts the clock and is not counted.

    Args:
        images: what it sees, again and again.
        fps: frames per second.
        frame_count: it ends after so many frames.
        buffers: of the driver; `set(cv2.CAP_PROP_BUFFERSIZE, N)` changes it.

    Attributes:
        captured: frames captured so far, lost ones included.
        lost: frames that found no free buffer.
    """

    def __init__(
        self, images: Sequence[np.ndarray], *, fps: float, frame_count: int, buffers: int = DRIVER_BUFFERS
    ) -> None:
        self.fps = fps
        self.captured = 0
        self.lost = 0
        self._images = images
        self._frame_count = frame_count
        self._buffers = buffers
        self._start: float | None = None
        self._waiting: collections.deque[int] = collections.deque()  # numbers of frames, from 1
        self._handed_over: list[float] = []  # when `read` returned a frame,
        self._numbers: list[int] = []  # and which

    def read(self) -> tuple[bool, np.ndarray | None]:
        """The oldest frame that waits, or the next as soon as it is captured; (False, None) after the last."""
        if self._start is None:
            self._start = time.perf_counter()
            return True, self._images[0].copy()
        self._capture()
        while not self._waiting and self.captured < self._frame_count:
            time.sleep(max(0.0, self._captured_at(self.captured + 1) - time.perf_counter()))
            self._capture()
        if not self._waiting:
            return False, None
        number = self._waiting.popleft()
        image = self._images[number % len(self._images)].copy()
        self._numbers.append(number)
        self._handed_over.append(time.perf_counter())
        return True, image

    def get(self, prop: int) -> float:
        height, width = self._images[0].shape[:2]
        known = {
            cv2.CAP_PROP_FPS: self.fps,
            cv2.CAP_PROP_FRAME_WIDTH: float(width),
            cv2.CAP_PROP_FRAME_HEIGHT: float(height),
            cv2.CAP_PROP_BUFFERSIZE: float(self._buffers),
        }
        return known.get(prop, 0.0)

    def set(self, prop: int, value: float) -> bool:
        if prop != cv2.CAP_PROP_BUFFERSIZE or value < 1:
            return False
        self._buffers = int(value)
        return True

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def release(self) -> None:
        """Ends the capture; what still waits is lost."""
        self._capture()
        self._frame_count = self.captured
        self.lost += len(self._waiting)
        self._waiting.clear()

    def capture_time(self, arrived_seconds: float) -> float:
        """When the frame was captured that a reader had at `arrived_seconds`, both of `time.perf_counter()`.

        A reader stamps a frame before it asks for the next, so it is the last one handed over until then.
        """
        return self._captured_at(self._numbers[bisect.bisect_right(self._handed_over, arrived_seconds) - 1])

    def _captured_at(self, number: int) -> float:
        assert self._start is not None
        return self._start + number / self.fps

    def _capture(self) -> None:
        """Lets happen what happened since the last call: buffers are freed by `read` alone, so nothing is missed."""
        now = time.perf_counter()
        while self.captured < self._frame_count and self._captured_at(self.captured + 1) <= now:
            self.captured += 1
            if len(self._waiting) < self._buffers:
                self._waiting.append(self.captured)
            else:
                self.lost += 1


class Display(Sink):
    """A sink that notes when it was given which frame."""

    needs_calling_thread = True  # as a window does

    def __init__(self) -> None:
        self.shown_at: list[float] = []  # `time.perf_counter()`
        self._arrived: list[float] = []

    def write(self, frame: Frame) -> None:
        self.shown_at.append(time.perf_counter())
        assert frame.captured_seconds is not None, "the pipeline lost a live frame's capture time"
        self._arrived.append(frame.captured_seconds)

    def ages_seconds(self, camera: FakeWebcam) -> list[float]:
        """Age of each shown frame at its display, from the camera's moment of capture."""
        return [
            shown - camera.capture_time(arrived) for shown, arrived in zip(self.shown_at, self._arrived, strict=True)
        ]


def play_live(camera: FakeWebcam, translator: Translator, sink: Sink) -> float:
    """This project's way, to the end of the camera; returns the translator's milliseconds per frame."""
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # as `open_camera` asks of a device that it opens itself
    source = open_camera("0", capture=camera, silence_seconds=max(SILENCE_SECONDS, 3 / camera.fps))
    return Pipeline(source, translator, sink).run().stage_ms["translate"]


def play_queueing_loop(camera: FakeWebcam, translator: Translator, sink: Sink) -> float:
    """The tutorials' way, to the end of the camera; returns the translator's milliseconds per frame."""
    times = []
    camera.read()  # for the size, as the live path does
    try:
        while True:
            read, image = camera.read()
            if not read or image is None:
                break
            start = time.perf_counter()
            translated = translator(image)
            times.append(time.perf_counter() - start)
            sink.write(Frame(translated, captured_seconds=start))
    except StopStream:
        pass
    camera.release()
    sink.finish()
    return 1e3 * statistics.mean(times) if times else 0.0


def _describe(camera: FakeWebcam, display: Display, ages: Sequence[float]) -> dict[str, Any]:
    shown = len(ages)
    ages_ms = 1e3 * np.asarray(ages)
    median, p95, oldest = np.percentile(ages_ms, [50, 95, 100]).tolist() if shown else (None, None, None)
    quarter = shown // 4
    growth = float(np.median(ages_ms[-quarter:]) - np.median(ages_ms[:quarter])) if quarter else None
    seconds = display.shown_at[-1] - display.shown_at[0] if shown else 0.0
    return {
        "input_fps": camera.fps,
        "captured": camera.captured,
        "shown": shown,
        "dropped": camera.captured - shown,
        "dropped_in_driver": camera.lost,
        "dropped_for_newer": camera.captured - camera.lost - shown,
        "shown_fps": (shown - 1) / seconds if seconds else None,
        "age_ms_median": median,
        "age_ms_p95": p95,
        "age_ms_max": oldest,
        "age_growth_ms": growth,  # last quarter of the run against its first: growing means queueing
    }


def _print_rows(rows: Sequence[Row], engine: str) -> None:
    source = rows[0].group.partition(",")[0]
    print(f"{source}, {engine}; ages in ms, from capture to display; x: in times of the generator alone")
    print(f"{'':<30}{'generator':>10}{'in run':>8}{'captured':>9}{'shown':>7}{'lost in':>9}{'for newer':>10}", end="")
    print(f"{'shown':>8}{'age':>9}{'':>7}{'age':>9}{'age':>9}{'age':>9}")
    print(f"{'':<30}{'ms':>10}{'ms':>8}{'':>9}{'':>7}{'driver':>9}{'dropped':>10}", end="")
    print(f"{'fps':>8}{'median':>9}{'x':>7}{'p95':>9}{'max':>9}{'growth':>9}")
    for row in rows:
        facts = row.facts
        name = f"{row.contender}, {facts['input_fps']:.3g} fps in"
        if row.failure:
            print(f"{name:<30} {row.failure}")
            continue
        mark = "  DISTURBED" if _is_disturbed(row) else ""
        print(
            f"{name:<30}{facts['generator_ms']:>10.1f}{facts['translate_ms']:>8.1f}{facts['captured']:>9}"
            f"{facts['shown']:>7}{facts['dropped_in_driver']:>9}{facts['dropped_for_newer']:>10}"
            f"{_figure(facts['shown_fps']):>8}{facts['age_ms_median']:>9.1f}"
            f"{facts['age_ms_median'] / facts['generator_ms']:>6.2f}x{facts['age_ms_p95']:>9.1f}"
            f"{facts['age_ms_max']:>9.1f}{_figure(facts['age_growth_ms']):>9}{mark}"
        )
    if any(_is_disturbed(row) for row in rows):
        print("DISTURBED: the generator was slower in the run than alone; other programs were busy, so measure again")


def _is_disturbed(row: Row) -> bool:
    return row.facts["translate_ms"] > _DISTURBED * row.facts["generator_ms"]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _evenly(values: Sequence[float], most: int) -> list[float]:
    """At most so many of the values, evenly chosen, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[index] for index in np.linspace(0, len(values) - 1, most).round().astype(int)]


def _fps(rate: str, own_seconds: float) -> float:
    return float(rate[:-1]) / own_seconds if rate.endswith("x") else float(rate)


def _rate(text: str) -> str:
    _positive(text.removesuffix("x"))
    return text


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
