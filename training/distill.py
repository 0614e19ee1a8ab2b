"""Makes a generator fast: a small one, the student, learns its pictures.

    python -m training.distill --teacher latest_net_G.pth --target 30fps@640x360 --dataroot photos --name fast

The student is the largest that translates a frame of that size in time on this machine: candidates are measured, not
chosen by their number of multiplications. `training.train --model distillation` then trains it, and takes its options
here too. At the end a table compares teacher and student on held-out crops. After Ctrl-C, `--continue_train` goes on
with the same student.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from engine import Translator, load_generator
from engine.command_line import command_name, errors_in_one_line
from engine.errors import EngineError
from engine.generators.flops import count_flops
from engine.samples import SAMPLE
from engine.sizes import padded_size, parse_size
from training import train
from training.data import Transform, open_dataset
from training.data.images import Image
from training.data.teacher import Teacher, load_teacher
from training.files import write_whole
from training.gallery import to_pictures
from training.metrics import mean_quality, pan_error
from training.networks import build_generator, generator_config
from training.options import parse_options

# Channels after the first convolution, and residual blocks. Fewer blocks see too little of the picture.
WIDTHS = (4, 8, 16, 24, 32, 48, 64)
FEWEST_BLOCKS, MOST_BLOCKS = 3, 9

# Share of a frame's time that is the generator's: decoding, encoding and a busy machine take the rest.
SHARE = 0.8

_ROUNDS = 7


@dataclasses.dataclass(frozen=True)
class Target:
    """A speed: frames per second at a frame size."""

    fps: float
    width: int
    height: int

    @property
    def ms(self) -> float:
        """What the generator may take for a frame."""
        return SHARE * 1e3 / self.fps

    def __str__(self) -> str:
        return f"{self.fps:g}fps@{self.width}x{self.height}"


@dataclasses.dataclass(frozen=True)
class Student:
    """A ResNet and its measured time.

    Attributes:
        width: channels after the first convolution.
        blocks: residual blocks.
        ms: time of a frame of the target's size.
    """

    width: int
    blocks: int
    ms: float

    @property
    def options(self) -> list[str]:
        """As `training.train` takes it."""
        return ["--netG", f"resnet_{self.blocks}blocks", "--ngf", str(self.width)]

    def __str__(self) -> str:
        return f"{self.blocks} blocks of {self.width} channels, {self.ms:.1f} ms"


Measure = Callable[[Sequence[tuple[int, int]]], list[float]]
"""(width, blocks) of some students -> ms of a frame, each."""


def parse_target(text: str) -> Target:
    """A target from text such as `30fps@640x360`. Raises argparse.ArgumentTypeError for other text."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)fps@(\S+)", text)
    if parts is None or not 0 < float(parts[1]) <= 1000:
        raise argparse.ArgumentTypeError(
            f"invalid target {text!r}: expected FPSfps@WIDTHxHEIGHT, such as 30fps@640x360"
        )
    return Target(float(parts[1]), *parse_size(parts[2]))


def choose_student(target: Target, measure: Measure) -> Student:
    """The student with the most arithmetic of those that are in time.

    All blocks of a student take the same time, so two measurements tell how many fit. The choice is measured again.

    Raises:
        EngineError: none is in time; the message names the nearest target.
    """
    fitting: list[tuple[int, int]] = []
    for width in WIDTHS:
        least, most = measure([(width, FEWEST_BLOCKS), (width, MOST_BLOCKS)])
        if least > target.ms:
            if not fitting:
                nearest = dataclasses.replace(target, fps=int(10 * SHARE * 1e3 / least) / 10)
                raise EngineError(
                    f"no student reaches {target} here: the smallest takes {least:.1f} ms a frame, and "
                    f"{target.ms:.1f} ms are left for it; the nearest target is {nearest}"
                )
            break
        per_block = max((most - least) / (MOST_BLOCKS - FEWEST_BLOCKS), 1e-3)
        fitting.append((width, min(MOST_BLOCKS, FEWEST_BLOCKS + int((target.ms - least) / per_block))))
    # A block of a student has 18 * (4 * width)^2 multiply-adds at a sixteenth of the frame's pixels.
    candidates = sorted(fitting, key=lambda student: student[0] ** 2 * student[1], reverse=True)[:3]
    measured = [Student(*student, ms) for student, ms in zip(candidates, measure(candidates), strict=True)]
    in_time = [student for student in measured if student.ms <= target.ms]
    return in_time[0] if in_time else min(measured, key=lambda student: student.ms)


def measuring(target: Target, *, upsampling: str, device: str, threads: int | None) -> Measure:
    """Measures students, in turn, with a frame of the sample clip: the shortest of several times counts."""
    frame = _frame(target)

    def measure(students: Sequence[tuple[int, int]]) -> list[float]:
        with _cache_of_its_own():
            translators = []
            for width, blocks in students:
                config = generator_config(f"resnet_{blocks}blocks", width=width, upsampling=upsampling)
                generator = build_generator(config, init_type="default").eval()
                translators.append(Translator(generator, backend="fused", device=device, threads=threads))
            return times_ms([functools.partial(translator, frame) for translator in translators])

    return measure


def _frame(target: Target) -> Image:
    """A frame of the sample clip in the target's size, BGR."""
    frame = cv2.VideoCapture(str(SAMPLE)).read()[1]
    return np.asarray(cv2.resize(frame, (target.width, target.height), interpolation=cv2.INTER_AREA), np.uint8)


def times_ms(runs: Sequence[Callable[[], object]]) -> list[float]:
    """The shortest of several times of each, in turn, in ms; the first call of each is not counted."""
    best = [float("inf")] * len(runs)
    for number in range(1 + _ROUNDS):
        for place, run in enumerate(runs):
            started = time.perf_counter()
            run()
            if number:
                best[place] = min(best[place], 1e3 * (time.perf_counter() - started))
    return best


@contextlib.contextmanager
def _cache_of_its_own() -> Iterator[None]:
    """What is measured of random weights is not kept for later runs."""
    before = os.environ.get("STREAMGAN_CACHE")
    with tempfile.TemporaryDirectory(prefix="streamgan-") as folder:
        os.environ["STREAMGAN_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("STREAMGAN_CACHE")
            if before is not None:
                os.environ["STREAMGAN_CACHE"] = before


# --- the command ---


@errors_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 130 or 143 where a signal ended the run."""
    options, others = _make_parser().parse_known_args(arguments)
    run_options = ["--model", "distillation", "--teacher", str(options.teacher), *others]
    parsed = parse_options(run_options)
    teacher = load_teacher(options.teacher, parsed.teacher_style)
    seeds = range(parsed.seed, parsed.seed + options.seeds)
    names = [parsed.name if options.seeds == 1 else f"{parsed.name}_seed{seed}" for seed in seeds]
    student = _student_of(parsed.checkpoints_dir / names[0], options.target, parsed)
    styles = []
    for seed, name in zip(seeds, names, strict=True):
        folder = parsed.checkpoints_dir / name
        styles.append(folder / f"{Path(name).name}.safetensors")
        if parsed.continue_train and styles[-1].is_file():
            continue  # a seed that is done
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(_choice_in(folder), lambda path: path.write_text(json.dumps(dataclasses.asdict(student)) + "\n"))
        is_begun = (folder / "latest_state.pth").is_file()
        asked = [text for text in run_options if text != "--continue_train" or is_begun]
        pairs = ["--pairs_dir", str(parsed.pairs_dir or parsed.checkpoints_dir / names[0])]
        status: int = train.main([*asked, *student.options, "--name", name, "--seed", str(seed), *pairs])
        if status:
            return status
    parsed.pairs_dir, parsed.name = parsed.pairs_dir or parsed.checkpoints_dir / names[0], names[0]
    _print_table(parsed, options.target, teacher, styles)
    return 0


def _student_of(folder: Path, target: Target, options: argparse.Namespace) -> Student:
    """The student that was chosen when the run began, or the one to choose now."""
    if options.continue_train and _choice_in(folder).is_file():
        try:
            return Student(**json.loads(_choice_in(folder).read_text()))
        except (ValueError, TypeError):
            raise EngineError(f"{_choice_in(folder)} is damaged: remove it, and the student is chosen again") from None
    print(f"measuring which student reaches {target} on this machine", flush=True)
    measure = measuring(target, upsampling=options.upsampling, device=options.device, threads=options.threads)
    student = choose_student(target, measure)
    print(f"student: {student} of {target.ms:.1f} ms", flush=True)
    return student


def _choice_in(folder: Path) -> Path:
    return folder / "student.json"


def _print_table(options: argparse.Namespace, target: Target, teacher: Teacher, styles: Sequence[Path]) -> None:
    """Teacher and students: time, arithmetic, closeness to the teacher, and steadiness under motion."""
    transform = Transform("crop", crop_size=options.crop_size, flip=False, multiple=4)
    held_out = open_dataset(options, transform, phase="test")
    samples = [held_out[0, index] for index in range(len(held_out))]
    crops = [to_pictures(sample["A"][None])[0] for sample in samples]
    painted = [to_pictures(sample["B"][None])[0] for sample in samples]
    frame = np.ascontiguousarray(_frame(target)[..., ::-1])
    translators = [Translator(style, device=options.device, threads=options.threads) for style in styles]
    students = [_painting(translator) for translator in translators]
    times = times_ms([functools.partial(paint, frame) for paint in (teacher, *students)])
    print(f"{len(crops)} held-out crops; time at {target.width}x{target.height}; pan error: lower is steadier")
    print(f"{'':<24}{'ms':>9}{'GFLOP':>9}{'PSNR dB':>9}{'SSIM':>9}{'pan error':>11}")
    print(f"{'teacher':<24}{times[0]:>9.1f}{'':>27}{np.mean([pan_error(teacher, crop) for crop in crops]):>11.5f}")
    for style, paint, ms in zip(styles, students, times[1:], strict=True):
        generator = load_generator(style)
        gflop = count_flops(generator, (1, 3, *padded_size(generator, target.height, target.width))) / 1e9
        quality = mean_quality([paint(crop) for crop in crops], painted)
        error = np.mean([pan_error(paint, crop) for crop in crops])
        figures = f"{ms:>9.1f}{gflop:>9.3g}{quality['psnr']:>9.2f}{quality['ssim']:>9.4f}{error:>11.5f}"
        print(f"{style.stem:<24}{figures}", flush=True)


def _painting(translator: Translator) -> Teacher:
    """A translator of BGR pictures, for RGB ones."""

    def paint(picture: Image) -> Image:
        return translator(np.ascontiguousarray(picture[..., ::-1]))[..., ::-1]

    return paint


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=command_name("training.distill"),
        usage="%(prog)s --teacher FILE --target FPSfps@WIDTHxHEIGHT --dataroot DIR --name NAME [options]",
        description="Trains a small, fast generator that makes a large one's pictures.",
        epilog="All options of training.train --model distillation are accepted: see its --help.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--teacher", type=Path, required=True, metavar="FILE", help="a checkpoint, or a style network in ONNX")
    add(
        "--target",
        type=parse_target,
        default=parse_target("30fps@640x360"),
        metavar="SPEED",
        help="speed to reach on this machine, from file to file (default: %(default)s)",
    )
    add("--seeds", type=int, default=1, choices=range(1, 10), metavar="N", help="train so many students")
    return parser


if __name__ == "__main__":
    sys.exit(main())
