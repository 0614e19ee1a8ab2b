"""Several processes that train one model, started by torchrun; with one process everything here does nothing.

Each process computes its share of a batch, and the gradients are averaged before each update. The step is then that of
one process with the whole batch. Relativistic losses average over all processes (`mean_of_all`). BatchNorm is the
exception: it normalises each share by itself.

DistributedDataParallel is not used: it conflicts with several forwards before one backward, with second derivatives,
and with networks that are frozen for half of a step.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn


def join(device: torch.device) -> None:
    """Joins the group of processes if torchrun started this one: NCCL on CUDA devices, else gloo."""
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave() -> None:
    """Leaves the group; the end of a run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; process 0 writes files and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_device(device: torch.device) -> torch.device:
    """The CUDA device of this process where several on one machine have one each; else `device` itself."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@torch.no_grad()
def broadcast(network: nn.Module) -> None:
    """Gives all processes the weights and buffers of the first."""
    if world_size() > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, src=0)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Averages the gradients of parameters over all processes, in one exchange."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world_size() == 1 or not gradients:
        return
    packed = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(packed)
    packed /= world_size()
    for gradient, averaged in zip(gradients, packed.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def mean_of_all(values: Tensor) -> Tensor:
    """The mean of `values` over all processes, with gradients; each has as many values."""
    mean = values.mean()
    if world_size() == 1:
        return mean
    from torch.distributed.nn.functional import all_reduce

    reduced: Tensor = all_reduce(mean)
    return reduced / world_size()


def average(values: Mapping[str, float]) -> dict[str, float]:
    """Each value averaged over all processes; all have the same names."""
    if world_size() == 1:
        return dict(values)
    packed = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64)
    if dist.get_backend() == "nccl":
        packed = packed.cuda()
    dist.all_reduce(packed)
    return dict(zip(sorted(values), (packed / world_size()).tolist(), strict=True))


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process: all of them have to stop at the same step."""
    return average({"flag": float(flag)})["flag"] > 0
