"""What lies between two steps of a program: slots, and what the next step does to them while it reads."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from engine.errors import BackendError
from engine.fused.program import NONE, Activation, Padding, Step, float_bits


def require(condition: bool, what: object) -> None:
    """Raises a BackendError that names what the fused operator does not know, unless the condition holds."""
    if not condition:
        raise BackendError(f"the fused backend does not know {what} in this place")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An activation that several convolutions write side by side; the first of them keeps its own input there.

    Attributes:
        channels: for all of them.
    """

    slot: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Value:
    """What the next layer reads: slots, and what is still to be done to them on the way.

    Attributes:
        sources: one slot, or two, one after the other along the channels; `NONE` is the image, at the beginning, and
            the picture, at the end.
        channels: of each source; of one source perhaps in several parts, each stored in whole blocks.
        reduction: how many times smaller than the image it is.
        slopes: of PReLU, where they are in the weights.
        residual: slot that is added after norm and activation, times `residual_scale`.
        second_residual: slot that is added too.
        pad: of a padding layer, before (left and top) and after.
        is_plain: whether the one slot holds the very values, with nothing to be done.
    """

    sources: tuple[int, ...]
    channels: tuple[int, ...]
    reduction: Fraction = Fraction(1)
    is_normalised: bool = False
    activation: int = Activation.NONE
    slope: float = 0.0
    slopes: int = NONE
    residual: int = NONE
    residual_scale: float = 1.0
    second_residual: int = NONE
    padding: int = Padding.ZEROS
    pad: tuple[int, int] = (0, 0)
    enlarged: bool = False
    unshuffled: int = 1  # by how much a pixel unshuffle is still to make the image smaller

    @property
    def is_plain(self) -> bool:
        is_raw = not self.is_normalised and self.activation == Activation.NONE and self.residual == NONE
        return is_raw and len(self.sources) == 1

    @property
    def is_padded(self) -> bool:
        return self.pad != (0, 0)

    @property
    def is_picture(self) -> bool:
        return self.sources == (NONE,)

    def reader(self) -> Step:
        """A step that reads it, without its shape and weights."""
        return Step(
            source=self.sources[0],
            second_source=self.sources[1] if len(self.sources) == 2 else NONE,
            residual=self.residual,
            second_residual=self.second_residual,
            residual_scale_bits=float_bits(self.residual_scale),
            activation=self.activation,
            slope_bits=float_bits(self.slope),
            slopes=self.slopes,
        )

    def made_by(self, step: Step, channels: tuple[int, ...]) -> Value:
        """What a step makes of it."""
        return Value((step.output,), channels, self.reduction * step.stride / step.up)
