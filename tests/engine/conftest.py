"""What the tests of the engine share."""

from __future__ import annotations

import pytest

from engine.choosing import candidates
from engine.precision import fastest_precision


@pytest.fixture
def auto_is_one_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes the processor's half precision, as where there is nothing to compare it with.

    For tests of something else than the comparison, which on frames of a few pixels may end either way.
    """
    monkeypatch.setattr(candidates, "auto_precisions", lambda device: (fastest_precision(device),))
