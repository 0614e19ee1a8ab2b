"""Measures trained generators on held-out images.

    python -m training.evaluate CHECKPOINT... --dataroot DIR --model MODEL

PSNR, SSIM and the perceptual distance compare each picture with its target and need pairs; the Fréchet distance
compares the set of pictures with the set of targets and does not. Beside the checkpoints stands what costs nothing: the
input itself, the mean colour of the targets, or the bicubic enlargement.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import EngineError
from engine.generators import Generator
from engine.precision import choose_device, psnr_db
from engine.translator import load_generator
from training.data import PREPROCESS_MODES, Dataset, Transform, make_dataset
from training.data.datasets import DataOptions
from training.data.transforms import from_lab
from training.frechet import EfficientNetLite0, Features, frechet_distance, load_inception
from training.gallery import Gallery, to_pictures
from training.metrics import ssim
from training.options import MODEL_DEFAULTS
from training.perceptual import StLpips

# Metric -> whether less is better.
METRICS = {"psnr": False, "ssim": False, "st_lpips": True, "frechet": True, "fid": True}

Sample = dict[str, Tensor]
"""As `training.data.datasets` makes them, each a batch of one."""
Painter = Callable[[Sample], Tensor]
"""A sample -> RGB [1, 3, H, W] in [-1, 1]."""


@dataclasses.dataclass(frozen=True)
class Judges:
    """The networks that metrics need; a metric whose network is missing is left out."""

    st_lpips: StLpips | None = None
    frechet: Callable[[Tensor], Tensor] | None = None
    fid: Callable[[Tensor], Tensor] | None = None


def features_of(judges: Judges, images: Sequence[Tensor]) -> dict[str, Features]:
    """Distance -> features of a set of images, RGB [1, 3, H, W] in [-1, 1]."""
    networks = {"frechet": judges.frechet, "fid": judges.fid}
    return {name: _features(network, images) for name, network in networks.items() if network is not None}


def measure(
    paint: Painter,
    samples: Sequence[Sample],
    targets: Sequence[Tensor],
    target_features: dict[str, Features],
    judges: Judges,
    *,
    paired: bool,
) -> dict[str, float]:
    """Metrics of what `paint` makes of the samples, against RGB targets [1, 3, H, W] in [-1, 1]."""
    outputs = [paint(sample) for sample in samples]
    values: dict[str, float] = {}
    if paired:
        pictures = [(to_pictures(o)[0], to_pictures(t)[0]) for o, t in zip(outputs, targets, strict=True)]
        values["psnr"] = float(np.mean([min(99.0, psnr_db(o, t)) for o, t in pictures]))
        values["ssim"] = float(np.mean([ssim(o, t) for o, t in pictures]))
        if judges.st_lpips is not None:
            distances = [judges.st_lpips(o, t) for o, t in zip(outputs, targets, strict=True)]
            values["st_lpips"] = float(torch.cat(distances).mean())
    for name, features in features_of(judges, outputs).items():
        values[name] = frechet_distance(features, target_features[name])
    return values


def _features(network: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> Features:
    with torch.inference_mode():
        return torch.cat([network(image.float()) for image in images]).double().numpy()


class Task:
    """What is asked of a generator of one `--model`: its target, and what stands beside it for nothing."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.is_paired = model != "cycle_gan"

    def target(self, sample: Sample) -> Tensor:
        """The picture that is wanted, RGB in [-1, 1]."""
        if self.model == "colorization":
            return from_lab(sample["A"], sample["B"])
        return sample["B"] * 2 - 1 if self.model == "super_resolution" else sample["B"]

    def painter(self, generator: Generator) -> Painter:
        """The generator as it is used."""

        @torch.inference_mode()
        def paint(sample: Sample) -> Tensor:
            output = generator(sample["A"]).float().cpu()
            if self.model == "colorization":
                return from_lab(sample["A"].cpu(), output)
            return (output * 2 - 1 if self.model == "super_resolution" else output).clamp(-1, 1)

        return paint

    def baselines(self, targets: Sequence[Tensor]) -> dict[str, Painter]:
        """Name -> what needs no training."""
        if self.model == "super_resolution":
            return {"bicubic": _bicubic}
        mean = torch.stack([target.mean(dim=(2, 3)) for target in targets]).mean(dim=0)[..., None, None]
        baselines: dict[str, Painter] = {"mean colour": lambda sample: mean.expand_as(self.target(sample))}
        if self.model == "colorization":
            return baselines | {"grey": lambda sample: from_lab(sample["A"], torch.zeros_like(sample["B"]))}
        return baselines | {"input": lambda sample: sample["A"]}


def _bicubic(sample: Sample) -> Tensor:
    enlarged = F.interpolate(sample["A"], sample["B"].shape[2:], mode="bicubic", align_corners=False)
    # rounded as a picture is
    return enlarged.clamp(0, 1).mul(255).round().div(255) * 2 - 1


def read_samples(dataset: Dataset) -> Iterator[Sample]:
    """Every sample once, as a batch of one, with the random numbers of epoch 0."""
    for index in range(len(dataset)):
        yield {name: tensor[None] for name, tensor in dataset[0, index].items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _make_parser().parse_args(arguments)
    try:
        evaluate(options)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measures all checkpoints, prints a table, and returns it: name -> metric -> value."""
    device = choose_device(options.device)
    task = Task(options.model)
    judges = Judges(
        st_lpips=StLpips.load(options.st_lpips) if options.st_lpips else None,
        frechet=EfficientNetLite0.load(options.efficientnet) if options.efficientnet else None,
        fid=load_inception(options.inception) if options.inception else None,
    )
    generators = {str(path): load_generator(path).to(device) for path in options.checkpoints}
    multiple = max(generator.multiple for generator in generators.values())
    transform = Transform(
        options.preprocess,
        load_size=options.load_size,
        crop_size=options.crop_size,
        flip=False,
        multiple=max(4, multiple),
    )
    mode = options.dataset_mode or ("aligned" if options.paired else MODEL_DEFAULTS[options.model]["dataset_mode"])
    data = DataOptions(
        transform, options.phase, options.direction, serial=True, limit=options.limit, scale=options.scale
    )
    samples = list(read_samples(make_dataset(mode, options.dataroot, data)))
    targets = [task.target(sample) for sample in samples]
    is_paired = task.is_paired or options.paired
    painters = task.baselines(targets) | {name: task.painter(generator) for name, generator in generators.items()}
    of_targets = features_of(judges, targets)
    table = {name: measure(p, samples, targets, of_targets, judges, paired=is_paired) for name, p in painters.items()}
    _print(table, count=len(samples))
    _keep_best(options, {name: values for name, values in table.items() if name in generators})
    if options.json:
        options.json.write_text(json.dumps({"images": len(samples), "results": table}, indent=2) + "\n")
    if options.pictures:
        columns: dict[str, list[Tensor]] = {}
        for sample, target in list(zip(samples, targets, strict=True))[:4]:
            for name, paint in painters.items():
                label = "/".join(Path(name).parts[-2:]) if name in generators else name
                columns.setdefault(label.removesuffix(".pth"), []).append(paint(sample))
            columns.setdefault("target", []).append(target)
        Gallery(options.pictures, title="evaluation").add(
            {n: torch.cat(c) for n, c in columns.items()}, step=0, epoch=0
        )
    return table


def _print(table: dict[str, dict[str, float]], *, count: int) -> None:
    metrics = list(next(iter(table.values())))
    width = max(len(name) for name in table) + 2
    print(f"{count} images; up: more is better" if count else "")
    print(f"{'':<{width}}" + "".join(f"{metric:>12}" for metric in metrics))
    for name, values in table.items():
        print(f"{name:<{width}}" + "".join(f"{values[metric]:>12.4f}" for metric in metrics))


def _keep_best(options: argparse.Namespace, table: dict[str, dict[str, float]]) -> None:
    """Names the best checkpoint by `--best`, and copies it to `--keep_best`."""
    if not options.best:
        return
    if any(options.best not in values for values in table.values()):
        raise EngineError(f"--best {options.best} was not measured: it needs pairs, or the weights of its network")
    sign = 1 if METRICS[options.best] else -1
    best = min(table, key=lambda name: sign * table[name][options.best])
    print(f"best by {options.best}: {best}")
    if options.keep_best:
        shutil.copyfile(best, options.keep_best)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Measures trained generators on held-out images."
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--dataroot", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", choices=[name for name in MODEL_DEFAULTS if name != "style"], required=True)
    parser.add_argument("--phase", default="test", help="folder of the images (default: %(default)s)")
    parser.add_argument("--direction", choices=("AtoB", "BtoA"), default="AtoB")
    parser.add_argument("--dataset_mode", help="(default: the model's)")
    parser.add_argument("--paired", action="store_true", help="cycle_gan on images that do have pairs")
    parser.add_argument("--preprocess", choices=PREPROCESS_MODES, default="none")
    parser.add_argument("--load_size", type=int, default=286)
    parser.add_argument("--crop_size", type=int, default=256)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--limit", type=int, metavar="N", help="only N images")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--st_lpips", type=Path, metavar="FILE", help="weights: stlpips-pytorch's vgg_shift_tolerant.pth"
    )
    parser.add_argument("--efficientnet", type=Path, metavar="FILE", help="weights: efficientnet-lite0-57934424.pth")
    parser.add_argument("--inception", type=Path, metavar="FILE", help="weights of FID's Inception network")
    parser.add_argument("--best", choices=list(METRICS), help="name the best checkpoint by this metric")
    parser.add_argument("--keep_best", type=Path, metavar="FILE", help="and copy it there")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write a grid of the first four")
    return parser


if __name__ == "__main__":
    sys.exit(main())
