"""The options of `python -m training.train`: names and defaults of the reference CycleGAN/pix2pix implementation.

Defaults come in three layers: the general ones, those of the model, and those of a preset (both in `training.presets`).
An option on the command line overrides all of them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.command_line import command_name
from training.data import DATASET_MODES, PREPROCESS_MODES
from training.discriminators import DISCRIMINATORS
from training.losses import GAN_MODES, PIXEL_LOSSES
from training.networks import GENERATORS, INIT_TYPES, NORMS
from training.presets import MODEL_DEFAULTS, PRESETS
from training.reference_options import Parser, translated
from training.schedules import POLICIES

_EXAMPLES = """examples:
  python -m training.train --model cycle_gan --dataroot data/horse2zebra --name horses
  python -m training.train --model pix2pix --dataroot data/maps --name maps
  python -m training.train --model colorization --dataroot data/photos --name colours
  python -m training.train --model super_resolution --dataroot data/photos --name x2 --scale 2 --lambda_gan 0
  python -m training.train --model style --dataroot data/photos --name wave --style_image wave.jpg --vgg vgg16.pth
  python -m training.train --model distillation --dataroot data/photos --name vermilion \\
      --teacher multistyle26.onnx --teacher_style 4
  python -m training.train --preset esrgan --dataroot data/photos --name x4
  python -m training.train --model pix2pix --dataroot data/maps --name maps --continue_train
"""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds the default to the help of every option that has one."""

    def add_argument(self, action: argparse.Action) -> None:
        has_default = action.default not in (None, "", argparse.SUPPRESS) and not isinstance(action.default, bool)
        if has_default and "(default" not in (action.help or ""):
            action.help = f"{action.help or ''} (default: %(default)s)".lstrip()
        super().add_argument(action)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace, with the defaults of model and preset."""
    parser = make_parser()
    arguments = translated(arguments, parser)
    choices = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--model", "--preset", "--max_steps"):
        choices.add_argument(name, default="")
    chosen, _ = choices.parse_known_args(arguments)
    preset = PRESETS.get(chosen.preset, "").split()
    model = chosen.model or choices.parse_known_args(preset)[0].model
    defaults = [*MODEL_DEFAULTS.get(model, "").split(), *preset]
    parser.set_defaults(**vars(parser.parse_args(["--dataroot", ".", *defaults])))
    parser.set_defaults(model=model or None, dataroot=None)
    if chosen.max_steps:
        parser.set_defaults(max_minutes=None)
    options = parser.parse_args(arguments)
    if options.model is None:
        parser.error("--model or --preset is needed")
    if options.name in ("", ".", "..") or Path(options.name).name != options.name:
        parser.error(f"--name {options.name} is no name of a folder in --checkpoints_dir")
    for name in ("input_nc", "output_nc"):
        channels, any_mode = getattr(options, name), ("unaligned", "aligned", "single")
        accepted = (1, 3, 4) if options.dataset_mode in any_mode else (3,)
        if options.model != "colorization" and channels not in accepted:
            text = " and ".join(str(number) for number in accepted)
            parser.error(f"--{name} {channels}: --dataset_mode {options.dataset_mode} takes {text}")
    return options


def make_parser() -> Parser:
    """The parser of all options, without the defaults of a model."""
    parser = Parser(
        allow_abbrev=False,
        prog=command_name("training.train"),
        usage="%(prog)s --model MODEL --dataroot DIR --name NAME [options]",
        description="Trains an image-to-image generator. --model MODEL --help shows the defaults of that model.",
        epilog=_EXAMPLES,
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=list(MODEL_DEFAULTS), help="what to train (default: the preset's)")
    add("--preset", choices=list(PRESETS), help="published recipe, layer by layer")
    add("--name", default="experiment", help="name of the run; its files go into CHECKPOINTS_DIR/NAME")
    add("--checkpoints_dir", type=Path, default=Path("checkpoints"), metavar="DIR", help="folder of all runs")
    add("--continue_train", action="store_true", help="go on from the last saved state, or from networks alone")
    add("--restart", action="store_true", help="start again in a folder that holds networks: they are overwritten")
    add("--epoch", default="latest", help="networks that --continue_train takes where there is no state")
    add("--epoch_count", type=_positive, default=1, metavar="N", help="number of the first epoch, for the schedule")
    add("--phase", default="train", help="folder of the images")
    add("--seed", type=int, default=0, help="for weights, order, crops and noise")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")

    add_data_options(parser.add_argument_group("data"))
    add = parser.add_argument_group("batches").add_argument
    add("--no_flip", action="store_true", help="don't mirror half of the images")
    add("--serial_batches", action="store_true", help="keep the order of the images, don't shuffle")
    add("--batch_size", type=_positive, default=1, help="images of a step, over all processes")
    add("--num_threads", type=int, default=0, help="processes that decode images")
    add("--no_check", action="store_true", help="don't read all images before the first step")
    add("--cache_mb", type=int, default=1024, help="memory for decoded images")

    add = parser.add_argument_group("networks").add_argument
    add("--netG", default="resnet_9blocks", help=GENERATORS)
    add("--netD", choices=DISCRIMINATORS, default="basic")
    add("--ngf", type=_positive, default=64, help="channels after the generator's first convolution")
    add("--ndf", type=_positive, default=64, help="channels after the discriminator's first convolution")
    add("--n_layers_D", type=_positive, default=3, help="for --netD n_layers; 1, 3, 5 see 16, 70, 286 pixels")
    add("--n_blocks", type=_positive, help="residual blocks of srresnet and rrdbnet (default: 16 and 23)")
    add("--norm", choices=NORMS, default="instance")
    add("--no_dropout", action="store_true", help="no dropout in the generator; cycle_gan and distillation have none")
    add("--upsampling", choices=("transposed", "nearest", "blur"), default="transposed", help="for resnet_*")
    add("--downsampling", choices=("strided", "blur"), default="strided", help="for resnet_*, netD basic and n_layers")
    add("--no_antialias", dest="downsampling", action="store_const", const="strided", help="the same as strided")
    add("--no_antialias_up", dest="upsampling", action="store_const", const="transposed", help="the same as transposed")
    add("--downsampling_padding", choices=("zeros", "reflect"), default="zeros", help="for resnet_*")
    add("--init_type", choices=INIT_TYPES, default="normal")
    add("--init_gain", type=float, default=0.02)
    add("--pretrained", type=Path, metavar="FILE", help="checkpoint that the generator starts from; not for cycle_gan")
    add("--input_nc", type=_positive, default=3, help="channels of the input")
    add("--output_nc", type=_positive, default=3, help="channels of the output")

    add = parser.add_argument_group("losses").add_argument
    add("--gan_mode", choices=GAN_MODES, default="lsgan")
    add("--real_label", type=float, default=1.0, help="0.9: one-sided label smoothing")
    add("--fake_label", type=float, default=0.0)
    add(
        "--lambda_gan",
        "--lambda_GAN",
        dest="lambda_gan",
        type=float,
        default=1.0,
        help="weight of the adversarial loss; 0: no discriminator",
    )
    add("--lambda_L1", "--lambda_pixel", dest="lambda_pixel", type=float, default=100.0, help="weight of --pixel_loss")
    add("--pixel_loss", choices=list(PIXEL_LOSSES), default="l1", help="for cycle and identity losses too")
    add("--pool_size", type=int, default=0, help="images of the discriminator's history")
    add("--lambda_perceptual", type=float, help="super_resolution: VGG features (default: 1 with --vgg, else 0)")
    add("--vgg", type=Path, metavar="FILE", help="super_resolution, style: VGG weights, torchvision's or ST-LPIPS's")

    add = parser.add_argument_group("cycle_gan").add_argument
    add("--lambda_A", type=float, default=10.0, help="weight of the cycle A -> B -> A")
    add("--lambda_B", type=float, default=10.0, help="weight of the cycle B -> A -> B")
    add("--lambda_identity", type=float, default=0.5, help="times --lambda_A or _B; 0: no identity loss")
    add("--discriminator_first", action="store_true", help="update the discriminators before the generators")
    add("--average_pairs", action="store_true", help="average the two directions instead of adding them")

    add = parser.add_argument_group("cut").add_argument
    add("--lambda_NCE", type=float, default=1.0, help="weight of PatchNCE")
    add("--nce_idt", type=_truth, default=True, metavar="BOOL", help="PatchNCE of B and G(B) too")
    add(
        "--nce_layers",
        type=_numbers,
        default=[0, 4, 8, 12, 16],
        metavar="N,...",
        help="layers of G (default: 0,4,8,12,16)",
    )
    add("--nce_T", type=_positive_float, default=0.07, help="temperature of PatchNCE")
    add("--num_patches", type=_positive, default=256, help="places per layer")
    add("--netF", choices=("mlp_sample", "sample"), default="mlp_sample", help="sample: no projection is learned")
    add("--netF_nc", type=_positive, default=256, help="channels of the projection")
    add(
        "--flip_equivariance",
        type=_truth,
        nargs="?",
        const=True,
        default=False,
        metavar="BOOL",
        help="mirror half of the steps",
    )

    add = parser.add_argument_group("style").add_argument
    add("--style_image", type=Path, metavar="FILE", help="painting to learn")
    add("--lambda_content", type=float, default=1.0)
    add("--lambda_style", type=float, default=10.0)
    add("--lambda_tv", type=float, default=0.0, help="weight of the total variation")
    add("--lambda_temporal", type=float, default=0.0, help="needs --dataset_mode frames")

    group = parser.add_argument_group("distillation")
    add_teacher_options(group)
    for name, text in (
        ("--description", "the style in one line"),
        ("--trained_on", "the pictures in words"),
        ("--licence", "licence of the generator"),
        ("--author", "whom to name, the teacher's authors too"),
    ):
        group.add_argument(name, default="", help=f"{text}; kept in NAME.safetensors")

    add = parser.add_argument_group("schedule").add_argument
    add("--n_epochs", type=int, default=100, help="epochs at the first learning rate")
    add("--n_epochs_decay", type=int, default=100, help="epochs in which the learning rate falls to 0")
    add("--max_steps", type=_positive, help="fit the schedule to this number of steps")
    add("--max_minutes", type=_positive_float, help="fit the schedule to this number of minutes")
    add("--lr", type=float, default=2e-4, help="learning rate")
    add("--beta1", type=float, default=0.5, help="of Adam")
    add("--beta2", type=float, default=0.999, help="of Adam")
    add("--lr_policy", choices=POLICIES, default="linear")
    add("--lr_decay_iters", type=_positive, default=50, help="epochs between steps of --lr_policy step")
    add("--warmup_steps", type=int, default=0, help="steps in which the learning rate rises from 0")

    add = parser.add_argument_group("output").add_argument
    add("--save_latest_freq", type=_positive, default=1000, metavar="STEPS", help="save networks and state")
    add("--save_epoch_freq", type=_positive, default=10, metavar="EPOCHS", help="keep the networks of these epochs")
    add("--display_freq", type=_positive, default=200, metavar="STEPS", help="add a picture of samples to the gallery")
    add("--print_freq", type=_positive, default=50, metavar="STEPS", help="print and log the losses")
    add("--ema", type=float, default=0.0, metavar="DECAY", help="0.999: save a moving average of the generator too")
    add("--no_tensorboard", action="store_true", help="write no TensorBoard files")

    add = parser.add_argument_group("speed").add_argument
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    add("--compile", action="store_true", help="use torch.compile, worth its minute in long runs; distillation does")
    add("--no_compile", dest="compile", action="store_false", help="don't: slower, but needs no C++ compiler")
    add("--threads", type=_positive, help="threads of the CPU (default: torch's choice)")
    return parser


def add_data_options(group: Any) -> None:
    """Adds the options of datasets, which `training.evaluate` has too."""
    add = group.add_argument
    add("--dataroot", type=Path, required=True, metavar="DIR", help="folder of the images")
    add("--dataset_mode", choices=DATASET_MODES, help="form of the data (default: the model's)")
    add("--direction", choices=("AtoB", "BtoA"), default="AtoB")
    add("--preprocess", choices=PREPROCESS_MODES, default="resize_and_crop")
    add("--load_size", type=_positive, default=286, help="pixels after resizing")
    add("--crop_size", type=_positive, default=256, help="pixels after cropping")
    add("--max_dataset_size", "--limit", type=_positive, metavar="N", help="take only N images of a folder")
    add("--scale", type=int, choices=(2, 3, 4), default=4, help="factor of super-resolution")


def add_teacher_options(group: Any) -> None:
    """Adds the options of `--dataset_mode distillation`."""
    add = group.add_argument
    add("--teacher", type=Path, metavar="FILE", help="checkpoint, or style network in ONNX, that paints the pictures")
    add("--teacher_style", type=int, metavar="K", help="number of the style of a network in ONNX")
    add(
        "--more_images",
        type=Path,
        nargs="+",
        default=(),
        metavar="DIR",
        help="folders beside --dataroot (default: none)",
    )
    add("--crops", type=_positive, default=3600, help="crops that the teacher paints")
    add("--input_noise", type=float, default=4.0, help="largest deviation of the inputs' noise, in uint8 steps")
    add("--pairs_dir", type=Path, metavar="DIR", help="folder that painted crops are kept in (default: the run's)")


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "yes", "no", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text} is neither true nor false")
    return text.lower() in ("true", "yes", "1")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _positive_float(text: str) -> float:
    if not 0.0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
