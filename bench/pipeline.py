"""End to end: this project, the generator alone, and the loop that people write with OpenCV and PyTorch, in turn.

All run the same generator on the same clip. Frames per second count from the first frame on, so that start-up is left
out for everybody. The generator alone runs before and after each of them, and a ratio is to the mean of those two,
because the speed of a shared machine drifts within a minute.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from engine import video
from engine.errors import SourceError
from engine.pipeline import Pipeline
from engine.precision import processor_name
from engine.samples import SAMPLE
from engine.styles import DEFAULT_STYLE
from engine.translator import Translator, load_generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench pipeline`."""
    parser.add_argument("clip", nargs="?", default=str(SAMPLE), help="video file (default: the sample clip)")
    parser.add_argument("--style", default=DEFAULT_STYLE, help="bundled style or checkpoint (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument("--backend", default="auto", help="of this project (default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="of this project (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--frames", type=int, help="stop after so many frames of the clip")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="of the generator alone in each round (default: %(default)s)"
    )
    parser.add_argument("--generator-only", action="store_true", help="no video: needs no PyAV")
    parser.add_argument("--json", metavar="FILE", help="write the raw figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures and prints the table."""
    translator = Translator(
        arguments.style, device=arguments.device, backend=arguments.backend, precision=arguments.precision
    )
    report = measure(
        Path(arguments.clip),
        translator,
        style=arguments.style,
        rounds=arguments.rounds,
        frames=arguments.frames,
        generator_seconds=arguments.seconds,
        generator_only=arguments.generator_only,
    )
    print_report(report)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")


def measure(
    clip: Path,
    translator: Translator,
    *,
    style: str,
    rounds: int,
    frames: int | None = None,
    generator_seconds: float = 4.0,
    generator_only: bool = False,
) -> dict[str, Any]:
    """Runs all contenders on `clip`, in turn, `rounds` times.

    Returns:
        Per contender the frames per second of each round, their ratios to the generator alone, the medians of both,
        and what the output holds (frames, codec, sound).
    """
    loop = OpenCVLoop(style, device=translator.device)
    first = _first_frame(clip)
    translator(first)
    contenders = {
        "this project": lambda output: _product(translator, clip, output, frames),
        "OpenCV loop, eager float32": lambda output: loop.run(clip, output, frames),
    }
    if generator_only:
        contenders = {}
    alone = [_generator_alone(translator, first, generator_seconds)]
    rows: dict[str, dict[str, Any]] = {name: {"fps": [], "ratio_to_generator": []} for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, contender in contenders.items():
                output = Path(folder) / f"{name.split()[0]}.mp4"
                output.unlink(missing_ok=True)
                fps = contender(output)
                alone.append(_generator_alone(translator, first, generator_seconds))
                rows[name]["fps"].append(fps)
                rows[name]["ratio_to_generator"].append(fps / statistics.mean(alone[-2:]))
                rows[name]["output"] = describe_output(output)
    for row in rows.values():
        row["median_fps"] = statistics.median(row["fps"])
        row["median_ratio_to_generator"] = statistics.median(row["ratio_to_generator"])
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "versions": _versions("torch", "av", "opencv-python", "opencv-python-headless"),
        "clip": clip.name,
        "size": f"{first.shape[1]}x{first.shape[0]}",
        "style": Path(style).stem,
        "engine": str(translator.engine_for(first)),
        "device": str(translator.device),
        "rounds": rounds,
        "generator alone": {"fps": alone, "median_fps": statistics.median(alone)},
        "contenders": rows,
    }


def _first_frame(clip: Path) -> np.ndarray:
    capture = cv2.VideoCapture(str(clip))
    read, frame = capture.read()
    capture.release()
    if not read:
        raise SourceError(f"{clip}: no such video, or not one frame of it can be read")
    return frame


def _generator_alone(translator: Translator, frame: np.ndarray, seconds: float) -> float:
    """Frames per second of the translator on one frame again and again: no decoding, no encoding."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        translator(frame)
        count += 1
    return count / elapsed


def _product(translator: Translator, clip: Path, output: Path, frames: int | None) -> float:
    source = video.open_source(str(clip))
    sink = video.open_sink(str(output), source)
    return Pipeline(source, translator, sink, limit=frames).run().steady_fps


class OpenCVLoop:
    """Read, infer, write, one after the other, as tutorials do: no sound, float32, NCHW."""

    def __init__(self, style: str, *, device: torch.device) -> None:
        self._generator = load_generator(style).to(device)
        self._device = device

    def run(self, clip: Path, output: Path, frames: int | None) -> float:
        """Translates `clip` to `output`; returns frames per second after the first frame."""
        capture = cv2.VideoCapture(str(clip))
        size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        writer = cv2.VideoWriter(str(output), cv2.VideoWriter.fourcc(*"mp4v"), capture.get(cv2.CAP_PROP_FPS), size)
        low, high = self._generator.input_range
        out_low, out_high = self._generator.output_range
        count, start = 0, time.perf_counter()
        while frames is None or count < frames:
            read, frame = capture.read()
            if not read:
                break
            with torch.no_grad():
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                image = torch.from_numpy(rgb).to(self._device).permute(2, 0, 1)[None].float() / 255 * (high - low) + low
                translated = (self._generator(image)[0] - out_low) / (out_high - out_low) * 255
                rgb = translated.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
            count += 1
            if count == 1:
                start = time.perf_counter()
        writer.release()
        capture.release()
        return (count - 1) / (time.perf_counter() - start)


def _versions(*names: str) -> dict[str, str]:
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    return {name: installed[name] for name in names if name in installed}


def describe_output(path: Path) -> str:
    """What a video file holds, counted by reading it: frames, codec, sound."""
    import av

    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
        codec = container.streams.video[0].codec_context.name
        sound = "sound" if container.streams.audio else "no sound"
    return f"{frames} frames, {codec}, {sound}"


def print_report(report: dict[str, Any]) -> None:
    """Prints the report of `measure` as a table."""
    print(f"{report['clip']} {report['size']}, style {report['style']}, {report['engine']}, {report['rounds']} rounds")
    print(f"{'':<28}{'fps':>8}{'range':>14}{'of generator':>14}{'range':>14}  output")
    rows = {"generator alone": report["generator alone"], **report["contenders"]}
    for name, row in rows.items():
        ratios = row.get("ratio_to_generator", [1.0])
        spread = f"{min(row['fps']):.1f}-{max(row['fps']):.1f}"
        ratio_spread = f"{min(ratios):.0%}-{max(ratios):.0%}"
        print(
            f"{name:<28}{row['median_fps']:>8.1f}{spread:>14}{statistics.median(ratios):>14.0%}{ratio_spread:>14}"
            f"  {row.get('output', '')}"
        )
