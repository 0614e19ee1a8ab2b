"""Batches in an order that depends on seed and epoch alone, so that a resumed run goes on with the next one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from engine.errors import EngineError, SourceError
from training import distributed
from training.data.datasets import Dataset, Sample

Batch = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches of a dataset."""

    dataset: Dataset
    size: int  # images of a batch, over all processes
    workers: int
    shuffle: bool
    seed: int

    def __len__(self) -> int:
        """Batches in an epoch; the last one may be smaller, but only if every process gets something of it."""
        whole, rest = divmod(len(self.dataset), self.size)
        return whole + (1 if rest and rest % distributed.world_size() == 0 else 0)

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        """This process's share of each batch of an epoch, from batch `skip` on. Raises SourceError for bad images."""
        loader: DataLoader[Sample] = DataLoader(
            self.dataset,
            batch_sampler=_Places(self, number, skip),
            num_workers=self.workers,
            generator=torch.Generator(),  # else opening it would draw from torch's own random numbers
        )
        try:
            yield from loader
        except EngineError as error:
            # A worker process puts its traceback before the message.
            raise SourceError(str(error).strip().splitlines()[-1].split("Error: ")[-1]) from None


class _Places(Sampler[list[tuple[int, int]]]):
    """(epoch, index) of each sample of each batch."""

    def __init__(self, batches: Batches, epoch: int, skip: int) -> None:
        self._batches, self._epoch, self._skip = batches, epoch, skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batches, count = self._batches, len(self._batches.dataset)
        source = torch.Generator().manual_seed(batches.seed * 1_000_003 + self._epoch)
        order = torch.randperm(count, generator=source).tolist() if batches.shuffle else list(range(count))
        for number in range(self._skip, len(batches)):
            whole = order[number * batches.size : (number + 1) * batches.size]
            share = math.ceil(len(whole) / distributed.world_size())
            start = distributed.rank() * share
            yield [(self._epoch, index) for index in whole[start : start + share]]

    def __len__(self) -> int:
        return len(self._batches) - self._skip


def open_batches(dataset: Dataset, *, size: int, workers: int = 0, shuffle: bool = True, seed: int = 0) -> Batches:
    """Batches of `size` samples over all processes.

    Args:
        workers: number of processes that decode; 0 decodes in this one.

    Raises:
        EngineError: the size is not a multiple of the number of processes, or the dataset is too small for them.
    """
    world = distributed.world_size()
    if size % world:
        raise EngineError(f"--batch_size {size} is no multiple of the {world} processes")
    batches = Batches(dataset, size, workers, shuffle, seed)
    if len(batches) == 0:
        raise EngineError(f"{len(dataset)} images are too few for {world} processes")
    return batches
