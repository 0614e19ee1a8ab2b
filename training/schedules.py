"""Learning-rate policies: the factor of the first learning rate for each epoch, or for each step of a run by steps."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from engine.errors import EngineError

POLICIES = ("linear", "step", "plateau", "cosine", "constant")


def linear_factor(epoch: int, *, constant: int, decay: int) -> float:
    """1 for `constant` epochs, then down along a line that is 0 one epoch after the last of `decay` more.

    With 100 and 100: 1 up to epoch 99 (counted from 0), 100/101 at epoch 100, 1/101 at 199, as the reference
    implementation has it.
    """
    return max(0.0, 1.0 - max(0, epoch + 1 - constant) / (decay + 1))


def cosine_factor(epoch: int, *, total: int) -> float:
    """From 1 to 0 along half a cosine (Loshchilov and Hutter, arXiv:1608.03983, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, epoch / max(1, total))))


def make_scheduler(
    optimizer: Optimizer, policy: str, *, constant: int, decay: int, decay_every: int
) -> LRScheduler | ReduceLROnPlateau:
    """A scheduler that is stepped once per period: an epoch, or as many steps as an epoch stands for.

    Args:
        policy: "linear" (`linear_factor`), "cosine" over constant + decay periods, "step" (a tenth every `decay_every`
            periods), "plateau" (a fifth when the loss has not fallen by 1 % for 5 periods), or "constant".
        constant, decay: --n_epochs and --n_epochs_decay.

    Raises:
        EngineError: no such policy.
    """
    if policy == "linear":
        return LambdaLR(optimizer, lambda epoch: linear_factor(epoch, constant=constant, decay=decay))
    if policy == "cosine":
        return LambdaLR(optimizer, lambda epoch: cosine_factor(epoch, total=constant + decay))
    if policy == "step":
        return LambdaLR(optimizer, lambda epoch: 0.1 ** (epoch // decay_every))
    if policy == "plateau":
        return ReduceLROnPlateau(optimizer, factor=0.2, threshold=0.01, patience=5)
    if policy == "constant":
        return LambdaLR(optimizer, lambda epoch: 1.0)
    raise EngineError(f"unknown --lr_policy {policy!r}: accepted are {', '.join(POLICIES)}")
