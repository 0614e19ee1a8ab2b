"""Measures trained generators on held-out images.

    python -m training.evaluate CHECKPOINT... --dataroot DIR --model MODEL

PSNR, SSIM and the perceptual distance compare each picture with its target and need pairs; the Fréchet distance
compares the set of pictures with the set of targets and does not. The table lists baselines beside the checkpoints: the
input itself, the mean colour of the targets, or the bicubic enlargement.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine import load_generator
from engine.command_line import command_name, errors_in_one_line
from engine.device import choose_device
from engine.errors import EngineError
from engine.generators import Generator
from training.data import Transform, open_dataset
from training.data.transforms import from_lab
from training.frechet import EfficientNetLite0, Features, frechet_distance, load_inception
from training.gallery import Gallery, to_pictures
from training.metrics import mean_quality
from training.options import HelpFormatter, add_data_options, add_teacher_options, parse_options
from training.perceptual import StLpips
from training.presets import MODEL_DEFAULTS
from training.results import ResultPage, name_of

# Metric -> whether less is better.
METRICS = {"psnr": False, "ssim": False, "st_lpips": True, "frechet": True, "fid": True}

Sample = dict[str, Tensor]
"""A sample of `training.data.datasets` as a batch of one."""
Painter = Callable[[Sample], Tensor]
"""A sample -> RGB [1, 3, H, W] in [-1, 1]."""


@dataclasses.dataclass(frozen=True)
class Judges:
    """The networks that metrics need; a metric without its network is left out."""

    st_lpips: StLpips | None
    features: dict[str, Callable[[Tensor], Tensor]]
    """Distance between sets -> the network that it takes features from."""

    def features_of(self, images: Sequence[Tensor]) -> dict[str, Features]:
        """Distance -> features of a set of images, RGB [1, 3, H, W] in [-1, 1]."""
        with torch.inference_mode():
            return {
                name: torch.cat([network(image.float()) for image in images]).double().numpy()
                for name, network in self.features.items()
            }

    def measure(
        self,
        outputs: Sequence[Tensor],
        targets: Sequence[Tensor],
        target_features: dict[str, Features],
        *,
        paired: bool,
    ) -> dict[str, float]:
        """Metrics of images against their targets, all RGB [1, 3, H, W] in [-1, 1]."""
        values: dict[str, float] = {}
        if paired:
            values |= mean_quality([to_pictures(o)[0] for o in outputs], [to_pictures(t)[0] for t in targets])
            if self.st_lpips is not None:
                distances = [self.st_lpips(o, t) for o, t in zip(outputs, targets, strict=True)]
                values["st_lpips"] = float(torch.cat(distances).mean())
        for name, features in self.features_of(outputs).items():
            values[name] = frechet_distance(features, target_features[name])
        return values


def show(model: str, sample: Sample, image: Tensor) -> Tensor:
    """A target or an output of a generator as RGB in [-1, 1]."""
    if model == "colorization":
        return from_lab(sample["A"].cpu(), image)
    return (image * 2 - 1 if model == "super_resolution" else image).clamp(-1, 1)


def painter(model: str, generator: Generator, device: torch.device) -> Painter:
    """The generator's pictures."""

    @torch.inference_mode()
    def paint(sample: Sample) -> Tensor:
        return show(model, sample, generator(sample["A"].to(device)).float().cpu())

    return paint


def baselines(model: str, targets: Sequence[Tensor]) -> dict[str, Painter]:
    """Name -> pictures that need no training."""
    if model == "super_resolution":
        return {"bicubic": _bicubic}
    mean = torch.stack([target.mean(dim=(2, 3)) for target in targets]).mean(dim=0)[..., None, None]
    found: dict[str, Painter] = {"mean colour": lambda sample: mean.expand(1, 3, *sample["B"].shape[2:])}
    if model == "colorization":
        return found | {"grey": lambda sample: from_lab(sample["A"], torch.zeros_like(sample["B"]))}
    return found | {"input": lambda sample: sample["A"]}


def _bicubic(sample: Sample) -> Tensor:
    enlarged = F.interpolate(sample["A"], sample["B"].shape[2:], mode="bicubic", align_corners=False)
    # rounded as a picture is
    return enlarged.clamp(0, 1).mul(255).round().div(255) * 2 - 1


@errors_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _make_parser().parse_args(arguments)
    evaluate(options)
    return 0


def evaluate(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measures all checkpoints, prints a table, and returns it: name -> metric -> value."""
    device, model = choose_device(options.device), options.model
    features: dict[str, Callable[[Tensor], Tensor]] = {}
    if options.efficientnet:
        features["frechet"] = EfficientNetLite0.load(options.efficientnet)
    if options.inception:
        features["fid"] = load_inception(options.inception)
    judges = Judges(StLpips.load(options.st_lpips) if options.st_lpips else None, features)
    generators = {str(path): load_generator(path).to(device) for path in options.checkpoints}
    transform = Transform(
        options.preprocess,
        load_size=options.load_size,
        crop_size=options.crop_size,
        flip=False,
        multiple=max(4, *(generator.multiple for generator in generators.values())),
    )
    default_mode = "aligned" if options.paired else parse_options(["--dataroot", ".", "--model", model]).dataset_mode
    options.dataset_mode = options.dataset_mode or default_mode
    options.pairs_dir = options.pairs_dir or options.checkpoints[0].parent
    dataset = open_dataset(options, transform, phase=options.phase)
    samples = [{name: tensor[None] for name, tensor in dataset[0, n].items()} for n in range(len(dataset))]
    targets = [show(model, sample, sample["B"]) for sample in samples]
    painters = {name: painter(model, generator, device) for name, generator in generators.items()}
    painters = baselines(model, targets) | painters
    of_targets = judges.features_of(targets)
    is_paired = model not in ("cycle_gan", "cut") or options.paired
    table = {
        name: judges.measure([paint(sample) for sample in samples], targets, of_targets, paired=is_paired)
        for name, paint in painters.items()
    }
    _print(table, count=len(samples))
    _keep_best(options, {name: values for name, values in table.items() if name in generators})
    if options.json:
        options.json.write_text(json.dumps({"images": len(samples), "results": table}, indent=2) + "\n")
    if options.results_dir:
        for name in generators:
            folder = options.results_dir / Path(name).parent.name / f"{options.phase}_{Path(name).stem}"
            page = ResultPage(folder, title=f"{name}, {options.phase} images")
            for number, (sample, target) in enumerate(zip(samples, targets, strict=True)):
                shown = {"fake_B": painters[name](sample), "real_B": target}
                if model not in ("colorization", "super_resolution"):
                    shown = {"real_A": sample["A"], **shown}
                page.add(name_of(dataset, options.dataroot, number, options.phase), shown)
            print(f"results in {page.write()}")
    if options.pictures:
        columns = {
            "/".join(Path(name).parts[-2:]).removesuffix(".pth"): torch.cat([paint(sample) for sample in samples[:4]])
            for name, paint in painters.items()
        }
        shown = {**columns, "target": torch.cat(targets[:4])}
        Gallery(options.pictures, title="evaluation").add(shown, step=0, epoch=0)
    return table


def _print(table: dict[str, dict[str, float]], *, count: int) -> None:
    metrics = list(next(iter(table.values())))
    width = max(len(name) for name in table) + 2
    print(f"{count} images; psnr and ssim: higher is better, others: lower is better")
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
        prog=command_name("training.evaluate"),
        usage="%(prog)s CHECKPOINT [CHECKPOINT ...] --model MODEL --dataroot DIR [options]",
        description="Measures trained generators on held-out images.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="generators to compare")
    add("--model", choices=[name for name in MODEL_DEFAULTS if name != "style"], required=True)
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--st_lpips", type=Path, metavar="FILE", help="weights: stlpips-pytorch's vgg_shift_tolerant.pth")
    add("--efficientnet", type=Path, metavar="FILE", help="weights: efficientnet-lite0-57934424.pth")
    add("--inception", type=Path, metavar="FILE", help="weights of FID's Inception network")
    add("--best", choices=list(METRICS), help="name the best checkpoint by this metric")
    add("--keep_best", type=Path, metavar="FILE", help="copy the best checkpoint to this file")
    add("--json", type=Path, metavar="FILE", help="write the table")
    add("--pictures", type=Path, metavar="FOLDER", help="write a grid of the first four")
    add("--results_dir", type=Path, metavar="DIR", help="write pages of all pictures, as training.test does")
    group = parser.add_argument_group("data")
    group.add_argument("--phase", default="test", help="folder of the images")
    group.add_argument("--paired", action="store_true", help="cycle_gan on images that do have pairs")
    add_data_options(group)
    add_teacher_options(parser.add_argument_group("distillation"))
    parser.set_defaults(serial_batches=True, cache_mb=0, num_threads=0, seed=0, preprocess="none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
