"""Checks all images of a data set before the first step, so that no run stops in its middle because of one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from engine.errors import SourceError

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_DARK_LIMIT = 1 << 12

Size = tuple[int, int]
"""Height and width."""


def check_images(paths: Sequence[Path]) -> tuple[dict[Path, Size], list[str]]:
    """Reads every file and decodes its pixels, several at a time.

    Returns:
        Size of every image, and notes for people.

    Raises:
        SourceError: images can't be read or end too early; one line names the first of them.
    """
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        found = list(workers.map(_look_at, paths))
    bad = [f"{path} ({result})" for path, result in zip(paths, found, strict=True) if isinstance(result, str)]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise SourceError(
            f"{len(bad)} of {len(paths)} images can't be used: {', '.join(bad[:5])}{more}: remove or replace them"
        )
    read = [(path, result) for path, result in zip(paths, found, strict=True) if not isinstance(result, str)]
    dark = [path for path, (_, is_dark) in read if is_dark]
    notes = []
    if dark:
        notes.append(f"{len(dark)} 16-bit images use 12 bits or fewer and are nearly black, the first is {dark[0]}")
    return {path: size for path, (size, _) in read}, notes


def _look_at(path: Path) -> tuple[Size, bool] | str:
    """Size and whether it is 16-bit and dark, or what is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return error.strerror or "can't be read"
    if not data:
        return "empty"
    if _ends_early(data):
        return "cut short"
    try:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        return "can't be read as an image"
    return (image.shape[0], image.shape[1]), image.dtype.itemsize == 2 and int(image.max()) < _DARK_LIMIT


def _ends_early(data: bytes) -> bool:
    """Whether a JPEG, PNG or WebP file has less than its own structure says; other formats are left to the decoder."""
    if data.startswith(b"\xff\xd8"):
        return _jpeg_ends_early(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        place = 8
        while place + 12 <= len(data):
            if data[place + 4 : place + 8] == b"IEND":
                return False
            place += 12 + int.from_bytes(data[place : place + 4], "big")
        return True
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data) + 1
    return False


def _jpeg_ends_early(data: bytes) -> bool:
    place = 2
    while found := _MARKER.search(data, place):
        kind, place = data[found.start() + 1], found.end()
        if kind == 0xD9:
            return False
        # The segment's own length; behind the head of a scan, its data reach to the next marker.
        place += int.from_bytes(data[place : place + 2], "big")
    return True
