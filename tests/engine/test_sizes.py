"""Sizes from text, and sizes that a generator takes."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest

from engine.sizes import SizeError, padded_size, parse_size


@pytest.mark.parametrize(("text", "size"), [("1280x720", (1280, 720)), ("1X1", (1, 1)), ("16384x2", (16384, 2))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "640", "640x", "0x3", "-1x3", "3x2x1", "16385x2", "٣x٣", "1.5x2", " 1x2"])
def test_text_that_is_not_a_size(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SizeError, match="expected WIDTHxHEIGHT"):
        parse_size(text)
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=parse_size)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--size={text}"])
    assert "argument --size: invalid size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("multiple", "least", "padded"), [(1, 1, (47, 63)), (4, 1, (48, 64)), (4, 50, (52, 64)), (256, 256, (256, 256))]
)
def test_padded_sizes(multiple: int, least: int, padded: tuple[int, int]) -> None:
    assert padded_size(SimpleNamespace(multiple=multiple, minimum_size=least), 47, 63) == padded
