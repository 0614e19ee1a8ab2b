"""The options of `python -m training.train`: names and defaults of the reference CycleGAN/pix2pix implementation.

Defaults come in three layers: these, then those of the model (`MODEL_DEFAULTS`), then a preset's (`training.presets`);
what is given on the command line wins.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.data import DATASET_MODES, PREPROCESS_MODES
from training.discriminators import DISCRIMINATORS
from training.losses import GAN_MODES, PIXEL_LOSSES
from training.networks import GENERATORS, INIT_TYPES, NORMS
from training.presets import PRESETS
from training.schedules import POLICIES

MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    "cycle_gan": {"dataset_mode": "unaligned", "netG": "resnet_9blocks", "norm": "instance", "pool_size": 50},
    "pix2pix": {"dataset_mode": "aligned", "netG": "unet_256", "norm": "batch", "gan_mode": "vanilla", "pool_size": 0},
    "colorization": {
        "dataset_mode": "colorization",
        "netG": "unet_256",
        "norm": "batch",
        "gan_mode": "vanilla",
        "pool_size": 0,
    },
    "super_resolution": {
        "dataset_mode": "super_resolution",
        "netG": "srresnet",
        "netD": "vgg",
        "norm": "batch",
        "gan_mode": "vanilla",
        "init_type": "default",
        "preprocess": "crop",
        "crop_size": 128,
        "batch_size": 16,
        "lambda_pixel": 1.0,
        "lambda_gan": 1e-3,
        "lr_policy": "step",
        "beta1": 0.9,
    },
    "style": {
        "dataset_mode": "single",
        "netG": "transformer",
        "init_type": "default",
        "batch_size": 4,
        "lr": 1e-3,
        "lr_policy": "constant",
        "n_epochs": 2,
        "n_epochs_decay": 0,
        "beta1": 0.9,
    },
}


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace, defaults of model and preset filled in."""
    parser = _make_parser()
    first, _ = parser.parse_known_args(arguments)
    preset = PRESETS.get(first.preset or "", {})
    model = first.model or preset.get("model")
    if model is None:
        parser.error("--model or --preset is needed")
    parser.set_defaults(**MODEL_DEFAULTS[model])
    parser.set_defaults(**preset)
    options = parser.parse_args(arguments)
    options.model = model if first.model is None else first.model
    return options


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description="Trains an image-to-image generator. Defaults differ by --model and --preset.",
    )
    parser.add_argument("--dataroot", type=Path, required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--name", default="experiment", help="of the run; its files go into CHECKPOINTS_DIR/NAME")
    parser.add_argument("--model", choices=list(MODEL_DEFAULTS))
    parser.add_argument("--preset", choices=list(PRESETS), help="a published recipe, layer by layer")
    parser.add_argument("--checkpoints_dir", type=Path, default=Path("checkpoints"), metavar="DIR")
    parser.add_argument("--continue_train", action="store_true", help="go on from the last saved state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    _add_network_options(parser.add_argument_group("networks"))
    _add_loss_options(parser.add_argument_group("losses"))
    _add_data_options(parser.add_argument_group("data"))
    _add_schedule_options(parser.add_argument_group("schedule"))
    _add_output_options(parser.add_argument_group("what is written"))
    _add_speed_options(parser.add_argument_group("speed"))
    return parser


def _add_network_options(group: Any) -> None:
    group.add_argument("--netG", default="resnet_9blocks", help=GENERATORS)
    group.add_argument("--netD", choices=DISCRIMINATORS, default="basic")
    group.add_argument("--ngf", type=_positive, default=64, help="channels after the generator's first convolution")
    group.add_argument("--ndf", type=_positive, default=64, help="the same of the discriminator")
    group.add_argument(
        "--n_layers_D", type=_positive, default=3, help="with --netD n_layers; 1, 3, 5: 16, 70, 286 pixels"
    )
    group.add_argument("--n_blocks", type=_positive, help="residual blocks of srresnet and rrdbnet")
    group.add_argument("--norm", choices=NORMS, default="instance")
    group.add_argument("--no_dropout", action="store_true", help="none in the generator (cycle_gan has none anyway)")
    group.add_argument("--upsampling", choices=("transposed", "nearest"), default="transposed", help="of resnet_*")
    group.add_argument("--downsampling_padding", choices=("zeros", "reflect"), default="zeros", help="of resnet_*")
    group.add_argument("--init_type", choices=INIT_TYPES, default="normal")
    group.add_argument("--init_gain", type=float, default=0.02)
    group.add_argument(
        "--pretrained", type=Path, metavar="FILE", help="a checkpoint that the generator starts from; not of cycle_gan"
    )
    group.add_argument("--input_nc", type=_positive, default=3)
    group.add_argument("--output_nc", type=_positive, default=3)


def _add_loss_options(group: Any) -> None:
    group.add_argument("--gan_mode", choices=GAN_MODES, default="lsgan")
    group.add_argument("--real_label", type=float, default=1.0, help="0.9: one-sided label smoothing")
    group.add_argument("--fake_label", type=float, default=0.0)
    group.add_argument("--lambda_gan", type=float, default=1.0, help="weight of the adversarial loss; 0: none at all")
    group.add_argument("--lambda_A", type=float, default=10.0, help="cycle A -> B -> A")
    group.add_argument("--lambda_B", type=float, default=10.0, help="cycle B -> A -> B")
    group.add_argument("--lambda_identity", type=float, default=0.5, help="times --lambda_A or _B; 0: off")
    group.add_argument("--lambda_L1", "--lambda_pixel", dest="lambda_pixel", type=float, default=100.0)
    group.add_argument("--pixel_loss", choices=list(PIXEL_LOSSES), default="l1", help="also of cycle and identity")
    group.add_argument("--lambda_perceptual", type=float, help="(default: 1 with --vgg, else 0)")
    group.add_argument("--vgg", type=Path, metavar="FILE", help="VGG weights: torchvision's, or ST-LPIPS's")
    group.add_argument("--style_image", type=Path, metavar="FILE", help="what --model style paints like")
    group.add_argument("--lambda_content", type=float, default=1.0)
    group.add_argument("--lambda_style", type=float, default=10.0)
    group.add_argument("--lambda_tv", type=float, default=0.0, help="total variation")
    group.add_argument("--lambda_temporal", type=float, default=0.0, help="with --dataset_mode frames")
    group.add_argument("--pool_size", type=int, default=0, help="images of the discriminator's history")
    group.add_argument("--discriminator_first", action="store_true", help="its step comes before the generator's")
    group.add_argument("--average_pairs", action="store_true", help="the two directions are averaged, not summed")


def _add_data_options(group: Any) -> None:
    group.add_argument("--dataset_mode", choices=DATASET_MODES, default="unaligned")
    group.add_argument("--direction", choices=("AtoB", "BtoA"), default="AtoB")
    group.add_argument("--preprocess", choices=PREPROCESS_MODES, default="resize_and_crop")
    group.add_argument("--load_size", type=_positive, default=286)
    group.add_argument("--crop_size", type=_positive, default=256)
    group.add_argument("--no_flip", action="store_true")
    group.add_argument("--serial_batches", action="store_true", help="in order, not shuffled")
    group.add_argument("--batch_size", type=_positive, default=1, help="over all processes")
    group.add_argument("--num_threads", type=int, default=0, help="processes that decode images (default: none)")
    group.add_argument("--cache_mb", type=int, default=1024, help="decoded images kept in memory")
    group.add_argument("--max_dataset_size", type=_positive, metavar="N", help="take N images of a folder")
    group.add_argument("--scale", type=int, choices=(2, 3, 4), default=4, help="of super-resolution")


def _add_schedule_options(group: Any) -> None:
    group.add_argument("--n_epochs", type=int, default=100, help="at the first learning rate")
    group.add_argument("--n_epochs_decay", type=int, default=100, help="down to 0")
    group.add_argument("--max_steps", type=_positive, help="the schedule is stretched or shrunk to so many steps")
    group.add_argument("--max_minutes", type=float, help="the schedule is fitted to so many minutes")
    group.add_argument("--lr", type=float, default=2e-4)
    group.add_argument("--beta1", type=float, default=0.5)
    group.add_argument("--lr_policy", choices=POLICIES, default="linear")
    group.add_argument("--lr_decay_iters", type=_positive, default=50, help="epochs between steps of --lr_policy step")


def _add_output_options(group: Any) -> None:
    group.add_argument("--save_latest_freq", type=_positive, default=1000, metavar="STEPS")
    group.add_argument(
        "--save_epoch_freq", type=_positive, default=10, metavar="EPOCHS", help="keep these epochs' files"
    )
    group.add_argument("--display_freq", type=_positive, default=200, metavar="STEPS", help="a picture of samples")
    group.add_argument("--print_freq", type=_positive, default=50, metavar="STEPS", help="losses")
    group.add_argument(
        "--ema", type=float, default=0.0, metavar="DECAY", help="0.999: a moving average of the generator"
    )
    group.add_argument("--no_tensorboard", action="store_true")


def _add_speed_options(group: Any) -> None:
    group.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    group.add_argument("--compile", action="store_true", help="torch.compile, worth its minute in runs of many")
    group.add_argument("--threads", type=_positive, help="of the CPU (default: torch's choice)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value
