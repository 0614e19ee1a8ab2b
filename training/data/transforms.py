"""Resizing, cropping and flipping, with random numbers that are handed in.

The modes are those of the reference implementation: `resize_and_crop` makes a square of `load_size` (whatever the
aspect) and crops, `crop` only crops, `scale_width` makes the width `load_size`, `scale_width_and_crop` crops after
that, `none` changes no more than the size needs to become a multiple of what the networks take.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import torch
from torch import Tensor

from engine.errors import EngineError, SourceError
from training.data.images import Image

PREPROCESS_MODES = ("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none")


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Place of a crop, as fractions of the free space, and whether it is flipped."""

    top: float
    left: float
    flip: bool


@dataclasses.dataclass(frozen=True)
class Transform:
    """How images become equal in size.

    Attributes:
        mode: one of `PREPROCESS_MODES`.
        load_size, crop_size: pixels.
        flip: whether half of the images are mirrored.
        multiple: sides become multiples of it where the mode leaves them free.
    """

    mode: str = "resize_and_crop"
    load_size: int = 286
    crop_size: int = 256
    flip: bool = True
    multiple: int = 4

    def __post_init__(self) -> None:
        if self.mode not in PREPROCESS_MODES:
            raise EngineError(f"unknown --preprocess {self.mode!r}: accepted are {', '.join(PREPROCESS_MODES)}")
        if self.crops and self.crop_size % self.multiple:
            raise EngineError(f"--crop_size {self.crop_size} is no multiple of {self.multiple}: that is needed")
        if self.mode == "resize_and_crop" and self.load_size < self.crop_size:
            raise EngineError(f"--load_size {self.load_size} is smaller than --crop_size {self.crop_size}")

    @property
    def crops(self) -> bool:
        """Whether all images come out as squares of `crop_size`."""
        return "crop" in self.mode

    def draw(self, random: np.random.Generator) -> Geometry:
        """Random numbers for one image, or for a pair that has to stay aligned."""
        top, left, flip = random.random(3)
        return Geometry(float(top), float(left), self.flip and bool(flip < 0.5))

    def apply(self, image: Image, geometry: Geometry, name: object) -> Image:
        """The image resized, cropped and flipped. Raises SourceError with its `name` if the crop is larger."""
        height, width = image.shape[:2]
        if self.mode == "resize_and_crop":
            image = resize(image, self.load_size, self.load_size)
        elif self.mode.startswith("scale_width"):
            # as the reference has it, the height is at least that of the crop
            height = max(round(height * self.load_size / width), self.crop_size if self.crops else 1)
            image = resize(image, self.load_size, height)
        if self.crops:
            size, (height, width) = self.crop_size, image.shape[:2]
            if min(height, width) < size:
                raise SourceError(f"{name} is {width}x{height} where it is cropped: too small for --crop_size {size}")
            top, left = int(geometry.top * (height - size + 1)), int(geometry.left * (width - size + 1))
            image = image[top : top + size, left : left + size]
        else:
            sides = [max(self.multiple, round(side / self.multiple) * self.multiple) for side in image.shape[:2]]
            image = resize(image, sides[1], sides[0])
        return np.ascontiguousarray(image[:, ::-1] if geometry.flip else image)


def resize(image: Image, width: int, height: int) -> Image:
    """Averages where it shrinks, bicubic where it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = width * height < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


def to_tensor(image: Image, value_range: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """uint8 [H, W, C] -> float32 [C, H, W] in `value_range`."""
    low, high = value_range
    values = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous().float()
    return values.div_(255.0 / (high - low)).add_(low)


def in_channels(image: Image, count: int) -> Image:
    """RGB or RGB and alpha [H, W, C] -> [H, W, count]: 1 is grey, 3 is RGB."""
    if image.shape[2] == count:
        return image
    if count == 1:
        return np.asarray(cv2.cvtColor(image[..., :3], cv2.COLOR_RGB2GRAY), dtype=np.uint8)[..., None]
    return image[..., :count]


def to_lab(image: Image) -> tuple[Tensor, Tensor]:
    """RGB uint8 [H, W, 3] -> lightness [1, H, W] and colours [2, H, W], float32 about [-1, 1].

    CIE Lab with lightness / 50 - 1 and a, b / 110, as in the reference implementation.
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    values = torch.from_numpy(np.ascontiguousarray(lab)).permute(2, 0, 1)
    return values[:1] / 50.0 - 1.0, values[1:] / 110.0


def from_lab(lightness: Tensor, colours: Tensor) -> Tensor:
    """The inverse of `to_lab` for a batch: [N, 1, H, W] and [N, 2, H, W] -> RGB [N, 3, H, W] in [-1, 1]."""
    lab = torch.cat(((lightness + 1.0) * 50.0, colours * 110.0), dim=1)
    pictures = lab.detach().float().cpu().permute(0, 2, 3, 1).contiguous().numpy()
    converted = np.stack([cv2.cvtColor(picture, cv2.COLOR_LAB2RGB) for picture in pictures])
    return torch.from_numpy(converted).permute(0, 3, 1, 2).clamp(0.0, 1.0) * 2.0 - 1.0
