"""Distils one style of a large style-transfer network into a small generator that is fast on video.

    python -m training.fetch_images
    python -m training.distill_style --images ~/.cache/streamgan/data/images --teacher multistyle26.onnx \
        --teacher-style 4 --minutes 40 --output vermilion.safetensors

The teacher paints crops of the images once, and the pairs are cached. The student then learns to give the teacher's
picture, from an input with a little noise added: what the noise changes between two frames, the student leaves alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.checkpoint import save_generator
from engine.errors import CheckpointError, EngineError
from engine.generators import ResNetConfig, build
from engine.precision import psnr_db
from training.metrics import ssim
from training.style_pairs import Pairs, Pictures, RenderOptions, find_pictures, load_teacher, render_pairs


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How the student learns. The end is given by `steps` or, where it is None, by `minutes` of wall-clock time."""

    minutes: float = 40.0
    steps: int | None = None
    batch_size: int = 4
    learning_rate: float = 1e-3
    noise: float = 4.0
    """Largest standard deviation of the noise on the inputs, in uint8 steps."""
    seed: int = 0
    compile: bool = True
    """torch.compile in bfloat16, about four times as fast on a CPU with AVX512_BF16; else eager float32."""
    report_seconds: float = 15.0
    save_seconds: float = 60.0


def distillation_loss(student: Tensor, target: Tensor) -> Tensor:
    """L1 at full, half, quarter and eighth size, and L1 of the gradients at the first two, which keeps edges sharp.

    Args:
        student: float [N, 3, H, W] in [-1, 1].
        target: the same shape and range.
    """
    difference = student - target
    loss = difference.new_zeros(())
    for level, weight in enumerate((1.0, 0.5, 0.5, 0.5)):
        if level:
            difference = F.avg_pool2d(difference, 2)
        loss = loss + weight * difference.abs().mean()
        if level < 2:
            horizontal = (difference[..., :, 1:] - difference[..., :, :-1]).abs().mean()
            vertical = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
            loss = loss + weight * (horizontal + vertical)
    return loss


def to_tensor(pictures: Pictures) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def to_pictures(image: Tensor) -> Pictures:
    """float [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3]."""
    values = image.detach().float().add(1.0).mul(127.5).round().clamp(0, 255)
    return values.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def batch(pairs: Pairs, step: int, options: TrainOptions) -> tuple[Tensor, Tensor]:
    """The pairs of one step, a function of the step alone: a resumed run sees what an uninterrupted one does."""
    random = np.random.default_rng((options.seed, step))
    chosen = random.integers(0, len(pairs.inputs), options.batch_size)
    inputs, targets = to_tensor(pairs.inputs[chosen]), to_tensor(pairs.targets[chosen])
    if random.random() < 0.5:
        inputs, targets = inputs.flip(3), targets.flip(3)
    deviation = random.uniform(0.0, options.noise, (options.batch_size, 1, 1, 1)) / 127.5
    noise = random.standard_normal(tuple(inputs.shape), np.float32) * deviation.astype(np.float32)
    return (inputs + torch.from_numpy(noise)).clamp_(-1.0, 1.0), targets


def train(
    student: nn.Module,
    pairs: Pairs,
    options: TrainOptions,
    *,
    state_path: Path | None = None,
    stop_after: int | None = None,
) -> list[float]:
    """Trains `student` in place, with Adam and a learning rate that falls to 0 along a cosine.

    Args:
        student: generator with inputs and outputs in [-1, 1].
        pairs: what to learn.
        options: for how long and how.
        state_path: a run that was interrupted goes on from this file; it is kept up to date and remains at the end.
        stop_after: stop at this step as if interrupted.

    Returns:
        The loss of every step of this run.
    """
    optimizer = torch.optim.Adam(student.parameters(), lr=options.learning_rate, betas=(0.9, 0.99))
    first_step, seconds_before = 0, 0.0
    if state_path is not None and state_path.is_file():
        first_step, seconds_before = _load_state(state_path, student, optimizer)
        print(f"going on from step {first_step} of {state_path}")
    student.train()

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.compile):
            painted = student(inputs)
        return distillation_loss(painted.float(), targets)

    compiled = torch.compile(loss_of) if options.compile else loss_of
    losses: list[float] = []
    started = reported = saved = time.monotonic()
    for step in itertools.count(first_step):
        seconds = seconds_before + time.monotonic() - started
        progress = step / options.steps if options.steps is not None else seconds / (60.0 * options.minutes)
        if progress >= 1.0 or step == stop_after:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * _schedule(step, progress)
        inputs, targets = batch(pairs, step, options)
        optimizer.zero_grad()
        loss = compiled(inputs, targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise EngineError(f"the loss is {losses[-1]} at step {step}: start anew with a lower --learning-rate")
        now = time.monotonic()
        if progress and now - reported >= options.report_seconds:
            reported = now
            rate = len(losses) * options.batch_size / (now - started)
            print(_progress_line(losses, step, rate, seconds * (1.0 / progress - 1.0)), flush=True)
        if state_path is not None and now - saved >= options.save_seconds:
            saved = now
            _save_state(state_path, student, optimizer, step + 1, seconds_before + now - started)
    if state_path is not None:
        _save_state(state_path, student, optimizer, step, seconds)
    student.eval()
    return losses


def _schedule(step: int, progress: float) -> float:
    """The learning rate's factor: 100 steps up, then a cosine down to 0."""
    return min(1.0, (step + 1) / 100) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _progress_line(losses: Sequence[float], step: int, rate: float, seconds_left: float) -> str:
    loss = np.mean(losses[-200:])
    return f"step {step + 1:6d}  loss {loss:.4f}  {rate:.1f} images/s  {seconds_left / 60.0:.1f} minutes left"


def _save_state(path: Path, student: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    state = {
        "student": student.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


def _load_state(path: Path, student: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), float(state["seconds"])
    except Exception as error:  # damaged in any way that torch.load, pickle or a state dict can be
        raise CheckpointError(f"{path} is no state of this training run: delete it to start anew ({error})") from error


@dataclasses.dataclass(frozen=True)
class Quality:
    """How near the student's pictures are to the teacher's, on average over the held-out pairs."""

    psnr_db: float
    ssim: float

    def __str__(self) -> str:
        return f"PSNR {self.psnr_db:.2f} dB, SSIM {self.ssim:.4f}"


@torch.inference_mode()
def paint(student: nn.Module, pictures: Pictures) -> Pictures:
    """The student's pictures, one by one: uint8 [N, H, W, 3] -> the same shape."""
    return np.concatenate([to_pictures(student(to_tensor(picture[None]))) for picture in pictures])


def evaluate(student: nn.Module, pairs: Pairs) -> Quality:
    """Compares the student with the teacher on `pairs`."""
    scores = [
        (psnr_db(painted, target), ssim(painted, target))
        for painted, target in zip(paint(student, pairs.inputs), pairs.targets, strict=True)
    ]
    return Quality(*(float(value) for value in np.mean(scores, axis=0)))


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m training.distill_style`."""
    parser = argparse.ArgumentParser(
        prog="python -m training.distill_style", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="DIR", help="folders of pictures")
    parser.add_argument("--teacher", type=Path, required=True, metavar="ONNX", help="conditional style network")
    parser.add_argument("--teacher-style", type=int, required=True, metavar="K", help="which of the teacher's styles")
    parser.add_argument("--output", type=Path, required=True, metavar="NAME.safetensors", help="the finished generator")
    parser.add_argument("--cache", type=Path, help="where the painted crops are kept; default: beside the output")
    parser.add_argument("--width", type=_count, default=16, help="first convolution's channels (default: %(default)s)")
    parser.add_argument("--blocks", type=_count, default=6, help="residual blocks (default: %(default)s)")
    parser.add_argument("--minutes", type=_positive, default=40.0, help="length of the training (default: %(default)s)")
    parser.add_argument("--steps", type=_count, help="length in steps instead, the same on every machine")
    parser.add_argument("--batch-size", type=_count, default=4, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=_positive, default=1e-3, help="default: %(default)s")
    parser.add_argument("--noise", type=float, default=4.0, help="on the inputs, in uint8 steps (default: %(default)s)")
    parser.add_argument("--crops", type=_count, default=3600, help="crops to train on (default: %(default)s)")
    parser.add_argument("--crop-size", type=_count, default=256, help="in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--no-compile", action="store_true", help="eager float32: slower, but needs no C++ compiler")
    parser.add_argument("--description", default="", help="one line about the style, kept in the file")
    parser.add_argument("--trained-on", default="", help="the pictures in words, kept in the file")
    parser.add_argument("--licence", default="", help="of the generator, kept in the file")
    parser.add_argument("--author", default="", help="whom to name, the teacher's authors too, kept in the file")
    return parser


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _positive(text: str) -> float:
    if not 0.0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        distill(options)
    except (EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last saved step", file=sys.stderr)
        return 130
    return 0


def distill(options: argparse.Namespace) -> None:
    """Everything from the pictures to the finished file."""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    render = RenderOptions(crop_size=options.crop_size, crops=options.crops, seed=options.seed)
    teacher = load_teacher(options.teacher, options.teacher_style)
    teacher_name = f"{options.teacher.name} style {options.teacher_style}"
    groups = find_pictures(options.images)
    pairs, held_out = render_pairs(groups, teacher, teacher_name, options.cache or options.output.parent, render)

    torch.manual_seed(options.seed)
    student = build(ResNetConfig(width=options.width, blocks=options.blocks))
    train(
        student,
        pairs,
        TrainOptions(
            minutes=options.minutes,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            noise=options.noise,
            seed=options.seed,
            compile=not options.no_compile,
        ),
        state_path=options.output.with_suffix(".state.pt"),
    )
    quality = evaluate(student, held_out)
    metadata = {
        "name": options.output.stem,
        "description": options.description,
        "trained_on": options.trained_on,
        "licence": options.licence,
        "author": options.author,
        "teacher": teacher_name,
        "held_out_quality": f"{quality} against the teacher",
    }
    save_generator(student, options.output, metadata={key: value for key, value in metadata.items() if value})
    print(f"{options.output}: {quality} on {len(held_out.inputs)} held-out crops; state beside it can be deleted")


if __name__ == "__main__":
    sys.exit(main())
