"""Runs the networks of a run on its test images: python -m training.test --dataroot DIR --name NAME --model MODEL.

Options and files are those of the reference's test.py: RESULTS_DIR/NAME/PHASE_EPOCH/index.html, images/*_fake_B.png.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from engine import load_generator
from engine.command_line import command_name, errors_in_one_line
from engine.device import choose_device
from engine.errors import EngineError
from engine.generators import Generator
from training.data import Transform, open_dataset
from training.data.transforms import from_lab
from training.options import make_parser
from training.presets import MODEL_DEFAULTS
from training.reference_options import Parser, translated
from training.results import ResultPage, name_of

# Model -> its generators.
_GENERATORS = {
    "cycle_gan": ("G_A", "G_B"),
    "cut": ("G",),
    "pix2pix": ("G",),
    "colorization": ("G",),
    "test": ("G",),
}


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; options of training that say how networks are built are taken, and read from the files."""
    parser = _make_parser()
    given = translated(arguments, parser)
    choices = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    choices.add_argument("--model", default="cycle_gan")
    model = choices.parse_known_args(given)[0].model
    mode = argparse.ArgumentParser(add_help=False)
    mode.add_argument("--dataset_mode")
    default = mode.parse_known_args(MODEL_DEFAULTS.get(model, "--dataset_mode single").split())[0].dataset_mode
    parser.set_defaults(dataset_mode=default, load_size=None)
    options = parser.parse_args(given)
    options.load_size = options.load_size or options.crop_size
    if options.name in ("", ".", "..") or Path(options.name).name != options.name:
        parser.error(f"--name {options.name} is no name of a folder in --checkpoints_dir")
    return options


@errors_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parse_options(arguments)
    print(f"results in {test(options)}")
    return 0


def test(options: argparse.Namespace) -> Path:
    """Translates the test images and returns the page. Raises EngineError where files are missing or don't fit."""
    device = choose_device(options.device)
    torch.manual_seed(options.seed)
    folder = options.checkpoints_dir / options.name
    names = _GENERATORS[options.model]
    suffix = options.model_suffix if options.model == "test" else ""
    generators = [_ready(folder / f"{options.epoch}_net_{n}{suffix}.pth", options, device) for n in names]
    options.input_nc, options.output_nc = generators[0].config.in_channels, generators[0].config.out_channels
    transform = Transform(
        options.preprocess,
        load_size=options.load_size,
        crop_size=options.crop_size,
        flip=False,
        multiple=math.lcm(4, *(generator.multiple for generator in generators)),
    )
    dataset = open_dataset(options, transform, phase=options.phase)
    phase = f"{options.phase}_{options.epoch}"
    title = f"{options.name}, {options.phase} images, networks of epoch {options.epoch}"
    page = ResultPage(options.results_dir / options.name / phase, title=title, width=options.display_winsize)
    for index in range(min(len(dataset), options.num_test)):
        sample = {name: tensor[None].to(device) for name, tensor in dataset[0, index].items()}
        name = name_of(dataset, options.dataroot, index, options.phase)
        with torch.inference_mode():
            page.add(name, _visuals(options.model, generators, sample), aspect_ratio=options.aspect_ratio)
    return page.write()


def _ready(path: Path, options: argparse.Namespace, device: torch.device) -> Generator:
    """A generator in the mode that test.py runs it in."""
    if not path.is_file():
        raise EngineError(f"there is no {path}: --name, --epoch and --model say which networks are tested")
    generator = load_generator(path).to(device)
    if not options.eval and options.model not in ("cycle_gan", "cut"):
        # test.py without --eval: statistics of the picture, and dropout.
        for layer in generator.modules():
            if isinstance(layer, (nn.BatchNorm2d, nn.Dropout)):
                layer.train()
    return generator


def _visuals(model: str, generators: Sequence[Generator], sample: dict[str, Tensor]) -> dict[str, Tensor]:
    there, a = generators[0], sample["A"]
    fake = there(a)
    if model == "cycle_gan":
        back, b = generators[1], sample["B"]
        other = back(b)
        shown = {"real_A": a, "fake_B": fake, "rec_A": back(fake), "real_B": b, "fake_A": other, "rec_B": there(other)}
    elif model == "colorization":
        grey = from_lab(a, torch.zeros_like(fake))
        shown = {"real_A": grey, "real_B_rgb": from_lab(a, sample["B"]), "fake_B_rgb": from_lab(a, fake)}
    elif model == "test":
        shown = {"real": a, "fake": fake}
    else:
        shown = {"real_A": a, "fake_B": fake, "real_B": sample["B"]}
    return shown


def _make_parser() -> Parser:
    parser = make_parser()
    parser.prog = command_name("training.test")
    parser.usage = "%(prog)s --dataroot DIR --name NAME --model MODEL [options]"
    parser.description = "Runs the networks of a run on its test images and writes a page of the results."
    parser.epilog = None
    for action in parser._actions:
        if action.dest == "model":
            action.choices, action.help = list(_GENERATORS), "test: one generator on a folder of images"
    add = parser.add_argument
    add("--results_dir", type=Path, default=Path("results"), metavar="DIR", help="the page is DIR/NAME/PHASE_EPOCH")
    add("--num_test", type=int, default=50, metavar="N", help="test only N images")
    add("--aspect_ratio", type=float, default=1.0, help="multiplies the width of the written pictures")
    add("--eval", action="store_true", help="pix2pix: BatchNorm's saved statistics, no dropout")
    add("--model_suffix", default="", help="--model test: _A takes latest_net_G_A.pth")
    add("--display_winsize", type=int, default=256, help="pixels of the pictures' width on the page")
    parser.set_defaults(model="cycle_gan", phase="test", serial_batches=True, cache_mb=0, num_threads=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
