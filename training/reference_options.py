"""Command lines of the reference CycleGAN/pix2pix code, of CUT and of GAN Compression, in our options' names."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# Their name -> ours, with the same meaning and the same values.
_RENAMED = {
    "--loadSize": "--load_size",
    "--fineSize": "--crop_size",
    "--batchSize": "--batch_size",
    "--nThreads": "--num_threads",
    "--niter": "--n_epochs",
    "--niter_decay": "--n_epochs_decay",
    "--nepochs": "--n_epochs",
    "--nepochs_decay": "--n_epochs_decay",
    "--which_direction": "--direction",
    "--which_model_netG": "--netG",
    "--which_model_netD": "--netD",
    "--which_epoch": "--epoch",
    "--resize_or_crop": "--preprocess",
    "--identity": "--lambda_identity",
    "--how_many": "--num_test",
    "--normG": "--norm",
    "--normD": "--norm",
    "--lambda_recon": "--lambda_pixel",
    "--recon_loss_type": "--pixel_loss",
    "--restore_G_path": "--pretrained",
}

# Options without effect here -> how many values they take: None for one that may be left out.
_WITHOUT_EFFECT: dict[str, int | None] = {
    **dict.fromkeys(("--no_html", "--use_wandb", "--verbose", "--save_by_iter", "--easy_label"), 0),
    **dict.fromkeys(("--display_id", "--display_port", "--display_server", "--display_env", "--display_ncols"), 1),
    **dict.fromkeys(("--display_winsize", "--update_html_freq", "--wandb_project_name", "--load_iter"), 1),
    **dict.fromkeys(("--real_stat_path", "--real_stat_A_path", "--real_stat_B_path", "--tensorboard_dir"), 1),
}

# Options that mean something that isn't here -> what to use instead.
_INSTEAD = {
    "--suffix": "put it into --name",
    "--stylegan2_G_num_downsampling": "use --netG resnet_9blocks",
    "--custom_dataset": "use --dataset_mode and --dataroot",
    "--restore_D_path": "use --continue_train in a folder with latest_net_G.pth and latest_net_D.pth",
    "--nce_includes_all_negatives_from_minibatch": "leave it out: negatives come from the same image",
    "--display": "open web/index.html in the run's folder",
}

# Values that are boolean words after an option that is a flag here.
_FLAGS = ("--no_dropout", "--no_antialias", "--no_antialias_up", "--no_flip", "--serial_batches")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest option where one is unknown, and status 2."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends the program."""
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if message.startswith("unrecognized") and unknown.startswith("-"):
            name = unknown.split("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(name, known, n=1)
            message = f"unknown option {name}" + (f": do you mean {near[0]}?" if near else f"; see {self.prog} --help")
        self.exit(2, f"error: {message}\n")


def translated(arguments: Sequence[str] | None, parser: argparse.ArgumentParser) -> list[str]:
    """A command line with options of the reference as one with ours; names on stderr those that have no effect.

    Args:
        arguments: None: those of the process.
        parser: ends the program with one line where an option has another way here.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    ours: list[str] = []
    ignored: list[str] = []
    while given:
        name, _, value = given.pop(0).partition("=") if given[0].startswith("--") else (given.pop(0), "", "")
        attached = [value] if value else []
        if name in _INSTEAD:
            parser.error(f"{name} is not an option here: {_INSTEAD[name]}")
        if name in _WITHOUT_EFFECT:
            ignored.append(name)
            if not attached and _WITHOUT_EFFECT[name] and given:
                given.pop(0)
            continue
        name = _RENAMED.get(name, name)
        if name == "--no_lsgan":
            ours += ["--gan_mode", "vanilla"]
        elif name in ("--gpu_ids", "--max_dataset_size", "--norm", "--log_dir", "--CUT_mode", "--preprocess"):
            if not attached and not given:
                parser.error(f"argument {name}: expected one argument")
            ours += _special(name, (attached or [given.pop(0)])[0], parser)
        elif name in _FLAGS and (attached or given[:1]) and (attached or given[:1])[0].lower() in ("true", "false"):
            if (attached or [given.pop(0)])[0].lower() == "true":
                ours.append(name)
        else:
            ours += [f"{name}={value}"] if attached else [name]
    if ignored:
        print(f"without effect here: {', '.join(ignored)}", file=sys.stderr)
    return ours


def _special(name: str, value: str, parser: argparse.ArgumentParser) -> list[str]:
    if name == "--gpu_ids":
        numbers = [number for number in value.split(",") if number.strip()]
        if len(numbers) > 1:
            parser.error(f"--gpu_ids {value}: several GPUs train by torchrun --nproc_per_node {len(numbers)} -m ...")
        return ["--device", "cpu" if not numbers or int(numbers[0]) < 0 else f"cuda:{int(numbers[0])}"]
    if name == "--max_dataset_size":
        return [] if value.lower() in ("inf", "infinity") else [name, value]
    if name == "--norm" and value == "syncbatch":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            parser.error("--norm syncbatch is not made for several processes: use --norm instance, or one process")
        return [name, "batch"]  # the same in one process
    if name == "--log_dir":
        path = Path(value)
        return ["--checkpoints_dir", str(path.parent), "--name", path.name]
    if name == "--CUT_mode":
        if value.lower() not in ("cut", "fastcut"):
            parser.error(f"--CUT_mode {value}: accepted are CUT and FastCUT")
        return ["--preset", value.lower()]
    return [name, value]
