"""Timestamps in an encoder's unit."""

from __future__ import annotations

from fractions import Fraction


class Ticks:
    """Turns the source's timestamps into an encoder's, which increase: one that doesn't is pushed forward.

    Args:
        source_unit: seconds per unit of the source's timestamps; None if it has none.
        unit: the same of the encoder's.

    Attributes:
        last: the encoder's timestamp of the frame that came last.
        count: frames so far.
        moved: how many of them were pushed forward.
    """

    def __init__(self, source_unit: Fraction | None, unit: Fraction) -> None:
        self.last: int | None = None
        self.count = self.moved = 0
        self._ratio = source_unit / unit if source_unit is not None else None

    def of(self, pts: int | None) -> int:
        """The encoder's timestamp of the next frame."""
        ticks = self.count if pts is None or self._ratio is None else round(pts * self._ratio)
        if self.last is not None and ticks <= self.last:
            ticks = self.last + 1
            self.moved += 1
        self.last = ticks
        self.count += 1
        return ticks

    def duration(self, duration: int, pts: int | None) -> int:
        """How long that frame is shown, in the encoder's unit."""
        return 1 if pts is None or self._ratio is None else round(duration * self._ratio)
