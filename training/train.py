"""Trains a generator: python -m training.train --dataroot DIR --name NAME --model MODEL.

Options and files are those of the reference CycleGAN/pix2pix implementation, where it has them. Ctrl-C and SIGTERM save
what is done; --continue_train goes on from there, on the CPU to the bit.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from engine.allocator import keep_freed_memory
from engine.errors import EngineError
from engine.precision import choose_device
from training import distributed
from training.data import Batches, Transform, make_dataset, open_batches
from training.data.datasets import DataOptions
from training.gallery import Gallery
from training.log import LossLog, duration
from training.models import TrainingModel, make_model
from training.options import parse_options
from training.run_folder import RunFolder, published_state
from training.schedules import make_scheduler


@dataclasses.dataclass
class Progress:
    """How far a run is; saved with its state.

    Attributes:
        epoch: the current one, from 0.
        step_in_epoch: batches of it that are done.
        steps: all batches that are done.
        seconds: of training, over all its parts.
        periods: how often the learning rate was stepped.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    periods: int = 0


class Run:
    """A run from its first step, or the one it stopped at, to its end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = distributed.local_device(choose_device(options.device))
        if options.threads:
            torch.set_num_threads(options.threads)
        distributed.join(self.device)
        torch.manual_seed(options.seed)
        self.model: TrainingModel = make_model(options, self.device)
        for network in self.model.networks.values():
            published_state(network)  # what can't be saved is not trained
        torch.manual_seed(options.seed + distributed.rank())  # dropout differs between processes
        self.batches = open_training_batches(options, self.model)
        self.folder = RunFolder(options.checkpoints_dir / options.name)
        self.progress = Progress()
        self.schedulers = {
            name: make_scheduler(
                optimizer,
                options.lr_policy,
                constant=options.n_epochs,
                decay=options.n_epochs_decay,
                decay_every=options.lr_decay_iters,
            )
            for name, optimizer in self.model.optimizers.items()
        }
        self.stopped_by: int | None = None
        self._recent: list[tuple[int, dict[str, Tensor]]] = []  # losses of the steps since they were last looked at
        # losses of the last steps, which the plateau policy looks at
        self._watched: collections.deque[Mapping[str, Tensor | float]] = collections.deque(maxlen=50)
        if options.continue_train:
            self._restore(self.folder.load_state(self.model))
        else:
            self.folder.require_unused()

    # --- the main path ---

    def train(self) -> None:
        """Trains to the end, or until stopped; saves in either case.

        Raises:
            EngineError: a loss is not finite, an image can't be read, a file can't be written; the last checkpoint
                stays.
        """
        options, progress = self.options, self.progress
        speaks = distributed.rank() == 0
        if speaks:
            self.folder.write_options(options)
            self._announce()
        folder = self.folder.path
        self.log = (
            LossLog(folder, steps_before=progress.steps, tensorboard=not options.no_tensorboard) if speaks else None
        )
        self.gallery = Gallery(folder, title=f"{options.name} ({options.model})") if speaks else None
        self._started, self._seconds_before = time.monotonic(), progress.seconds
        self._rate_from = (progress.steps, self._started)
        try:
            with self._stoppable():
                while not self._is_over():
                    self._run_epoch()
            self._check_losses()
            self._save()
        finally:
            if self.log is not None:
                self.log.close()

    def _run_epoch(self) -> None:
        progress = self.progress
        for batch in self.batches.epoch(progress.epoch, skip=progress.step_in_epoch):
            on_device = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            losses = self.model.step(on_device)
            self._advance()
            self._recent.append((progress.steps, losses))
            self._watched.append(losses)
            self._step_schedule()
            self._report(on_device)
            if progress.step_in_epoch < len(self.batches) and self._is_over():
                return
        progress.epoch += 1
        progress.step_in_epoch = 0
        if progress.epoch % self.options.save_epoch_freq == 0:
            self._check_losses()
            if distributed.rank() == 0:
                self.folder.save_networks(self.model, str(progress.epoch))

    # --- when it ends ---

    @property
    def _epochs(self) -> int:
        return int(self.options.n_epochs + self.options.n_epochs_decay)

    def _advance(self) -> None:
        """Counts a step."""
        progress = self.progress
        progress.steps += 1
        progress.step_in_epoch += 1
        seconds = self._seconds_before + time.monotonic() - self._started
        # All processes have to agree on the time, since the learning rate and the end may follow it.
        progress.seconds = distributed.average({"seconds": seconds})["seconds"]

    def _share_done(self) -> float:
        """0 at the beginning, 1 at the end, by --max_steps and --max_minutes, whichever is nearer, else by epochs."""
        options, progress = self.options, self.progress
        shares = []
        if options.max_steps:
            shares.append(progress.steps / options.max_steps)
        if options.max_minutes:
            shares.append(progress.seconds / (60.0 * options.max_minutes))
        if not shares:
            shares.append((progress.epoch + progress.step_in_epoch / len(self.batches)) / max(1, self._epochs))
        return max(shares)

    def _is_over(self) -> bool:
        return self._share_done() >= 1.0 or distributed.any_process(self.stopped_by is not None)

    def _step_schedule(self) -> None:
        """Steps the learning rate once per epoch, or as often as an epoch's share of the run's limit has passed."""
        due = min(int(self._share_done() * self._epochs + 1e-9), self._epochs)
        while self.progress.periods < due:
            self.progress.periods += 1
            loss = self._mean_loss()
            for scheduler in self.schedulers.values():
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(loss)
                else:
                    scheduler.step()

    def _mean_loss(self) -> float:
        """What the plateau policy watches: the generators' losses of the last steps."""
        sums = [sum(float(v) for k, v in losses.items() if not k.startswith("D")) for losses in self._watched]
        return distributed.average({"loss": sum(sums) / len(sums)})["loss"]

    # --- what is told and written on the way ---

    def _report(self, batch: dict[str, Tensor]) -> None:
        options, steps = self.options, self.progress.steps
        # On the CPU looking at a loss costs nothing; on a GPU it would wait for every step.
        if self.device.type == "cpu":
            self._require_finite(steps, self._recent[-1][1])
        if steps % options.print_freq == 0 or steps == 1:
            self._print(self._check_losses())
        if steps % options.display_freq == 0 or steps == 1:
            self._show(batch)
        if steps % options.save_latest_freq == 0:
            self._check_losses()
            self._save()

    def _check_losses(self) -> dict[str, float]:
        """The mean of every loss since the last look, over all processes; looks that all are finite."""
        if not self._recent:
            return {}
        for step, losses in self._recent:
            self._require_finite(step, losses)
        names = self._recent[-1][1]
        means = {name: sum(float(losses[name]) for _, losses in self._recent) / len(self._recent) for name in names}
        self._recent.clear()
        return distributed.average(means)

    def _require_finite(self, step: int, losses: dict[str, Tensor]) -> None:
        for name, loss in losses.items():
            if not math.isfinite(float(loss)):
                raise EngineError(
                    f"the loss {name} is {float(loss)} at step {step}: the last checkpoint is kept; go on from it with "
                    f"--continue_train, or start anew under another --name with a lower --lr or --precision fp32"
                )

    def _print(self, losses: dict[str, float]) -> None:
        if self.log is None or not losses:
            return
        progress, now = self.progress, time.monotonic()
        steps_before, then = self._rate_from
        rate = (progress.steps - steps_before) * self.options.batch_size / max(1e-9, now - then)
        self._rate_from = (progress.steps, now)
        share = self._share_done()
        left = duration(progress.seconds * (1.0 / share - 1.0)) if 0.0 < share <= 1.0 else "?"
        values = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        print(
            f"epoch {progress.epoch + 1} step {progress.steps}: {values} | {rate:.1f} images/s, {left} left", flush=True
        )
        learning_rate = next(iter(self.model.optimizers.values())).param_groups[0]["lr"]
        self.log.write(step=progress.steps, epoch=progress.epoch + 1, learning_rate=learning_rate, losses=losses)

    def _show(self, batch: dict[str, Tensor]) -> None:
        if self.gallery is None:
            return
        with evaluating(self.model):
            pictures = self.model.pictures({name: tensor[:4] for name, tensor in batch.items()})
        self.gallery.add(pictures, step=self.progress.steps, epoch=self.progress.epoch + 1)

    def _announce(self) -> None:
        model, options = self.model, self.options
        sizes = ", ".join(
            f"{n} {sum(p.numel() for p in m.parameters()) / 1e6:.2f} M" for n, m in model.networks.items()
        )
        begins = f"going on from step {self.progress.steps}" if self.progress.steps else "starting"
        print(
            f"{begins}: {options.model}, {sizes}; {len(self.batches.dataset)} samples, batches of "
            f"{options.batch_size}, {model.precision} on {self.device}; files in {self.folder.path}",
            flush=True,
        )

    # --- saving and going on ---

    def _save(self) -> None:
        if distributed.rank() == 0:
            self.folder.save_networks(self.model, "latest")
        state: dict[str, Any] = {
            "progress": dataclasses.asdict(self.progress),
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()},
            "watched": [{name: float(loss) for name, loss in losses.items()} for losses in self._watched],
            "random": {"cpu": torch.get_rng_state()},
        }
        if self.device.type == "cuda":
            state["random"]["cuda"] = torch.cuda.get_rng_state(self.device)
        self.folder.save_state(self.model, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.progress = Progress(**state["progress"])
        for name, scheduler in self.schedulers.items():
            scheduler.load_state_dict(state["schedulers"][name])
        self._watched.extend(state["watched"])
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Within it, the first Ctrl-C or SIGTERM lets the current step end; a second one ends the program."""

        def handle(number: int, frame: object) -> None:
            if self.stopped_by is not None:
                raise KeyboardInterrupt
            self.stopped_by = number
            print("stopping after this step", file=sys.stderr, flush=True)

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def evaluating(model: TrainingModel) -> Iterator[None]:
    """Networks in eval mode, and torch's random numbers afterwards as before: looking changes nothing."""
    state = torch.get_rng_state()
    for network in model.networks.values():
        network.eval()
    try:
        yield
    finally:
        for network in model.networks.values():
            network.train()
        torch.set_rng_state(state)


def open_training_batches(options: argparse.Namespace, model: TrainingModel) -> Batches:
    """The batches that `options` ask for, of a size that the model's networks take.

    Raises:
        EngineError: folders, images or sizes that don't fit.
    """
    transform = Transform(
        mode=options.preprocess,
        load_size=options.load_size,
        crop_size=options.crop_size,
        flip=not options.no_flip,
        multiple=math.lcm(model.size_multiple, 4),
    )
    smallest = model.minimum_size
    if transform.crops and options.crop_size < smallest:
        raise EngineError(f"--crop_size {options.crop_size} is too small: these networks take {smallest} and more")
    dataset = make_dataset(
        options.dataset_mode,
        options.dataroot,
        DataOptions(
            transform,
            direction=options.direction,
            serial=options.serial_batches,
            limit=options.max_dataset_size,
            cache_bytes=(options.cache_mb << 20) // max(1, options.num_threads),
            scale=options.scale,
            seed=options.seed,
        ),
    )
    if not transform.crops and options.batch_size > 1:
        raise EngineError(f"--preprocess {options.preprocess} leaves sizes as they are: it needs --batch_size 1")
    return open_batches(
        dataset,
        size=options.batch_size,
        workers=options.num_threads,
        shuffle=not options.serial_batches,
        seed=options.seed,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 130 or 143 where a signal ended the run."""
    keep_freed_memory()
    options = parse_options(arguments)
    try:
        run = Run(options)
        run.train()
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the last checkpoint is kept", file=sys.stderr)
        return 130
    finally:
        distributed.leave()
    if run.stopped_by is not None:
        print(f"stopped at step {run.progress.steps}; --continue_train goes on from there", file=sys.stderr)
        return 128 + run.stopped_by
    return 0


if __name__ == "__main__":
    sys.exit(main())
