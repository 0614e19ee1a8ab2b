"""A few mutated inputs; `make fuzz MINUTES=10` tries thousands."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.campaign import Campaign
from tests.fuzz.mutations import mutate

SEEDS: dict[str, list[int]] = {
    "video": [*range(40), 1068, 1168],
    "packets": [*range(20), 3879],
    "checkpoint": [*range(30)],
}
"""The first ones, and those that have shown a defect."""


@pytest.mark.time_limit(300)
@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_inputs_end_as_they_should(kind: str) -> None:
    campaign = Campaign()
    campaign.run(kind, SEEDS[kind])
    assert not campaign.faults, f"{campaign}\n{campaign.faults[0].report}"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("video", 7000), ("packets", 3000), ("checkpoint", 2000)])
def test_thousands_of_mutated_inputs(kind: str, count: int) -> None:
    campaign = Campaign()
    campaign.run(kind, range(1000, 1000 + count))
    assert not campaign.faults, campaign


def test_a_seed_always_does_the_same_damage() -> None:
    data = bytes(range(256)) * 20
    damaged = [mutate(data, random.Random(seed)) for seed in (1, 1, 2)]
    assert damaged[0] == damaged[1] != damaged[2]
