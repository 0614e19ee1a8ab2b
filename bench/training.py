"""Benchmarks this project's training steps against the same steps as tutorials write them, in turn.

The networks are the published ones (ResNet-9 of 64 channels with PatchGANs, U-Net 256 with a conditional PatchGAN), and
a batch is one image by default. A step is everything except reading images: forwards, losses, backwards and updates.
All start from the same weights, and the losses of their first steps have to agree before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bench import compare, results
from bench.results import Results, Row
from bench.tutorial_steps import Batch, CycleGanTutorial, Pix2PixTutorial
from engine.device import choose_device
from engine.errors import EngineError
from engine.precision import fastest_precision
from training.models import make_model
from training.options import parse_options

TUTORIAL = "tutorial fp32"

# Largest relative difference between the generators' loss in the first step and the tutorial's.
_TOLERANCE = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.05}

Step = Callable[[Batch], float]
"""Takes a step and returns the generators' loss."""


@dataclasses.dataclass(frozen=True)
class Work:
    """One model to be trained."""

    preset: str
    """Name in `training.presets`."""
    tutorial: Callable[[dict[str, nn.Module]], CycleGanTutorial | Pix2PixTutorial]
    """Makes the tutorial's step from networks by name."""


WORKS: dict[str, Work] = {
    "cycle_gan resnet_9blocks": Work("cyclegan", CycleGanTutorial),
    "pix2pix unet_256": Work("pix2pix", Pix2PixTutorial),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m bench training`."""
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images a step (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=1, help="steps of each contender in a round (default: %(default)s)"
    )
    parser.add_argument("--works", nargs="+", choices=[work.preset for work in WORKS.values()], help="(default: all)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile for this project's step")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="fail on a regression against these figures")


def run(arguments: argparse.Namespace) -> None:
    """Measures all works and prints a table."""
    device = choose_device(arguments.device)
    torch.set_num_threads(arguments.threads)
    report = results.start(
        "training",
        threads=arguments.threads,
        device=device.type,
        arguments={name: getattr(arguments, name) for name in ("size", "batch", "rounds", "steps", "compile")},
    )
    for name, work in WORKS.items():
        if arguments.works and work.preset not in arguments.works:
            continue
        report.rows += measure(f"{name} {arguments.size}x{arguments.size}", work, arguments, device)
        if arguments.json:
            report.write(arguments.json)
    print_report(report)
    if arguments.compare:
        compare.check_against(report, arguments.compare)


def measure(group: str, work: Work, arguments: argparse.Namespace, device: torch.device) -> list[Row]:
    """One row per contender, with the seconds of a step in each round. Raises EngineError if first losses differ."""
    batch = _batch(arguments.batch, arguments.size, device)
    contenders = _contenders(work, arguments, device)
    rows = {name: Row(group, name, ours=name != TUTORIAL) for name in contenders}
    losses: dict[str, float] = {}
    for name, step in contenders.items():
        precision = name.split()[1]
        rows[name].facts = {"batch": arguments.batch, "precision": precision}
        torch.manual_seed(1)  # for dropout
        losses[name] = step(batch)
        rows[name].facts["first_loss"] = losses[name]
        if abs(losses[name] - losses[TUTORIAL]) > _TOLERANCE[precision] * abs(losses[TUTORIAL]):
            raise EngineError(f"{group}: {name} has a loss of {losses[name]:.4f}, the tutorial {losses[TUTORIAL]:.4f}")
    for number in range(arguments.rounds):
        for name in random.Random(number).sample(list(contenders), len(contenders)):
            rows[name].seconds.append(_seconds(contenders[name], batch, arguments.steps))
    return list(rows.values())


def _contenders(work: Work, arguments: argparse.Namespace, device: torch.device) -> dict[str, Step]:
    """Name -> step, the tutorial's first; each has its own networks with the same weights."""
    options = ["--dataroot", ".", "--preset", work.preset, "--device", arguments.device]
    options += ["--compile"] if arguments.compile else []
    found: dict[str, Step] = {}
    for precision in dict.fromkeys((fastest_precision(device), "fp32")):
        torch.manual_seed(0)
        model = make_model(parse_options([*options, "--precision", precision]), device)
        if not found:
            found[TUTORIAL] = work.tutorial(copy.deepcopy(model.networks)).step
        found[f"training {precision}"] = lambda batch, step=model.step: sum(  # type: ignore[misc]
            float(loss) for name, loss in step(batch).items() if not name.startswith("D")
        )
    return found


def _batch(count: int, size: int, device: torch.device) -> Batch:
    """Images of noise, each around a colour of its own."""
    source = torch.Generator().manual_seed(0)

    def images() -> torch.Tensor:
        colours = torch.rand(count, 3, 1, 1, generator=source) * 1.6 - 0.8
        return (colours + 0.2 * torch.randn(count, 3, size, size, generator=source)).clamp(-1, 1).to(device)

    return {"A": images(), "B": images()}


def _seconds(step: Step, batch: Batch, count: int) -> float:
    """Seconds of a step, the mean of `count`; reading the loss waits for the device."""
    start = time.perf_counter()
    for _ in range(count):
        step(batch)
    return (time.perf_counter() - start) / count


def print_report(report: Results) -> None:
    """Prints images per second, and our speed relative to the tutorial's: medians with their 95 % intervals."""
    print(f"{report.machine['threads']} threads on {report.machine['device']}")
    for group in report.groups:
        rows = report.group(group)
        tutorial = next(row for row in rows if not row.ours)
        for row in rows:
            median, _, _ = results.summary(row.measured)
            text = f"{group:<34}{row.contender:<16}{row.facts['batch'] / median:>8.3f} images/s{median * 1e3:>8.0f} ms"
            if row.ours:
                ratio, low, high = results.summary(results.ratios(tutorial.seconds, row.seconds))
                text += f"{ratio:>7.2f}x as fast ({low:.2f} to {high:.2f})"
            print(text)
