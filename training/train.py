"""Trains a generator: python -m training.train --dataroot DIR --name NAME --model MODEL.

Options and files are those of the reference CycleGAN/pix2pix implementation, where it has them. Ctrl-C and SIGTERM save
the run; --continue_train goes on from there, on the CPU to the bit.
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
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from engine.allocator import keep_freed_memory
from engine.command_line import errors_in_one_line
from engine.device import choose_device
from engine.errors import EngineError
from training import distributed
from training.data import Batches, Transform, check, open_batches, open_dataset
from training.gallery import Gallery
from training.log import LossLog, duration
from training.models import TrainingModel, make_model
from training.options import parse_options
from training.run_folder import RunFolder, published_state
from training.schedules import make_scheduler


@dataclasses.dataclass
class Progress:
    """How far a run is; saved with its state."""

    epoch: int = 0  # counted from 0
    step_in_epoch: int = 0
    steps: int = 0
    seconds: float = 0.0  # of training, over all parts of the run
    periods: int = 0  # number of times that the learning rate was stepped


class Run:
    """A run from its first step, or from the step where it stopped, to its end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = distributed.local_device(choose_device(options.device))
        if options.threads:
            torch.set_num_threads(options.threads)
        distributed.join(self.device)
        torch.manual_seed(options.seed)
        self.model: TrainingModel = make_model(options, self.device)
        for network in self.model.networks.values():
            published_state(network)  # fail now where it can't be saved
        torch.manual_seed(options.seed + distributed.rank())  # dropout differs between processes
        self.folder = RunFolder(options.checkpoints_dir / options.name)
        if not options.continue_train and not options.restart:
            self.folder.require_unused()
        self.batches = open_training_batches(options, self.model)
        self.progress = Progress(epoch=options.epoch_count - 1)
        epochs = {"constant": options.n_epochs, "decay": options.n_epochs_decay, "decay_every": options.lr_decay_iters}
        self.schedulers = {
            name: make_scheduler(optimizer, options.lr_policy, **epochs)
            for name, optimizer in self.model.optimizers.items()
        }
        self.stopped_by: int | None = None
        self.log: LossLog | None = None
        self.gallery: Gallery | None = None
        self._epochs: int = options.n_epochs + options.n_epochs_decay
        self._recent: list[tuple[int, dict[str, Tensor]]] = []  # losses since they were last checked, by step
        # losses of the last steps, for the plateau policy
        self._watched: collections.deque[Mapping[str, Tensor | float]] = collections.deque(maxlen=50)
        if options.continue_train:
            self._go_on()
        if not self.folder.has_state and not options.max_steps and not options.max_minutes:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a schedule before the first step is meant here
                for self.progress.periods in range(1, options.epoch_count):
                    for scheduler in self.schedulers.values():
                        if not isinstance(scheduler, ReduceLROnPlateau):
                            scheduler.step()

    # --- the main path ---

    def train(self) -> None:
        """Trains to the end, or until stopped; saves in either case.

        Raises:
            EngineError: a loss is not finite, an image can't be read, or a file can't be written; the last checkpoint
                stays.
        """
        options, progress = self.options, self.progress
        is_first, folder = distributed.rank() == 0, self.folder.path
        self.folder.make()
        if is_first:
            self.folder.lock()
            if not options.continue_train and not options.restart:
                self.folder.require_unused()  # another process may have finished meanwhile
            self.folder.write_options(options)
            self._announce()
            self.log = LossLog(folder, steps_before=progress.steps, tensorboard=not options.no_tensorboard)
            self.gallery = Gallery(folder, title=f"{options.name} ({options.model})")
        self._started, self._seconds_before = time.monotonic(), progress.seconds
        self._rate_from = (progress.steps, self._started)
        try:
            with self._stoppable():
                self._warm_up()
                while not self._is_over():
                    self._run_epoch()
            self._check_losses()
            self._save()
            if self._share_done() >= 1.0:
                self.model.finish(folder)
        finally:
            if self.log is not None:
                self.log.close()
            self.folder.unlock()

    def _run_epoch(self) -> None:
        progress = self.progress
        for batch in self.batches.epoch(progress.epoch, skip=progress.step_in_epoch):
            on_device = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            losses = self.model.step(on_device)
            self._count_step()
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

    def _count_step(self) -> None:
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
        """Steps the learning rate once per epoch; with --max_steps or --max_minutes, an epoch is its share of them."""
        due = min(int(self._share_done() * self._epochs + 1e-9), self._epochs)
        while self.progress.periods < due:
            self.progress.periods += 1
            loss = self._mean_loss()
            for scheduler in self.schedulers.values():
                if isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step(loss)
                else:
                    scheduler.step()
        self._warm_up()

    def _warm_up(self) -> None:
        """Scales the scheduled learning rate by the share of --warmup_steps that the next step completes."""
        if self.progress.steps < self.options.warmup_steps:
            share = (self.progress.steps + 1) / self.options.warmup_steps
            for name, optimizer in self.model.optimizers.items():
                for group, rate in zip(optimizer.param_groups, self.schedulers[name].get_last_lr(), strict=True):
                    group["lr"] = share * rate

    def _mean_loss(self) -> float:
        """The generators' losses of the last steps, which the plateau policy watches."""
        sums = [sum(float(v) for k, v in losses.items() if not k.startswith("D")) for losses in self._watched]
        return distributed.average({"loss": sum(sums) / len(sums)})["loss"]

    # --- reports ---

    def _report(self, batch: dict[str, Tensor]) -> None:
        options, steps = self.options, self.progress.steps
        # Reading a loss is free on the CPU; on a GPU it would wait for every step.
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
        """The mean of every loss since the last check, over all processes; raises unless all are finite."""
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
                    f"--continue_train, or start again under another --name with a lower --lr or --precision fp32"
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
        epoch, steps = progress.epoch + 1, progress.steps
        print(f"epoch {epoch} step {steps}: {values} | {rate:.1f} images/s, {left} left", flush=True)
        learning_rate = next(iter(self.model.optimizers.values())).param_groups[0]["lr"]
        self.log.write(step=steps, epoch=epoch, learning_rate=learning_rate, losses=losses)

    def _show(self, batch: dict[str, Tensor]) -> None:
        if self.gallery is None:
            return
        with evaluating(self.model):
            pictures = self.model.pictures({name: tensor[:4] for name, tensor in batch.items()})
        self.gallery.add(pictures, step=self.progress.steps, epoch=self.progress.epoch + 1)

    def _announce(self) -> None:
        model, options = self.model, self.options
        counts = {name: sum(p.numel() for p in network.parameters()) for name, network in model.networks.items()}
        sizes = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items())
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

    def _go_on(self) -> None:
        if self.folder.has_state:
            self._restore(self.folder.load_state(self.model))
            return
        self.folder.load_networks(self.model, self.options.epoch)
        for name, average in self.model.averages.items():
            average.network.load_state_dict(self.model.networks[name].state_dict())
        if distributed.rank() == 0:
            print(
                f"{self.folder.path} holds networks and no state: they go on with new optimizers from epoch "
                f"{self.options.epoch_count} (--epoch_count)",
                flush=True,
            )

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
        """The first Ctrl-C or SIGTERM lets the current step end; a second one ends the program."""

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
    """Puts the networks in eval mode, and afterwards restores training mode and torch's random numbers."""
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
    """The batches that `options` ask for. Raises EngineError where folders or sizes don't fit the networks."""
    transform = Transform(
        mode=options.preprocess,
        load_size=options.load_size,
        crop_size=options.crop_size,
        flip=not options.no_flip,
        multiple=math.lcm(model.size_multiple, 4),
    )
    if transform.crops and options.crop_size < model.minimum_size:
        raise EngineError(
            f"--crop_size {options.crop_size} is too small: these networks take {model.minimum_size} and more"
        )
    dataset = open_dataset(options, transform, phase=options.phase)
    if not transform.crops and options.batch_size > 1:
        raise EngineError(f"--preprocess {options.preprocess} leaves sizes as they are: it needs --batch_size 1")
    if distributed.rank() == 0 and not options.no_check:
        for note in check(dataset):
            print(f"note: {note}", file=sys.stderr, flush=True)
    shuffle = not options.serial_batches
    return open_batches(
        dataset, size=options.batch_size, workers=options.num_threads, shuffle=shuffle, seed=options.seed
    )


@errors_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 130 or 143 where a signal ended the run."""
    keep_freed_memory()
    options = parse_options(arguments)
    try:
        run = Run(options)
        run.train()
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
