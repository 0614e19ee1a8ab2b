"""Learning rates over epochs."""

from __future__ import annotations

import math

import pytest
import torch

from engine.errors import EngineError
from training.schedules import make_scheduler


def rates(policy: str, epochs: int, *, constant: int = 3, decay: int = 4, decay_every: int = 2) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, policy, constant=constant, decay=decay, decay_every=decay_every)
    values = []
    for _ in range(epochs):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(1.0) if policy == "plateau" else scheduler.step()  # type: ignore[call-arg, arg-type]
    return values


def test_linear_is_the_reference_implementations() -> None:
    """lr * (1 - max(0, epoch + 1 - constant) / (decay + 1)), epochs counted from 0."""
    assert rates("linear", 8) == pytest.approx([1, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0])


def test_cosine_falls_from_one_to_zero() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * epoch / 7)) for epoch in range(8)]
    assert rates("cosine", 8) == pytest.approx(expected)
    assert expected[0] == 1
    assert expected[-1] == pytest.approx(0)


def test_step_divides_by_ten() -> None:
    assert rates("step", 6) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_falls_when_the_loss_does_not() -> None:
    assert rates("plateau", 8) == pytest.approx([1] * 7 + [0.2])


def test_constant_stays() -> None:
    assert rates("constant", 4) == [1, 1, 1, 1]


def test_an_unknown_policy_says_what_there_is() -> None:
    with pytest.raises(EngineError, match="accepted are linear, step"):
        rates("poly", 1)
