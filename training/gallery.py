"""Pictures of a run's samples: PNG files, and web/index.html that shows them, newest first."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from engine.errors import SinkError
from training.files import write_whole

_ROWS = 4
_GAP_PIXELS = 4
_CAPTION_PIXELS = 18
_SMALLEST_CELL_PIXELS = 128
_FONT_SCALE = 0.42


class Gallery:
    """Writes into FOLDER/web."""

    def __init__(self, folder: Path, *, title: str) -> None:
        self._folder, self._title = folder / "web", title

    def add(self, pictures: Mapping[str, Tensor], *, step: int, epoch: int) -> Path:
        """Draws the samples of a step, puts them on the page, and returns the PNG.

        Args:
            pictures: column's name -> float RGB [N, 3, H, W] in [-1, 1]; up to four rows are drawn.

        Raises:
            SinkError: the PNG or the page can't be written.
        """
        images = self._folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        path = images / f"step_{step:08d}_epoch_{epoch:04d}.png"
        written, png = cv2.imencode(".png", cv2.cvtColor(draw_grid(pictures), cv2.COLOR_RGB2BGR))
        if not written:
            raise SinkError(f"can't encode {path}")
        write_whole(path, lambda partial: partial.write_bytes(png.tobytes()))
        write_whole(self._folder / "index.html", lambda partial: partial.write_text(self._page(images)))
        return path

    def _page(self, images: Path) -> str:
        entries = []
        for name in sorted((path.name for path in images.glob("step_*.png")), reverse=True):
            step, epoch = (int(number) for number in re.findall(r"\d+", name))
            image = f'<img src="images/{name}" loading="lazy" alt="samples of step {step}">'
            entries.append(f'<h2>step {step}, epoch {epoch}</h2>\n<a href="images/{name}">{image}</a>')
        title = html.escape(self._title)
        style = "body{font:15px system-ui;margin:2em;background:#fff;color:#2b2e32}h2{font-size:1em}img{max-width:100%}"
        return (
            f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>\n'
            f'<h1>{title}</h1>\n<p><a href="../losses.csv">losses.csv</a></p>\n' + "\n".join(entries) + "\n</html>\n"
        )


def draw_grid(pictures: Mapping[str, Tensor]) -> npt.NDArray[np.uint8]:
    """Samples as one picture, uint8 RGB [H, W, 3]: a column per name, a row per sample; small pictures are enlarged."""
    columns = {name: to_pictures(images[:_ROWS]) for name, images in pictures.items()}
    largest = max(max(images.shape[1:3]) for images in columns.values())
    times = -(-_SMALLEST_CELL_PIXELS // largest)
    columns = {name: images.repeat(times, axis=1).repeat(times, axis=2) for name, images in columns.items()}
    height, width = np.max([images.shape[1:3] for images in columns.values()], axis=0)
    rows = max(len(images) for images in columns.values())
    size = _CAPTION_PIXELS + rows * (height + _GAP_PIXELS), len(columns) * (width + _GAP_PIXELS)
    canvas = np.full((*size, 3), 255, np.uint8)
    for column, (name, images) in enumerate(columns.items()):
        left = column * (width + _GAP_PIXELS)
        (long, _), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, 1)
        scale = _FONT_SCALE * min(1.0, (width - 4) / max(1, long))
        cv2.putText(canvas, name, (left + 2, 13), cv2.FONT_HERSHEY_SIMPLEX, scale, (43, 46, 50), 1, cv2.LINE_AA)
        for row, image in enumerate(images):
            top = _CAPTION_PIXELS + row * (height + _GAP_PIXELS)
            canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def to_pictures(images: Tensor) -> npt.NDArray[np.uint8]:
    """float [N, C, H, W] in [-1, 1] -> uint8 RGB [N, H, W, 3]; one channel is shown grey, two as the first.

    Alpha, the fourth, is not shown.
    """
    values = images.detach().float().cpu().add(1.0).mul(127.5).round().clamp(0, 255)
    pictures = values.permute(0, 2, 3, 1).contiguous().numpy().astype(np.uint8)
    pictures = pictures[..., :3] if pictures.shape[3] == 4 else pictures
    return pictures if pictures.shape[3] == 3 else np.repeat(pictures[..., :1], 3, axis=3)
