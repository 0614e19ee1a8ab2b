"""Sizes of frames: read from text, and enlarged to what a generator takes."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Protocol

from engine.errors import EngineError

LARGEST_SIDE = 16384


class SizeError(EngineError, ArgumentTypeError):
    """Text that is not a size; argparse shows the message if `parse_size` is the type of an option."""


def parse_size(text: str) -> tuple[int, int]:
    """Width and height from `WIDTHxHEIGHT`.

    Raises:
        SizeError: the text has another form, or a side is not between 1 and `LARGEST_SIDE`.
    """
    width, _, height = text.lower().partition("x")
    if not all(side.isascii() and side.isdigit() and 1 <= int(side) <= LARGEST_SIDE for side in (width, height)):
        raise SizeError(f"invalid size {text!r}: expected WIDTHxHEIGHT, such as 1280x720")
    return int(width), int(height)


class _Sides(Protocol):
    """What a generator says about the sides of its input, see `engine.generators.Generator`."""

    @property
    def multiple(self) -> int: ...

    @property
    def minimum_size(self) -> int: ...


def padded_size(generator: _Sides, height: int, width: int) -> tuple[int, int]:
    """Height and width of the tensor that `generator` gets for a frame of this size."""
    multiple, least = generator.multiple, generator.minimum_size
    return -(-max(height, least) // multiple) * multiple, -(-max(width, least) // multiple) * multiple
