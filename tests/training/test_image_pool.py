"""The discriminator's history of images."""

from __future__ import annotations

import pytest
import torch

from engine.errors import EngineError
from training.image_pool import ImagePool


def numbered(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()


def test_without_room_everything_passes() -> None:
    images = numbered(1, 2, 3).requires_grad_(True)
    given = ImagePool(0).query(images)
    assert torch.equal(given, images)
    assert not given.requires_grad


def test_it_fills_up_and_then_gives_back_earlier_ones_half_of_the_time() -> None:
    pool = ImagePool(50)
    seen = [float(pool.query(numbered(number))[0, 0, 0, 0]) for number in range(2000)]
    assert seen[:50] == list(range(50))
    later = list(enumerate(seen))[50:]
    earlier = [(number, value) for number, value in later if value != number]
    assert all(value < number for number, value in earlier)
    assert 0.45 < len(earlier) / len(later) < 0.55
    assert len({value for _, value in earlier}) == len(earlier)  # each is given once


def test_a_resumed_pool_goes_on_alike() -> None:
    whole, first = ImagePool(5, seed=3), ImagePool(5, seed=3)
    for number in range(20):
        assert torch.equal(whole.query(numbered(number)), first.query(numbered(number)))
    second = ImagePool(5, seed=99)
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    for number in range(20, 60):
        assert torch.equal(whole.query(numbered(number)), second.query(numbered(number)))


def test_what_is_kept_is_a_copy() -> None:
    pool = ImagePool(1)
    image = numbered(7)
    pool.query(image).fill_(1)
    image.zero_()
    assert pool.state_dict()["images"][0].unique().item() == 7.0


def test_a_smaller_pool_refuses_more_images() -> None:
    full = ImagePool(4)
    full.query(numbered(1, 2, 3, 4))
    with pytest.raises(EngineError, match="--pool_size is 2"):
        ImagePool(2).load_state_dict(full.state_dict(), torch.device("cpu"))
