"""What a student of style learns from: crops of pictures, and what a large style network (the teacher) made of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, SourceError

Picture = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] in RGB order."""
Pictures = npt.NDArray[np.uint8]
"""uint8 [N, H, W, 3] in RGB order."""
Teacher = Callable[[Picture], Picture]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Crops and what the teacher makes of them, uint8 [N, size, size, 3] each."""

    inputs: Pictures
    targets: Pictures


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """How crops are cut. Whatever changes here is rendered anew."""

    crop_size: int = 256
    crops: int = 3600
    held_out_fraction: float = 0.1
    seed: int = 0


def load_teacher(path: Path, style: int) -> Teacher:
    """A conditional-InstanceNorm style network in ONNX, with RGB [1, 3, H, W] in [0, 1] and style weights as inputs.

    Raises:
        EngineError: onnxruntime isn't installed, or the file is no such network.
    """
    try:
        import onnxruntime
    except ImportError:
        raise EngineError(
            "the teacher is an ONNX network, and onnxruntime isn't installed: pip install 'streamgan[train]'"
        ) from None
    if not path.is_file():
        raise EngineError(f"no teacher at {path}: `python -m training.fetch_images` fetches one and prints its path")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise EngineError(f"{path} is no ONNX network that onnxruntime loads: {error}") from error
    inputs = {entry.name: entry.shape for entry in session.get_inputs()}
    if set(inputs) != {"image", "style_weights"}:
        raise EngineError(f"{path} takes {sorted(inputs)}; a teacher takes 'image' and 'style_weights'")
    count = int(inputs["style_weights"][0])
    if not 0 <= style < count:
        raise EngineError(f"--teacher-style {style} isn't in this teacher: its styles are 0 to {count - 1}")
    weights = np.zeros(count, np.float32)
    weights[style] = 1.0

    def paint(picture: Picture) -> Picture:
        image = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], dtype=np.float32) / 255.0
        painted = session.run(None, {"image": image, "style_weights": weights})[0][0]
        return (painted.transpose(1, 2, 0).clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

    return paint


def find_pictures(directories: Sequence[Path]) -> list[list[Path]]:
    """The picture files of every folder that holds some, in the order of their names; folders inside count too."""
    groups: dict[Path, list[Path]] = {}
    for directory in directories:
        if not directory.is_dir():
            raise SourceError(f"no folder {directory}: --images takes folders of pictures")
        for path in sorted(directory.rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                groups.setdefault(path.parent, []).append(path)
    if not groups:
        raise SourceError(f"no pictures ({', '.join(sorted(SUFFIXES))}) in {', '.join(map(str, directories))}")
    return list(groups.values())


def random_crop(picture: Picture, size: int, random: np.random.Generator) -> Picture:
    """A square crop of anything from a third of the scene to all of it, at `size` pixels; some darker or brighter."""
    height, width = picture.shape[:2]
    short = min(height, width)
    side = min(short, max(int(short * random.uniform(0.35, 1.0)), round(0.86 * size)))
    top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    crop = cv2.resize(picture[top : top + side, left : left + side], (size, size), interpolation=interpolation)
    if random.random() < 0.25:
        crop = (255.0 * (crop / 255.0) ** random.uniform(0.6, 1.7) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(crop, dtype=np.uint8)


def render_pairs(
    groups: Sequence[Sequence[Path]], teacher: Teacher, teacher_name: str, cache: Path, options: RenderOptions
) -> tuple[Pairs, Pairs]:
    """Crops the pictures and has the teacher paint them, once: the same question again is answered from `cache`.

    The last `held_out_fraction` of every folder is held out, so that of a film it is its last minutes.

    Returns:
        The pairs to train on and the held-out pairs.
    """
    question = {
        "teacher": teacher_name,
        "pictures": [[p.name for p in g] for g in groups],
        **dataclasses.asdict(options),
    }
    folder = cache / f"pairs-{hashlib.sha256(json.dumps(question).encode()).hexdigest()[:12]}"
    names = ("train", "held_out")
    if not (folder / "complete").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        cuts = [max(1, round(len(group) * (1.0 - options.held_out_fraction))) for group in groups]
        parts = (
            [path for group, cut in zip(groups, cuts, strict=True) for path in group[:cut]],
            [path for group, cut in zip(groups, cuts, strict=True) for path in group[cut:]],
        )
        wanted = (options.crops, min(160, max(1, options.crops // 10)))
        for name, paths, count in zip(names, parts, wanted, strict=True):
            random = np.random.default_rng((options.seed, count))
            inputs = _cut(paths or parts[0], count, options.crop_size, random)
            print(f"{name}: {len(inputs)} crops of {len(paths)} pictures, painting")
            np.save(folder / f"{name}_inputs.npy", inputs)
            np.save(folder / f"{name}_targets.npy", np.stack([teacher(crop) for crop in inputs]))
        (folder / "complete").touch()
    train, held_out = (Pairs(*(np.load(folder / f"{n}_{part}.npy") for part in ("inputs", "targets"))) for n in names)
    return train, held_out


def _cut(paths: Sequence[Path], count: int, size: int, random: np.random.Generator) -> Pictures:
    """`count` crops, as evenly as possible from all pictures, in random order."""
    crops: list[Picture] = []
    for index, path in enumerate(paths):
        decoded = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if decoded is None:
            raise SourceError(f"{path} can't be read as a picture: remove it from the folder")
        picture = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        share = (index + 1) * count // len(paths) - index * count // len(paths)
        crops.extend(random_crop(picture, size, random) for _ in range(share))
    return np.stack([crops[i] for i in random.permutation(len(crops))])
