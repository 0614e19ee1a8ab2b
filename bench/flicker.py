"""How much a translated video flickers, and what calms it: `--steady` beside filters of ffmpeg and a plain average.

The warping error (Lai et al., ECCV 2018) is the mean squared difference of each frame to the one before, moved along
the motion of the source, over the pixels that both show. Beside it stand the distance to the translation frame by frame
and the sharpness, because blur lowers the warping error too. Motion is known exactly, in clips that are rendered from
photographs, noise added, and encoded as H.264; or it is Farneback's flow, in clips that were filmed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from bench import results
from bench.flicker_clips import MOTIONS, Clip, filmed, read_frames, rendered, sampled
from bench.flicker_methods import METHODS, Score, score
from bench.results import Results, Row
from engine import Translator
from engine.errors import SourceError
from engine.samples import SAMPLE
from engine.sizes import parse_size
from engine.steady import Steady
from engine.styles import DEFAULT_STYLE

# Seconds of the sample whose frames are the photographs, where none are named.
_SAMPLE_SECONDS = (0.5, 4.0)

# Frames of the picture: consecutive ones, of the middle.
_SHOWN_FRAMES = 3

_SPEED_SIZES = ((640, 360), (1280, 720), (1920, 1080))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench flicker`."""
    parser.add_argument(
        "--style", action="append", metavar="NAME|FILE", help=f"may be given again (default: {DEFAULT_STYLE})"
    )
    parser.add_argument("--photos", nargs="+", type=Path, metavar="FILE", help="pictures to move over (default: film)")
    parser.add_argument(
        "--clips", nargs="+", default=[str(SAMPLE)], metavar="FILE[@SECONDS]", help="filmed videos (default: sample)"
    )
    parser.add_argument("--frames", type=int, default=48, help="of each clip (default: %(default)s)")
    parser.add_argument("--size", type=parse_size, default=(640, 360), metavar="WxH", help="(default: 640x360)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write details of three frames, all methods")


def run(arguments: argparse.Namespace) -> None:
    """Measures clip after clip and prints what each method does."""
    if arguments.frames < 2:
        raise SourceError("--frames: at least 2, since flicker is what changes from one to the next")
    photos = _photos(arguments.photos)
    threads = cv2.getNumThreads()
    report = results.start(
        "flicker", threads=threads, arguments={"frames": arguments.frames, "size": list(arguments.size)}
    )
    for number, style in enumerate(arguments.style or [DEFAULT_STYLE]):
        translator = Translator(style)
        for clip in _clips(arguments, photos):
            translated = [np.asarray(translator(frame)) for frame in clip.frames]
            shown = {name: method(clip, translated) for name, method in METHODS.items()}
            rows = _rows(f"{Path(style).stem}, {clip.name}", clip, shown)
            report.rows += rows
            _print(rows)
            if arguments.picture and number == 0:
                _write_picture(arguments.picture, clip, shown)
                arguments.picture = None
            if arguments.json:
                report.write(arguments.json)
    _measure_speed(report)
    if arguments.json:
        report.write(arguments.json)


def _clips(arguments: argparse.Namespace, photos: dict[str, np.ndarray]) -> Iterator[Clip]:
    """Rendered clips of all photographs and motions, then the filmed ones."""
    for name, photo in photos.items():
        other = next((other for other in photos.values() if other is not photo), None)
        for motion in MOTIONS:
            clip = rendered(photo, motion, size=arguments.size, frame_count=arguments.frames, other=other)
            yield Clip(f"{motion} over {name}", clip.frames, clip.flows, clip.visible)
    for named in arguments.clips:
        path, _, start = named.partition("@")
        try:
            start_seconds = float(start or 0)
        except ValueError:
            raise SourceError(f"--clips {named}: {start!r} is no number of seconds") from None
        yield filmed(Path(path), size=arguments.size, frame_count=arguments.frames, start_seconds=start_seconds)


def _photos(paths: list[Path] | None) -> dict[str, np.ndarray]:
    if paths is None:
        return {
            f"the sample at {seconds:g} s": read_frames(SAMPLE, size=(640, 360), frame_count=1, start_seconds=seconds)[
                0
            ]
            for seconds in _SAMPLE_SECONDS
        }
    photos = {}
    for path in paths:
        photo = cv2.imread(str(path))
        if photo is None:
            raise SourceError(f"{path}: it can't be read as a picture")
        photos[path.stem] = photo
    return photos


def _rows(group: str, clip: Clip, shown: dict[str, list[np.ndarray]]) -> list[Row]:
    per_frame = shown["per frame"]
    scores: dict[str, Score] = {name: score(clip, frames, per_frame) for name, frames in shown.items()}
    plain = scores["per frame"].warping_error
    return [
        Row(
            group,
            name,
            ours=name.startswith("--steady"),
            facts={
                "warping_error": found.warping_error,
                "change_percent": 100 * (found.warping_error / plain - 1) if plain else 0.0,
                "least_psnr_db": found.least_psnr_db,
                "mean_psnr_db": found.mean_psnr_db,
                "sharpness": found.sharpness,
                "visible_share": float(np.mean(clip.visible)),
            },
        )
        for name, found in scores.items()
    ]


def _print(rows: list[Row]) -> None:
    print(f"\n{rows[0].group}\n{'':22}{'warping error':>14}{'change':>9}{'least PSNR':>12}{'mean':>7}{'sharpness':>11}")
    for row in rows:
        facts = row.facts
        print(
            f"{row.contender:22}{facts['warping_error']:>14.1f}{facts['change_percent']:>8.0f}%"
            f"{facts['least_psnr_db']:>12.1f}{facts['mean_psnr_db']:>7.1f}{facts['sharpness']:>11.2f}",
            flush=True,
        )


def _measure_speed(report: Results) -> None:
    """What `--steady 1` takes for a frame, on the sample."""
    print(f"\n{'--steady 1':22}{'ms':>10}{'95 % of median':>18}")
    frames = read_frames(SAMPLE, size=_SPEED_SIZES[0], frame_count=48)
    for size in _SPEED_SIZES:
        sources = [cv2.resize(frame, size) for frame in frames]
        steady, seconds = Steady(1.0), []
        for number, source in enumerate(sources):
            steady.needs(number, lambda _: False)
            start = time.perf_counter()
            steady(source, source)
            seconds.append(time.perf_counter() - start)
        row = Row(f"{size[0]}x{size[1]}", "--steady 1", ours=True, seconds=list(seconds[8:]))
        report.rows.append(row)
        _, low, high = results.summary(row.measured)
        print(f"{row.group:22}{1e3 * statistics.median(row.measured):>10.2f}{f'{low * 1e3:.2f}-{high * 1e3:.2f}':>18}")


def _write_picture(path: Path, clip: Clip, shown: dict[str, list[np.ndarray]]) -> None:
    """A part of consecutive frames and their differences to the frame before, moved, for some methods."""
    first = max(1, (len(clip.frames) - _SHOWN_FRAMES) // 2)
    height, width = clip.frames[0].shape[:2]
    part = np.s_[height // 4 : height // 4 + 180, width // 3 : width // 3 + 240]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    here = np.stack([xs, ys], axis=2)
    lines = []
    for name in ("per frame", "exponential average", "--steady 1"):
        tiles = [frame[part] for frame in shown[name][first : first + _SHOWN_FRAMES]]
        moved = sampled(shown[name][first - 1], here + clip.flows[first - 1])
        difference = 4.0 * cv2.absdiff(shown[name][first], moved)[part]
        tiles.append(np.minimum(difference, 255).astype(np.uint8))
        line = np.hstack(tiles)
        cv2.putText(line, name, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 2, cv2.LINE_AA)
        lines.append(line)
    if not cv2.imwrite(str(path), np.vstack(lines), [cv2.IMWRITE_JPEG_QUALITY, 80]):
        raise SourceError(f"{path}: it can't be written")
