"""Pages of results as the reference's test.py writes them: FOLDER/index.html and FOLDER/images/NAME_fake_B.png."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from engine.errors import SinkError
from training.data import Dataset
from training.files import write_whole
from training.gallery import to_pictures


class ResultPage:
    """Writes pictures one by one, and the page that shows them in rows."""

    def __init__(self, folder: Path, *, title: str, width: int = 256) -> None:
        self.folder, self._title, self._width = folder, title, width
        self._rows: list[tuple[str, list[tuple[str, str]]]] = []
        self._names: set[str] = set()
        try:
            (folder / "images").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"can't make the folder {folder / 'images'}: {error.strerror}") from error

    def add(self, name: str, pictures: Mapping[str, Tensor], *, aspect_ratio: float = 1.0) -> None:
        """Writes the pictures of one input.

        Args:
            name: of the input; names that two inputs share are told apart.
            pictures: label, "real_A" for example -> float [1, C, H, W] with C 1, 3 or 4, in [-1, 1].
            aspect_ratio: the width is multiplied by it.

        Raises:
            SinkError: a picture can't be written.
        """
        base, number = name.replace("/", "_"), 1
        while (own := base if number == 1 else f"{base}_{number}") in self._names:
            number += 1
        self._names.add(own)
        shown = []
        for label, image in pictures.items():
            picture = to_pictures(image)[0]
            if aspect_ratio != 1.0:
                height, width = picture.shape[:2]
                size = (max(1, round(width * aspect_ratio)), height)
                picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
            file = f"{own}_{label}.png"
            path = self.folder / "images" / file
            png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
            write_whole(path, lambda partial, png=png: partial.write_bytes(png))  # type: ignore[misc]
            shown.append((label, file))
        self._rows.append((own, shown))

    def write(self) -> Path:
        """Writes index.html and returns its path. Raises SinkError where that fails."""
        rows = []
        for name, shown in self._rows:
            cells = "".join(
                f'<td><a href="images/{link}"><img src="images/{link}" width="{self._width}" loading="lazy" '
                f'alt="{html.escape(label)}"></a><br>{html.escape(label)}</td>'
                for label, link in ((label, urllib.parse.quote(file)) for label, file in shown)
            )
            rows.append(f"<h3>{html.escape(name)}</h3>\n<table><tr>{cells}</tr></table>")
        title, body = html.escape(self._title), "\n".join(rows)
        text = (
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n<h1>{title}</h1>\n{body}'
        )
        page = self.folder / "index.html"
        write_whole(page, lambda partial: partial.write_text(text + "\n</html>\n"))
        return page


def name_of(dataset: Dataset, root: Path, index: int, phase: str) -> str:
    """A sample's name on the page: its path below the folders of phase and domain, without suffix."""
    try:
        parts = dataset.path(index).relative_to(root).with_suffix("").parts
    except TypeError:
        return f"{index:05d}"  # made pictures have no files
    phase_and_domain = {phase, "A", "B", *(f"{phase}{gap}{domain}" for gap in ("", "_") for domain in "AB")}
    while len(parts) > 1 and parts[0] in phase_and_domain:
        parts = parts[1:]
    return "/".join(parts)
