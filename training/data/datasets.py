"""What one sample is, per `--dataset_mode`. A sample is a function of (seed, epoch, index) and nothing else.

| mode | keys of a sample | folders below --dataroot |
|---|---|---|
| unaligned | A, B | trainA and trainB, or train_A and train_B |
| aligned | A, B | train with A and B side by side in one image; or two folders with equal names: see `_pair_folders` |
| single | A | train, or --dataroot itself |
| frames | A, next, flow, mask | the same; the images are frames of a video in the order of their names |
| colorization | A (lightness), B (colours) | train |
| super_resolution | A (small, [0, 1]), B (large, [0, 1]) | train |

Values are in [-1, 1] where nothing else is said, float32 [C, H, W].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import EngineError, SourceError
from training.data.flow import flow_between
from training.data.images import Image, ImageFolder, list_images
from training.data.transforms import Geometry, Transform, to_lab, to_tensor

Sample = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What all modes share.

    Attributes:
        phase: "train", or "test" for the held-out images.
        direction: "AtoB", or "BtoA" to swap the domains.
        serial: unaligned images are paired in order, not at random.
        limit: take only so many images of a folder.
        cache_bytes: of decoded images, per process that reads.
        scale: of super-resolution.
    """

    transform: Transform
    phase: str = "train"
    direction: str = "AtoB"
    serial: bool = False
    limit: int | None = None
    cache_bytes: int = 1 << 30
    scale: int = 4
    seed: int = 0


class Dataset(torch.utils.data.Dataset[Sample]):
    """Samples by (epoch, index).

    Attributes:
        count: samples in an epoch.
    """

    count: int

    def __init__(self, options: DataOptions) -> None:
        self.options = options

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        epoch, index = place
        return self.sample(index, np.random.default_rng((self.options.seed, epoch, index)))

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        """The sample of that number, with these random numbers."""
        raise TypeError(f"{type(self).__name__} defines no sample")

    def _folder(self, paths: list[Path]) -> ImageFolder:
        return ImageFolder(paths, cache_bytes=self.options.cache_bytes)

    def _transformed(self, folder: ImageFolder, index: int, geometry: Geometry) -> Image:
        return self.options.transform.apply(folder[index], geometry, folder.paths[index])


class Unaligned(Dataset):
    """Images of two domains that have nothing to do with each other."""

    def __init__(self, root: Path, options: DataOptions) -> None:
        super().__init__(options)
        a, b = (self._folder(list_images(_domain(root, options.phase, name), limit=options.limit)) for name in "AB")
        self._a, self._b = (a, b) if options.direction == "AtoB" else (b, a)
        self.count = max(len(a), len(b))

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        of_b = index % len(self._b) if self.options.serial else int(random.integers(len(self._b)))
        transform = self.options.transform
        a = self._transformed(self._a, index % len(self._a), transform.draw(random))
        b = self._transformed(self._b, of_b, transform.draw(random))
        return {"A": to_tensor(a), "B": to_tensor(b)}


class Aligned(Dataset):
    """Pairs: the same crop of an image of A and of its image of B."""

    def __init__(self, root: Path, options: DataOptions) -> None:
        super().__init__(options)
        folders = _pair_folders(root, options.phase)
        if folders:
            a, b = ({p.stem: p for p in list_images(folder)} for folder in folders)
            alone = sorted(a.keys() ^ b.keys())
            if alone:
                raise SourceError(f"{alone[0]} is in one of {folders[0]} and {folders[1]} only: pairs have equal names")
            names = sorted(a)[: options.limit]
            self._a = self._folder([a[n] for n in names])
            self._b: ImageFolder | None = self._folder([b[n] for n in names])
        else:
            self._a = self._folder(list_images(root / options.phase, limit=options.limit))
            self._b = None
        self.count = len(self._a)

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        name = self._a.paths[index]
        first = self._a[index]
        if self._b is not None:
            a, b = first, self._b[index]
            if a.shape != b.shape:
                sizes = " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (a, b))
                raise SourceError(f"{name.name} is {sizes} in A and B: pairs have equal sizes")
        else:
            half = first.shape[1] // 2
            if half == 0:
                raise SourceError(f"{name} is one pixel wide: A and B are side by side in one image")
            a, b = first[:, :half], first[:, half : 2 * half]
        geometry = self.options.transform.draw(random)
        a, b = (self.options.transform.apply(image, geometry, name) for image in (a, b))
        if self.options.direction == "BtoA":
            a, b = b, a
        return {"A": to_tensor(a), "B": to_tensor(b)}


class _OneFolder(Dataset):
    def __init__(self, root: Path, options: DataOptions) -> None:
        super().__init__(options)
        inner = root / options.phase
        self._images = self._folder(list_images(inner if inner.is_dir() else root, limit=options.limit))
        self.count = len(self._images)


class Single(_OneFolder):
    """Images of one domain."""

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        return {"A": to_tensor(self._transformed(self._images, index, self.options.transform.draw(random)))}


class Frames(_OneFolder):
    """A frame of a video, the one after it, and how the picture moved between them."""

    def __init__(self, root: Path, options: DataOptions) -> None:
        super().__init__(root, options)
        if self.count < 2:
            raise SourceError(f"one image in {root}: frames are needed in pairs")
        self.count -= 1

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        geometry = self.options.transform.draw(random)
        first, second = (self._transformed(self._images, number, geometry) for number in (index, index + 1))
        if first.shape != second.shape:
            raise SourceError(f"{self._images.paths[index + 1]} differs in size from the frame before it")
        flow, mask = flow_between(second, first)
        return {
            "A": to_tensor(first),
            "next": to_tensor(second),
            "flow": torch.from_numpy(flow).permute(2, 0, 1).contiguous(),
            "mask": torch.from_numpy(mask)[None],
        }


class Colorization(_OneFolder):
    """Lightness and colours of an image, CIE Lab (`transforms.to_lab`)."""

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        lightness, colours = to_lab(self._transformed(self._images, index, self.options.transform.draw(random)))
        return {"A": lightness, "B": colours}


class SuperResolution(_OneFolder):
    """An image, and the same smaller by `scale` with an anti-aliased bicubic filter, as 8-bit pictures are."""

    def __init__(self, root: Path, options: DataOptions) -> None:
        super().__init__(root, options)
        if options.transform.crops and options.transform.crop_size % options.scale:
            raise EngineError(f"--crop_size {options.transform.crop_size} is no multiple of --scale {options.scale}")

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        picture = self._transformed(self._images, index, self.options.transform.draw(random))
        large = to_tensor(picture, (0.0, 1.0))
        height, width = (side // self.options.scale * self.options.scale for side in large.shape[1:])
        large = large[:, :height, :width].contiguous()
        return {"A": shrink(large[None], self.options.scale)[0], "B": large}


def shrink(images: Tensor, scale: int) -> Tensor:
    """[N, C, H, W] in [0, 1] -> [N, C, H / scale, W / scale], anti-aliased bicubic, rounded to 255 steps."""
    small = F.interpolate(images, scale_factor=1 / scale, mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(0.0, 1.0).mul(255.0).round().div(255.0)


def _domain(root: Path, phase: str, name: str) -> Path:
    """The folder of one domain."""
    if not root.is_dir():
        raise SourceError(f"no folder {root}: --dataroot is the folder that holds {phase}A and {phase}B")
    for folder in (root / f"{phase}{name}", root / f"{phase}_{name}", root / phase / name):
        if folder.is_dir():
            return folder
    raise SourceError(f"no folder {phase}{name} (or {phase}_{name}) in {root}: it holds the images of domain {name}")


def _pair_folders(root: Path, phase: str) -> tuple[Path, Path] | None:
    """Folders with images of equal names; None: A and B are side by side in the images of one folder."""
    if not root.is_dir():
        raise SourceError(f"no folder {root}: --dataroot is the folder that holds {phase}")
    forms = [
        (root / phase / "A", root / phase / "B"),
        (root / f"{phase}A", root / f"{phase}B"),
        (root / f"{phase}_A", root / f"{phase}_B"),
        (root / "A" / phase, root / "B" / phase),
    ]
    if phase == "train":
        forms.append((root / "A", root / "B"))
    return next(((a, b) for a, b in forms if a.is_dir() and b.is_dir()), None)


_DATASETS: dict[str, Callable[[Path, DataOptions], Dataset]] = {
    "unaligned": Unaligned,
    "aligned": Aligned,
    "single": Single,
    "frames": Frames,
    "colorization": Colorization,
    "super_resolution": SuperResolution,
}

DATASET_MODES = tuple(_DATASETS)


def make_dataset(mode: str, root: Path, options: DataOptions) -> Dataset:
    """Opens a dataset; no image is decoded yet.

    Raises:
        EngineError: an unknown mode or direction, sizes that don't fit.
        SourceError: a folder is missing or has no images.
    """
    if mode not in _DATASETS:
        raise EngineError(f"unknown --dataset_mode {mode!r}: accepted are {', '.join(DATASET_MODES)}")
    if options.direction not in ("AtoB", "BtoA"):
        raise EngineError(f"unknown --direction {options.direction!r}: accepted are AtoB and BtoA")
    return _DATASETS[mode](root, options)
