"""Grids of samples, and the page that shows them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from training.gallery import Gallery, draw_grid, to_pictures


def test_columns_are_names_and_rows_are_samples() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(2, 3, 130, 140)
    grid = draw_grid({"real": red, "fake": -red})
    assert grid.shape == (18 + 2 * 134, 2 * 144, 3)
    assert grid[20, 3].tolist() == [255, 0, 0]
    assert grid[20, 147].tolist() == [0, 255, 255]
    assert grid[154, 3].tolist() == [255, 0, 0]
    assert (grid[:18] < 100).any()  # the names


def test_small_and_grey_pictures_fit() -> None:
    grid = draw_grid({"small": torch.zeros(1, 3, 64, 64), "large": torch.zeros(9, 1, 128, 128)})
    assert grid.shape == (18 + 4 * 132, 2 * 132, 3)


def test_tiny_pictures_are_enlarged_pixel_by_pixel() -> None:
    image = torch.full((1, 3, 2, 2), -1.0)
    image[..., 0, 1] = 1.0
    grid = draw_grid({"tiny": image})
    assert grid.shape == (18 + 132, 132, 3)
    assert (grid[18 : 18 + 64, 64:128] == 255).all()
    assert (grid[18 + 64 : 18 + 128, :128] == 0).all()


def test_names_do_not_run_into_the_next_column() -> None:
    grid = draw_grid(
        {"a name that is much longer than its column": torch.zeros(1, 3, 128, 128), "": torch.zeros(1, 3, 128, 128)}
    )
    assert (grid[:18, 130:] == 255).all()


def test_values_become_bytes_rounded_and_clamped() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_pictures(values)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_the_page_shows_the_newest_first(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, title="a <run>")
    for step in (9, 100):
        path = gallery.add({"real": torch.zeros(1, 3, 8, 8)}, step=step, epoch=1)
        assert cv2.imread(str(path)).shape == (18 + 132, 132, 3)
    page = (tmp_path / "web/index.html").read_text()
    assert "a &lt;run&gt;" in page
    assert page.index("step 100") < page.index("step 9,")
    assert np.all([(tmp_path / "web" / part.split('"')[0]).is_file() for part in page.split('src="')[1:]])
    assert not list(tmp_path.rglob("*.part"))
