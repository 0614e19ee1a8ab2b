"""Grids of samples, and the page that shows them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from training.gallery import Gallery, draw_grid, to_pictures


def test_columns_are_names_and_rows_are_samples() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(2, 3, 10, 12)
    grid = draw_grid({"real": red, "fake": -red})
    assert grid.shape == (18 + 2 * 14, 2 * 16, 3)
    assert grid[20, 3].tolist() == [255, 0, 0]
    assert grid[20, 19].tolist() == [0, 255, 255]
    assert grid[34, 3].tolist() == [255, 0, 0]
    assert (grid[:18] < 100).any()  # the names


def test_small_and_grey_pictures_fit() -> None:
    grid = draw_grid({"small": torch.zeros(1, 3, 4, 4), "large": torch.zeros(9, 1, 16, 16)})
    assert grid.shape == (18 + 4 * 20, 2 * 20, 3)


def test_values_become_bytes_rounded_and_clamped() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_pictures(values)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_the_page_shows_the_newest_first(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, title="a <run>")
    for step in (9, 100):
        path = gallery.add({"real": torch.zeros(1, 3, 8, 8)}, step=step, epoch=1)
        assert cv2.imread(str(path)).shape == (18 + 12, 12, 3)
    page = (tmp_path / "web/index.html").read_text()
    assert "a &lt;run&gt;" in page
    assert page.index("step 100") < page.index("step 9,")
    assert np.all([(tmp_path / "web" / part.split('"')[0]).is_file() for part in page.split('src="')[1:]])
    assert not list(tmp_path.rglob("*.part"))
