"""What `auto` may measure beside the fused engine, in tests of choosing."""

from __future__ import annotations

import pytest

from engine.backends import BACKENDS


def only_rivals(monkeypatch: pytest.MonkeyPatch, *names: str, build_cost: str = "seconds") -> None:
    """Of the backends with this cost `auto` tries none but these."""
    for name, backend in BACKENDS.items():
        if backend.build_cost == build_cost and name not in names:
            monkeypatch.setattr(backend, "only_when_named", True)
