"""The samples of each `--dataset_mode`. A sample is a function of (seed, epoch, index) and nothing else.

| mode | keys of a sample | folders below --dataroot |
|---|---|---|
| unaligned | A, B | trainA and trainB, or train_A and train_B |
| aligned | A, B | train with A and B side by side in one image; or two folders with equal names: see `_pair_folders` |
| single | A | train, or --dataroot itself |
| frames | A, next, flow, mask | the same; the images are frames of a video in the order of their names |
| colorization | A (lightness), B (colours) | train |
| super_resolution | A (small, [0, 1]), B (large, [0, 1]) | train |
| distillation | A (with noise), B (the teacher's picture of A) | any folders of pictures |

Values are float32 [C, H, W], in [-1, 1] unless the table says otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.errors import EngineError, SourceError
from training.data.checks import Size, check_images
from training.data.flow import flow_between
from training.data.images import Image, ImageFolder, list_images
from training.data.teacher import TeacherOptions, teacher_pairs
from training.data.transforms import Geometry, Transform, in_channels, to_lab, to_tensor

Sample = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of all modes.

    Attributes:
        phase: "train", or "test" for the held-out images.
        direction: "AtoB", or "BtoA" to swap the domains.
        serial: unaligned images are paired in order, not at random.
        limit: only so many images of a folder.
        cache_bytes: memory for decoded images, per process that reads.
        scale: factor of super-resolution.
        teacher: for distillation.
        channels: of A and of B in unaligned, aligned and single data, after the direction: 1 (grey), 3 or 4 (alpha).
    """

    transform: Transform
    phase: str = "train"
    direction: str = "AtoB"
    serial: bool = False
    limit: int | None = None
    cache_bytes: int = 1 << 30
    scale: int = 4
    seed: int = 0
    teacher: TeacherOptions | None = None
    channels: tuple[int, int] = (3, 3)


class Dataset(torch.utils.data.Dataset[Sample]):
    """Samples by (epoch, index)."""

    count: int  # samples in an epoch

    def __init__(self, options: DataOptions) -> None:
        self.options = options

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        epoch, index = place
        return self.sample(index, np.random.default_rng((self.options.seed, epoch, index)))

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        """The sample of that number, drawn with these random numbers."""
        raise TypeError(f"{type(self).__name__} defines no sample")

    def _folder(self, paths: list[Path]) -> ImageFolder:
        return ImageFolder(paths, cache_bytes=self.options.cache_bytes, channels=4 if 4 in self.options.channels else 3)

    def path(self, index: int) -> Path:
        """The file of a sample's A."""
        raise TypeError(f"{type(self).__name__} has no files")

    def size_problem(self, sizes: Mapping[Path, Size]) -> str | None:
        """What doesn't fit about the sizes of the files, in one line."""
        transform = self.options.transform
        if transform.mode != "crop":
            return None
        for path, (height, width) in sizes.items():
            if min(height, width) < transform.crop_size:
                return f"{path} is {width}x{height}: too small for --crop_size {transform.crop_size}"
        return None

    def paths(self) -> list[Path]:
        """All files that samples come from."""
        folders = [value for value in vars(self).values() if isinstance(value, ImageFolder)]
        return sorted({path for folder in folders for path in folder.paths})

    def _as_pair(self, a: Image, b: Image) -> Sample:
        first, second = self.options.channels
        return {"A": to_tensor(in_channels(a, first)), "B": to_tensor(in_channels(b, second))}

    def _transformed(self, folder: ImageFolder, index: int, geometry: Geometry) -> Image:
        return self.options.transform.apply(folder[index], geometry, folder.paths[index])


class Unaligned(Dataset):
    """Images of two domains, without pairs."""

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
        return self._as_pair(a, b)

    def path(self, index: int) -> Path:
        return self._a.paths[index % len(self._a)]


class Aligned(Dataset):
    """Pairs: the same crop of an image of A and of its image of B."""

    def __init__(self, root: Path, options: DataOptions) -> None:
        super().__init__(options)
        folders = _pair_folders(root, options.phase)
        if folders:
            a, b = (_by_name(folder) for folder in folders)
            alone = sorted(a.keys() ^ b.keys())
            if alone:
                more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
                some = f"{', '.join(alone[:3])}{more} {'are' if len(alone) > 1 else 'is'}"
                raise SourceError(f"{some} in one of {folders[0]} and {folders[1]} only: pairs have equal names")
            names = sorted(a)[: options.limit]
            self._a = self._folder([a[n] for n in names])
            self._b: ImageFolder | None = self._folder([b[n] for n in names])
        else:
            self._a = self._folder(list_images(root / options.phase, limit=options.limit))
            self._b = None
        self.count = len(self._a)

    def size_problem(self, sizes: Mapping[Path, Size]) -> str | None:
        if self._b is None:
            return super().size_problem({path: (height, width // 2) for path, (height, width) in sizes.items()})
        for a, b in zip(self._a.paths, self._b.paths, strict=True):
            if sizes[a] != sizes[b]:
                shown = " and ".join(f"{width}x{height}" for height, width in (sizes[a], sizes[b]))
                return f"{a.name} is {shown} in A and B: pairs have equal sizes"
        return super().size_problem(sizes)

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        name = self._a.paths[index]
        a = self._a[index]
        if self._b is not None:
            b = self._b[index]
            if a.shape != b.shape:
                sizes = " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (a, b))
                raise SourceError(f"{name.name} is {sizes} in A and B: pairs have equal sizes")
        else:
            half = a.shape[1] // 2
            if half == 0:
                raise SourceError(f"{name} is one pixel wide: A and B are side by side in one image")
            a, b = a[:, :half], a[:, half : 2 * half]
        geometry = self.options.transform.draw(random)
        a, b = (self.options.transform.apply(image, geometry, name) for image in (a, b))
        if self.options.direction == "BtoA":
            a, b = b, a
        return self._as_pair(a, b)

    def path(self, index: int) -> Path:
        return self._a.paths[index]


class _OneFolder(Dataset):
    def __init__(self, root: Path, options: DataOptions) -> None:
        super().__init__(options)
        inner = root / options.phase
        self._images = self._folder(list_images(inner if inner.is_dir() else root, limit=options.limit))
        self.count = len(self._images)

    def path(self, index: int) -> Path:
        return self._images.paths[index]

    def _drawn(self, index: int, random: np.random.Generator) -> Image:
        return self._transformed(self._images, index, self.options.transform.draw(random))


class Single(_OneFolder):
    """Images of one domain."""

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        return {"A": to_tensor(in_channels(self._drawn(index, random), self.options.channels[0]))}


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
        lightness, colours = to_lab(self._drawn(index, random))
        return {"A": lightness, "B": colours}


class SuperResolution(_OneFolder):
    """An image, and the same smaller by `scale` with an anti-aliased bicubic filter, as 8-bit pictures are."""

    def __init__(self, root: Path, options: DataOptions) -> None:
        super().__init__(root, options)
        if options.transform.crops and options.transform.crop_size % options.scale:
            raise EngineError(f"--crop_size {options.transform.crop_size} is no multiple of --scale {options.scale}")

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        large = to_tensor(self._drawn(index, random), (0.0, 1.0))
        height, width = (side // self.options.scale * self.options.scale for side in large.shape[1:])
        large = large[:, :height, :width].contiguous()
        return {"A": shrink(large[None], self.options.scale)[0], "B": large}


class Distillation(Dataset):
    """A crop with noise added, and what the teacher made of the crop; held-out crops have no noise."""

    def __init__(self, root: Path, options: DataOptions) -> None:
        super().__init__(options)
        self._teacher = options.teacher
        if self._teacher is None:
            raise EngineError("--dataset_mode distillation needs --teacher, a checkpoint or a style network")
        folders = [root, *self._teacher.more_folders]
        size = options.transform.crop_size
        pairs = teacher_pairs(folders, self._teacher, crop_size=size, seed=options.seed, limit=options.limit)
        self._pair = pairs[options.phase]
        self.count = len(self._pair[0])

    def sample(self, index: int, random: np.random.Generator) -> Sample:
        assert self._teacher is not None
        geometry = self.options.transform.draw(random)
        a, b = (to_tensor(self.options.transform.apply(i[index], geometry, f"crop {index}")) for i in self._pair)
        if self.options.phase == "train":
            deviation = np.float32(random.uniform(0.0, self._teacher.noise) / 127.5)
            a = (a + torch.from_numpy(deviation * random.standard_normal(a.shape, np.float32))).clamp_(-1.0, 1.0)
        return {"A": a, "B": b}


def shrink(images: Tensor, scale: int) -> Tensor:
    """[N, C, H, W] in [0, 1] -> [N, C, H / scale, W / scale], anti-aliased bicubic, rounded to 255 steps."""
    small = F.interpolate(images, scale_factor=1 / scale, mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(0.0, 1.0).mul(255.0).round().div(255.0)


def _by_name(folder: Path) -> dict[str, Path]:
    """Path in the folder, without suffix -> file. Raises SourceError where two files differ in the suffix only."""
    named: dict[str, Path] = {}
    for path in list_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise SourceError(f"{named[name]} and {path.name} have one name: pairs have equal names without the suffix")
        named[name] = path
    return named


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
    forms = [f"{phase}/%s", f"{phase}%s", f"{phase}_%s", f"%s/{phase}", *(["%s"] if phase == "train" else [])]
    pairs = [(root / (form % "A"), root / (form % "B")) for form in forms]
    return next(((a, b) for a, b in pairs if a.is_dir() and b.is_dir()), None)


_DATASETS: dict[str, Callable[[Path, DataOptions], Dataset]] = {
    "unaligned": Unaligned,
    "aligned": Aligned,
    "single": Single,
    "frames": Frames,
    "colorization": Colorization,
    "super_resolution": SuperResolution,
    "distillation": Distillation,
}

DATASET_MODES = tuple(_DATASETS)


def make_dataset(mode: str, root: Path, options: DataOptions) -> Dataset:
    """Opens a dataset. Raises EngineError for unknown names, sizes that don't fit, and folders without images."""
    if mode not in _DATASETS:
        raise EngineError(f"unknown --dataset_mode {mode!r}: accepted are {', '.join(DATASET_MODES)}")
    if options.direction not in ("AtoB", "BtoA"):
        raise EngineError(f"unknown --direction {options.direction!r}: accepted are AtoB and BtoA")
    return _DATASETS[mode](root, options)


def check(dataset: Dataset) -> list[str]:
    """Reads all images of a data set; returns notes for people. Raises SourceError where some don't fit."""
    sizes, notes = check_images(dataset.paths())
    if problem := dataset.size_problem(sizes):
        raise SourceError(problem)
    return notes


def open_dataset(options: argparse.Namespace, transform: Transform, *, phase: str = "train") -> Dataset:
    """The dataset that a command line (`training.options`) asks for. Raises EngineError as `make_dataset`."""
    teacher = None
    if options.teacher is not None:
        teacher = TeacherOptions(
            options.teacher,
            options.teacher_style,
            crops=options.crops,
            noise=options.input_noise,
            kept_in=options.pairs_dir or options.checkpoints_dir / options.name,
            more_folders=tuple(options.more_images),
        )
    data = DataOptions(
        transform,
        phase=phase,
        direction=options.direction,
        serial=options.serial_batches,
        limit=options.max_dataset_size,
        cache_bytes=(options.cache_mb << 20) // max(1, options.num_threads),
        scale=options.scale,
        seed=options.seed,
        teacher=teacher,
        channels=(getattr(options, "input_nc", 3), getattr(options, "output_nc", 3)),
    )
    return make_dataset(options.dataset_mode, options.dataroot, data)
