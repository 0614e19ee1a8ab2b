"""Learning-rate policies: the factor of the first learning rate for each epoch, or for each step of a run by steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from engine.errors import EngineError

POLICIES = ("linear", "step", "plateau", "cosine", "constant")


def make_scheduler(
    optimizer: Optimizer, policy: str, *, constant: int, decay: int, decay_every: int
) -> LRScheduler | ReduceLROnPlateau:
    """A scheduler that is stepped once per period: an epoch, or an epoch's share of --max_steps or --max_minutes.

    Args:
        policy:
            "linear": 1 for `constant` periods, then along a line that is 0 one period after the last of `decay` more,
                as in the reference: with 100 and 100, 100/101 at period 100 (from 0), 1/101 at 199.
            "cosine": from 1 to 0 along half a cosine over `constant` + `decay` periods (Loshchilov and Hutter,
                arXiv:1608.03983, without restarts).
            "step": a tenth every `decay_every` periods.
            "plateau": a fifth when the loss has not fallen by 1 % for 5 periods.
            "constant": 1.

    Raises:
        EngineError: the policy is unknown.
    """
    if policy not in POLICIES:
        raise EngineError(f"unknown --lr_policy {policy!r}: accepted are {', '.join(POLICIES)}")
    if policy == "plateau":
        return ReduceLROnPlateau(optimizer, factor=0.2, threshold=0.01, patience=5)
    factors: dict[str, Callable[[int], float]] = {
        "linear": lambda epoch: max(0.0, 1.0 - max(0, epoch + 1 - constant) / (decay + 1)),
        "cosine": lambda epoch: 0.5 * (1.0 + math.cos(math.pi * min(1.0, epoch / max(1, constant + decay)))),
        "step": lambda epoch: 0.1 ** (epoch // decay_every),
        "constant": lambda epoch: 1.0,
    }
    return LambdaLR(optimizer, factors[policy])
