"""Folders, samples and batches."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.errors import EngineError, SourceError
from tests.training.pictures import aligned_folder, unaligned_folder, write_folder, write_picture
from training.data import Batches, Dataset, Transform, list_images, make_dataset, open_batches
from training.data.datasets import DataOptions, shrink
from training.data.flow import flow_between, warp
from training.data.images import ImageFolder, read_image
from training.data.transforms import from_lab, to_lab, to_tensor

SMALL = Transform("resize_and_crop", load_size=36, crop_size=32)


def dataset(mode: str, root: Path, transform: Transform = SMALL, **options: object) -> Dataset:
    return make_dataset(mode, root, DataOptions(transform, **options))  # type: ignore[arg-type]


# --- images ---


def test_images_are_listed_by_name_in_all_folders(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.webp"):
        write_picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png", "c.webp"]
    assert len(list_images(tmp_path, limit=2)) == 2


def test_grey_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    for name, shape in (("grey.png", (8, 9)), ("transparent.png", (8, 9, 4))):
        assert cv2.imwrite(str(tmp_path / name), np.full(shape, 100, np.uint8))
        assert read_image(tmp_path / name).shape == (8, 9, 3)


def test_colours_are_rgb(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "red.png"), np.full((2, 2, 3), (0, 0, 255), np.uint8))
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


def test_the_cache_saves_decoding_within_its_limit(tmp_path: Path) -> None:
    paths = list_images(write_folder(tmp_path, 3))
    folder = ImageFolder(paths, cache_bytes=2 * 48 * 40 * 3)
    first = [folder[number] for number in range(3)]
    for path in paths:
        path.unlink()
    assert np.array_equal(folder[0], first[0])
    assert np.array_equal(folder[1], first[1])
    with pytest.raises(SourceError, match=r"002\.png can't be read"):
        folder[2]


# --- transforms ---


def draws(transform: Transform, count: int = 200) -> list[np.ndarray]:
    ramp = np.dstack([np.tile(np.arange(60, dtype=np.uint8), (50, 1))] * 3)
    random = np.random.default_rng(0)
    return [transform.apply(ramp, transform.draw(random), "ramp") for _ in range(count)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("resize_and_crop", (32, 32)),
        ("crop", (32, 32)),
        ("scale_width", (32, 36)),
        ("scale_width_and_crop", (32, 32)),
        ("none", (48, 60)),
    ],
)
def test_sizes_of_the_modes(mode: str, expected: tuple[int, int]) -> None:
    """60x50 pictures, --load_size 36 or 40, --crop_size 32; sides are multiples of 4."""
    load_size = 40 if mode == "scale_width_and_crop" else 36
    sizes = {image.shape[:2] for image in draws(Transform(mode, load_size=load_size, crop_size=32))}
    assert sizes == {expected}


def test_crops_reach_every_place_and_half_are_flipped() -> None:
    images = draws(Transform("crop", crop_size=32), count=1000)
    flipped = [image for image in images if image[0, 0, 0] > image[0, -1, 0]]
    assert 430 < len(flipped) < 570
    assert {int(image[0].min()) for image in images} == set(range(60 - 32 + 1))
    assert not [i for i in draws(Transform("crop", crop_size=32, flip=False)) if i[0, 0, 0] > i[0, -1, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "squash"}, "accepted are resize_and_crop"),
        ({"load_size": 30, "crop_size": 32}, "smaller than --crop_size"),
        ({"load_size": 60, "crop_size": 50, "multiple": 32}, "no multiple of 32"),
    ],
)
def test_sizes_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Transform(**values)  # type: ignore[arg-type]


def test_values_of_tensors() -> None:
    image = np.array([[[0, 128, 255]]], np.uint8)
    assert to_tensor(image).flatten().tolist() == pytest.approx([-1, 128 / 127.5 - 1, 1], abs=1e-6)
    assert to_tensor(image, (0.0, 1.0)).flatten().tolist() == pytest.approx([0, 128 / 255, 1])


def test_lab_and_back(tmp_path: Path) -> None:
    image = read_image(write_picture(tmp_path / "a.png"))
    lightness, colours = to_lab(image)
    assert (lightness.shape[0], colours.shape[0]) == (1, 2)
    assert float(lightness.abs().max()) <= 1.001
    back = from_lab(lightness[None], colours[None])[0]
    assert float((back - to_tensor(image)).abs().max()) < 3 / 255
    grey_l, grey_c = to_lab(np.full((2, 2, 3), 255, np.uint8))
    assert grey_l.unique().tolist() == pytest.approx([1.0])
    assert float(grey_c.abs().max()) < 1e-3


# --- datasets ---


@pytest.mark.parametrize("form", ["trainA", "train_A", "train/A"])
def test_unaligned_folders(tmp_path: Path, form: str) -> None:
    write_folder(tmp_path / form, 3)
    write_folder(tmp_path / form.replace("A", "B"), 5, seed=50)
    data = dataset("unaligned", tmp_path)
    assert len(data) == 5
    sample = data[0, 4]
    assert {name: tuple(tensor.shape) for name, tensor in sample.items()} == {"A": (3, 32, 32), "B": (3, 32, 32)}


def test_the_partner_changes_from_epoch_to_epoch_unless_serial(tmp_path: Path) -> None:
    unaligned_folder(tmp_path, 8)
    plain = Transform("none", flip=False)
    loose, serial = dataset("unaligned", tmp_path, plain), dataset("unaligned", tmp_path, plain, serial=True)
    assert len({float(loose[epoch, 0]["B"].sum()) for epoch in range(20)}) > 3
    assert len({float(serial[epoch, 0]["B"].sum()) for epoch in range(20)}) == 1


def test_a_sample_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    unaligned_folder(tmp_path)
    data, again = dataset("unaligned", tmp_path), dataset("unaligned", tmp_path)
    wanted = data[2, 3]
    for place in ((0, 0), (2, 1), (2, 3)):
        got = again[place]
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    other = dataset("unaligned", tmp_path, seed=1)[2, 3]
    assert not torch.equal(wanted["A"], other["A"])


@pytest.mark.parametrize("form", ["side by side", "A/train", "trainA", "train/A", "A"])
def test_aligned_pairs_are_cropped_alike(tmp_path: Path, form: str) -> None:
    """B is A's negative, in every crop and flip."""
    for number in range(3):
        a = read_image(write_picture(tmp_path / "x.png", size=(40, 40), seed=number))
        (tmp_path / "x.png").unlink()
        b = 255 - a
        if form == "side by side":
            (tmp_path / "train").mkdir(exist_ok=True)
            assert cv2.imwrite(str(tmp_path / f"train/{number}.png"), np.hstack([a, b]))
            continue
        for name, image in (("A", a), ("B", b)):
            folder = tmp_path / form.replace("A", name)
            folder.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(folder / f"{number}.png"), image)
    data = dataset("aligned", tmp_path)
    assert len(data) == 3
    for place in ((0, 0), (1, 1), (7, 2)):
        sample = data[place]
        assert float((sample["A"] + sample["B"]).abs().max()) <= 2.01 / 255
    swapped = dataset("aligned", tmp_path, direction="BtoA")[0, 0]
    assert torch.equal(swapped["A"], data[0, 0]["B"])


def test_super_resolution_makes_its_small_pictures(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 2)
    sample = dataset("super_resolution", tmp_path, Transform("crop", crop_size=32), scale=4)[0, 0]
    assert sample["A"].shape == (3, 8, 8)
    assert sample["B"].shape == (3, 32, 32)
    assert torch.equal(shrink(sample["B"][None], 4)[0], sample["A"])
    assert torch.equal((sample["A"] * 255).round() / 255, sample["A"])
    flat = torch.full((1, 3, 16, 16), 100 / 255)
    assert torch.allclose(shrink(flat, 2), flat[..., :8, :8])


def test_colorization_gives_lightness_and_colours(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", 2)
    sample = dataset("colorization", tmp_path)[0, 0]
    assert (tuple(sample["A"].shape), tuple(sample["B"].shape)) == ((1, 32, 32), (2, 32, 32))


def test_single_takes_the_folder_itself(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    assert list(dataset("single", tmp_path)[0, 1]) == ["A"]


def test_frames_come_with_their_motion(tmp_path: Path) -> None:
    """A picture that moves by 3 pixels to the right: the flow says so, and warping undoes it."""
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8), (0, 0), 2)
    for number in range(3):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), texture[:, 20 - 3 * number : 148 - 3 * number])
    data = dataset("frames", tmp_path, Transform("none", flip=False))
    assert len(data) == 2
    sample = data[0, 0]
    known = sample["mask"][0] > 0
    assert known.float().mean() > 0.8
    assert float(sample["flow"][0][known].median()) == pytest.approx(-3, abs=0.3)
    moved = warp(sample["A"][None], sample["flow"][None])[0]
    still = ((sample["A"] - sample["next"]).abs() * known).sum()
    assert ((moved - sample["next"]).abs() * known).sum() < 0.3 * still


def test_tiny_frames_have_no_known_motion() -> None:
    flow, mask = flow_between(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8))
    assert flow.shape == (8, 8, 2)
    assert not mask.any()


# --- bad input ---


@pytest.mark.parametrize(
    ("mode", "message"),
    [("unaligned", "no folder trainB"), ("aligned", "no images|no folder"), ("single", "no images")],
)
def test_missing_folders_are_named(tmp_path: Path, mode: str, message: str) -> None:
    if mode == "unaligned":
        write_folder(tmp_path / "trainA", 1)
    with pytest.raises(SourceError, match=message):
        dataset(mode, tmp_path)
    with pytest.raises(SourceError, match="no folder"):
        dataset(mode, tmp_path / "nowhere")


def test_pairs_with_one_missing_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "trainA", 3)
    write_folder(tmp_path / "trainB", 2)
    with pytest.raises(SourceError, match="002 is in one of"):
        dataset("aligned", tmp_path)


def test_pairs_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "trainA", 1)
    write_folder(tmp_path / "trainB", 1, size=(40, 48))
    with pytest.raises(SourceError, match=r"000\.png is 48x40 and 40x48"):
        dataset("aligned", tmp_path)[0, 0]


def test_small_and_broken_images_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "trainA", 1, size=(20, 40))
    write_folder(tmp_path / "trainB", 1)
    with pytest.raises(SourceError, match=r"000\.png is 20x40 .* too small for --crop_size 32"):
        dataset("unaligned", tmp_path, Transform("crop", crop_size=32))[0, 0]
    (tmp_path / "trainA/000.png").write_bytes(b"\x89PNG broken")
    for workers in (0, 2):
        batches = open_batches(dataset("unaligned", tmp_path), size=1, workers=workers)
        with pytest.raises(SourceError, match=r"^\S*000\.png can't be read as an image: remove or replace it$"):
            list(batches.epoch(0))


@pytest.mark.parametrize(("mode", "direction", "message"), [("alined", "AtoB", "accepted"), ("single", "AB", "AtoB")])
def test_unknown_names_say_what_there_is(tmp_path: Path, mode: str, direction: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        dataset(mode, write_folder(tmp_path, 1), direction=direction)


# --- batches ---


def sums(batches: Batches, epoch: int, **options: int) -> list[float]:
    return [float(batch["A"].double().sum()) for batch in batches.epoch(epoch, **options)]


def test_batches_do_not_depend_on_workers_and_can_be_resumed(tmp_path: Path) -> None:
    data = dataset("aligned", aligned_folder(tmp_path, 7))
    here = open_batches(data, size=2, workers=0)
    elsewhere = open_batches(data, size=2, workers=2)
    assert len(here) == 4
    whole = sums(here, 3)
    assert sums(elsewhere, 3) == whole
    assert sums(here, 3, skip=2) == whole[2:]
    assert sums(here, 4) != whole


def test_every_image_comes_once_an_epoch(tmp_path: Path) -> None:
    data = dataset("aligned", aligned_folder(tmp_path, 7), Transform("none", flip=False))
    alone = sorted(float(data[0, index]["A"].double().sum()) for index in range(7))
    for epoch in range(3):
        assert sorted(sums(open_batches(data, size=1), epoch)) == pytest.approx(alone)
    assert sums(open_batches(data, size=1, shuffle=False), 0) == [
        float(data[0, index]["A"].double().sum()) for index in range(7)
    ]


def test_reading_leaves_torchs_random_numbers_alone(tmp_path: Path) -> None:
    batches = open_batches(dataset("aligned", aligned_folder(tmp_path, 3)), size=1)
    before = torch.get_rng_state()
    sums(batches, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_images_are_not_changed_by_what_is_done_with_them(tmp_path: Path) -> None:
    data = dataset("aligned", aligned_folder(tmp_path, 1))
    first = data[0, 0]
    kept = {name: tensor.clone() for name, tensor in first.items()}
    for tensor in first.values():
        tensor.zero_()
    assert all(torch.equal(data[0, 0][name], tensor) for name, tensor in kept.items())
    shutil.rmtree(tmp_path / "train")
    assert torch.equal(data[0, 0]["A"], kept["A"])
