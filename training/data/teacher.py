"""Pairs for distillation: crops of pictures, and what a large style network (the teacher) makes of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine import Translator
from engine.errors import EngineError, SinkError, first_line
from engine.files import sha256
from training import distributed
from training.data.images import Image, list_images, read_image
from training.data.transforms import resize

Images = npt.NDArray[np.uint8]
"""uint8 [N, H, W, 3] in RGB order."""
Teacher = Callable[[Image], Image]

# Share of each folder's pictures that is held out: the last ones, of a film's frames its last minutes.
_HELD_OUT = 0.1


@dataclasses.dataclass(frozen=True)
class TeacherOptions:
    """The teacher, and the crops that it paints.

    Attributes:
        network: a generator's checkpoint, or a style network in ONNX.
        style: number of a style of the latter; None for a checkpoint.
        crops: number of crops to train on.
        noise: largest standard deviation of the noise on the student's inputs, in uint8 steps.
        kept_in: folder that painted crops are kept in.
        more_folders: folders of pictures beside --dataroot.
    """

    network: Path
    style: int | None
    crops: int
    noise: float
    kept_in: Path
    more_folders: tuple[Path, ...] = ()


def load_teacher(path: Path, style: int | None) -> Teacher:
    """Loads a generator's checkpoint, or a conditional-InstanceNorm style network in ONNX.

    The inputs of the latter are `image`, RGB [1, 3, H, W] in [0, 1], and `style_weights`, one per style.

    Raises:
        EngineError: any other file, a generator that enlarges, or a `style` where none or another one is needed.
    """
    if not path.is_file():
        raise EngineError(f"no teacher at {path}: `python -m training.fetch_images` fetches one and prints its path")
    if path.suffix.lower() != ".onnx":
        return _load_generator(path, style)
    if style is None:
        raise EngineError(f"{path} knows several styles: --teacher_style says which one, counted from 0")
    return _load_onnx(path, style)


def _load_generator(path: Path, style: int | None) -> Teacher:
    if style is not None:
        raise EngineError(f"--teacher_style is for style networks in ONNX; {path} is a checkpoint with one style")
    translator = Translator(path)
    if translator.scale != 1:
        raise EngineError(f"{path} enlarges by {translator.scale}: a teacher's pictures have the size of its inputs")

    def paint(picture: Image) -> Image:
        return np.ascontiguousarray(translator(np.ascontiguousarray(picture[..., ::-1]))[..., ::-1])

    return paint


def _load_onnx(path: Path, style: int) -> Teacher:
    try:
        import onnxruntime
    except ImportError:
        raise EngineError(
            "the teacher is an ONNX network, and onnxruntime isn't installed: pip install 'streamgan[train]'"
        ) from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        reason = first_line(error)
        raise EngineError(f"{path} is not an ONNX network that onnxruntime loads: {reason}") from error
    inputs = {entry.name: entry.shape for entry in session.get_inputs()}
    if set(inputs) != {"image", "style_weights"}:
        raise EngineError(f"{path} has inputs {sorted(inputs)}: a teacher has 'image' and 'style_weights'")
    count = int(inputs["style_weights"][0])
    if not 0 <= style < count:
        raise EngineError(f"--teacher_style {style} isn't in this teacher: its styles are 0 to {count - 1}")
    weights = np.zeros(count, np.float32)
    weights[style] = 1.0

    def paint(picture: Image) -> Image:
        image = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], dtype=np.float32) / 255.0
        painted = session.run(None, {"image": image, "style_weights": weights})[0][0]
        return (painted.transpose(1, 2, 0).clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

    return paint


def teacher_pairs(
    folders: Sequence[Path], options: TeacherOptions, *, crop_size: int, seed: int = 0, limit: int | None = None
) -> Mapping[str, tuple[Images, Images]]:
    """Crops pictures and has the teacher paint them, once: the same request again is answered from `kept_in`.

    Returns:
        Phase, "train" or "test" -> crops, and the teacher's pictures of them.

    Raises:
        EngineError: a folder, a picture or the teacher can't be read, or the pairs can't be written.
    """
    groups: dict[Path, list[Path]] = {}
    for path in (path for folder in folders for path in list_images(folder, limit=limit)):
        groups.setdefault(path.parent, []).append(path)
    names = [[path.name for path in group] for group in groups.values()]
    if not options.network.is_file():
        raise EngineError(f"no teacher at {options.network}: `python -m training.fetch_images` fetches one")
    request = [sha256(options.network), options.style, options.crops, crop_size, seed, names]
    kept = options.kept_in / f"pairs-{hashlib.sha256(json.dumps(request).encode()).hexdigest()[:12]}"
    if not kept.is_dir() and distributed.rank() == 0:
        try:
            _paint(list(groups.values()), options, kept, crop_size=crop_size, seed=seed)
        except OSError as error:
            raise SinkError(f"can't write {kept}: {error.strerror or error}") from error
    distributed.any_process(False)  # the other processes wait for the first
    return {
        phase: (np.load(kept / f"{phase}_A.npy", mmap_mode="c"), np.load(kept / f"{phase}_B.npy", mmap_mode="c"))
        for phase in ("train", "test")
    }


def _paint(groups: Sequence[Sequence[Path]], options: TeacherOptions, kept: Path, *, crop_size: int, seed: int) -> None:
    """Writes the pairs into a folder beside `kept` and renames it."""
    teacher = load_teacher(options.network, options.style)
    part = kept.with_name(f"{kept.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    cuts = [max(1, round(len(group) * (1.0 - _HELD_OUT))) for group in groups]
    train = [path for group, cut in zip(groups, cuts, strict=True) for path in group[:cut]]
    test = [path for group, cut in zip(groups, cuts, strict=True) for path in group[cut:]] or train
    held_out = min(160, max(1, options.crops // 10))
    for phase, paths, count in (("train", train, options.crops), ("test", test, held_out)):
        crops = _crops(paths, count, crop_size, np.random.default_rng((seed, count)))
        print(f"{phase}: the teacher paints {count} crops of {len(paths)} pictures", flush=True)
        np.save(part / f"{phase}_A.npy", crops)
        np.save(part / f"{phase}_B.npy", np.stack([teacher(crop) for crop in crops]))
    part.rename(kept)


def _crops(paths: Sequence[Path], count: int, size: int, random: np.random.Generator) -> Images:
    """`count` crops, as evenly as possible from all pictures, in random order."""
    crops: list[Image] = []
    for index, path in enumerate(paths):
        picture = read_image(path)
        share = (index + 1) * count // len(paths) - index * count // len(paths)
        crops.extend(random_crop(picture, size, random) for _ in range(share))
    return np.stack([crops[i] for i in random.permutation(len(crops))])


def random_crop(picture: Image, size: int, random: np.random.Generator) -> Image:
    """A square crop of a third of the scene to all of it, resized to `size` pixels; some darker or brighter."""
    height, width = picture.shape[:2]
    short = min(height, width)
    side = min(short, max(int(short * random.uniform(0.35, 1.0)), round(0.86 * size)))
    top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
    crop = resize(picture[top : top + side, left : left + side], size, size)
    if random.random() < 0.25:
        crop = (255.0 * (crop / 255.0) ** random.uniform(0.6, 1.7) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(crop)
