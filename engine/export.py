"""Write a generator as a file for elsewhere: `python -m engine.export CHECKPOINT --format FORMAT --size WxH`.

Beside the file comes FILE.json: what it is an engine of, who made it, the SHA-256 of its files and its measured parity.
Before it is there under its name, it has been loaded again and compared with eager float32 on a real frame.
`python -m engine.run --engine FILE` runs it.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import engine_files
from engine.backends import BACKENDS, CompiledGenerator, FileBackend
from engine.backends.base import BuildOptions
from engine.checkpoint import load_generator, save_generator
from engine.command_line import command_name, errors_in_one_line, exit_with
from engine.device import choose_device
from engine.errors import BackendError, EngineError, ParityError, SinkError, first_line
from engine.files import sha256
from engine.generators import Generator
from engine.parity import PARITY_DB, psnr_db
from engine.precision import PRECISIONS, dtype_of, fastest_precision
from engine.samples import SAMPLE
from engine.sizes import padded_size, parse_size

FORMATS: dict[str, FileBackend | None] = {
    backend.export_format: backend
    for backend in BACKENDS.values()
    if isinstance(backend, FileBackend) and backend.export_format
} | {"safetensors": None}
"""Format -> the backend that writes and runs it; None: plain weights."""


@dataclasses.dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the main file.
        size_bytes: of all files.
        parity_db: PSNR against eager float32 on a real frame; None where it can't be run on this machine.
        remark: why it was not run.
        facts: what the backend says of it.
    """

    path: Path
    size_bytes: int
    parity_db: float | None
    remark: str
    facts: dict[str, Any]


def export(
    generator: Generator,
    kind: str,
    path: Path,
    *,
    size: tuple[int, int],
    precision: str = "auto",
    device: str = "auto",
    dynamic: bool = False,
    operators: bool = False,
    targets: Sequence[str] = (),
    overwrite: bool = False,
) -> Export:
    """Writes `generator` in the format `kind` to `path`, proves it, and describes it in a JSON beside it.

    Args:
        generator: float32, in eval mode, on the CPU; unchanged.
        kind: one of FORMATS.
        size: (width, height) of the frames; made larger to what the generator's multiple asks for.
        precision: one of `engine.precision.PRECISIONS`; "auto": the fastest that the device has arithmetic for, and
            `export_precision` of the format's backend where it has one.
        dynamic: for every frame size (TensorRT: in a range around `size`).
        operators: with this project's fused operators inside: faster on the CPU, and needs their library.
        targets: GPU architectures such as "sm89", for tensorrt-rtx.

    Raises:
        EngineError: it can't be built here, is not within the parity limit of its precision, or can't be written.
    """
    if kind not in FORMATS:
        raise BackendError(f"unknown format {kind!r}: accepted are {', '.join(FORMATS)}")
    if path.exists() and not overwrite:
        raise SinkError(f"{path} exists: -y replaces it")
    if not path.parent.is_dir():
        raise SinkError(f"no such folder: {path.parent}")
    backend = FORMATS[kind]
    if backend is None:
        save_generator(generator, path)
        return Export(path, path.stat().st_size, math.inf, "", {})
    if precision not in ("auto", *PRECISIONS):
        raise BackendError(f"unknown precision {precision!r}: accepted are auto, {', '.join(PRECISIONS)}")
    where = choose_device(device)
    if precision == "auto":
        precision = backend.export_precision or fastest_precision(where)
    height, width = padded_size(generator, size[1], size[0])
    image = real_image(generator, (width, height)).to(where)
    options: BuildOptions = {"dynamic": dynamic, "operators": operators, "targets": targets}
    return _Exporter(backend, copy.deepcopy(generator).to(where), image, precision, options).write(path)


@dataclasses.dataclass(frozen=True)
class _Exporter:
    """One export: builds beside the goal, proves, describes, and moves to the goal. `image` is a real frame."""

    backend: FileBackend
    generator: Generator
    image: Tensor  # float32 [1, 3, H, W]
    precision: str
    options: BuildOptions

    @functools.cached_property
    def example(self) -> Tensor:
        """`image` as the engine takes it."""
        dtype = dtype_of(self.precision, self.image.device)
        return self.image.to(dtype).to(memory_format=torch.channels_last)

    def write(self, path: Path) -> Export:
        if reason := self.backend.unbuildable(self.image.device):
            raise BackendError(f"{self.backend.export_format} can't be written here: {reason}")
        try:
            part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        except OSError as error:
            raise SinkError(f"can't write to {path.parent}: {error.strerror}") from error
        try:
            facts = self._build(part / path.name)
            files = sorted(part.iterdir())
            parity_db, remark = self._prove(part / path.name)  # may leave a file for this machine alone
            self._describe(part / path.name, files, facts, parity_db)
            described = engine_files.description_of(part / path.name)
            for file in sorted([*files, described], key=lambda file: file.name == path.name):  # the main one comes last
                file.replace(path.with_name(file.name))
        except OSError as error:
            raise SinkError(f"can't write {path}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        size_bytes = sum(path.with_name(file.name).stat().st_size for file in files)
        return Export(path, size_bytes, parity_db, remark, facts)

    def _build(self, path: Path) -> dict[str, Any]:
        device = self.image.device.type
        if self.options["operators"] and device not in self.backend.takes_operators:
            asked = f"{self.backend.export_format} on {device}"
            raise BackendError(f"this project's operators go into {_with_operators()}, not into {asked}")
        generator = copy.deepcopy(self.generator)
        facts = self.backend.build(generator, self.example, self.precision, path, **self.options)
        return {**facts, **engine_files.HAS_OPERATORS} if self.options["operators"] else facts

    def _prove(self, path: Path) -> tuple[float | None, str]:
        """Loads the file again and compares it with eager float32; None and the reason where it can't be run here."""
        kind = self.backend.export_format
        if reason := self.backend.unavailable(self.image.device):
            return None, reason
        if self.options["targets"]:
            return None, f"built for {', '.join(self.options['targets'])}"
        run = self.backend.load(path, self.example, self.precision)
        images = [self.image]
        if self.options["dynamic"]:  # and another size than it was built with
            multiple = self.generator.multiple
            height, width = self.image.shape[2:]
            images.append(real_image(self.generator, (width + multiple, height + 2 * multiple)).to(self.image.device))
        try:
            parity_db = min(self._parity_db(run, image) for image in images)
        except RuntimeError as error:  # of whatever runtime it is
            raise BackendError(f"the {kind} file loads, but does not run here: {first_line(error)}") from error
        if parity_db < PARITY_DB[self.precision]:
            raise ParityError(
                f"the {kind} file is at {parity_db:.1f} dB of eager float32: less than the "
                f"{PARITY_DB[self.precision]:.0f} dB of {self.precision}, and not kept"
            )
        return parity_db, ""

    def _parity_db(self, run: CompiledGenerator, image: Tensor) -> float:
        dtype = getattr(run, "input_dtype", self.example.dtype)
        with torch.no_grad():
            outputs = [
                self.generator(image),
                run(image.to(dtype).contiguous(memory_format=torch.channels_last)).float(),
            ]
        frames = [_as_uint8(output, self.generator.output_range) for output in outputs]
        return psnr_db(frames[1], frames[0])

    def _describe(self, path: Path, files: list[Path], facts: dict[str, Any], parity_db: float | None) -> None:
        sha = engine_files.generator_hash(self.generator)
        of, made_by = engine_files.cache_key(self.generator, sha, self.backend, self.precision, self.example)
        dynamic = self.options["dynamic"]
        description = {
            "of": {**of, "size": engine_files.ANY_SIZE if dynamic else of["size"]},
            "made_by": made_by,
            "files": {file.name: sha256(file) for file in files},
            "parity_db": None if parity_db is None else round(parity_db, 2) if math.isfinite(parity_db) else "exact",
            "input": {
                "name": "input",
                "shape": [1, 3, "height", "width"] if dynamic else list(self.example.shape),
                "dtype": str(self.example.dtype).removeprefix("torch."),
                "channels": "RGB",
                "range": list(self.generator.input_range),
                "multiple": self.generator.multiple,
            },
            "output": {"name": "output", "range": list(self.generator.output_range), "scale": self.generator.scale},
            "facts": facts,
        }
        engine_files.description_of(path).write_text(json.dumps(description, indent=2) + "\n")


def _with_operators() -> str:
    able = [f"{kind} on {device}" for kind, backend in FORMATS.items() if backend for device in backend.takes_operators]
    return ", ".join(able)


def real_image(generator: Generator, size: tuple[int, int]) -> Tensor:
    """A frame of the sample clip as a tensor for `generator`, float32 [1, 3, H, W], resized to (width, height)."""
    import cv2

    read, frame = cv2.VideoCapture(str(SAMPLE)).read()
    if not read:
        raise EngineError(f"the sample clip {SAMPLE} can't be read")
    rgb = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)[..., ::-1].copy()
    low, high = generator.input_range
    image = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255.0 * (high - low) + low
    channels = generator.config.in_channels
    return image[:, :channels] if channels <= 3 else image.repeat(1, -(-channels // 3), 1, 1)[:, :channels]


def _as_uint8(output: Tensor, value_range: tuple[float, float]) -> np.ndarray:
    low, high = value_range
    pixels: np.ndarray = ((output - low) * (255.0 / (high - low))).round().clamp(0, 255).byte().cpu().numpy()
    return pixels


@errors_in_one_line
def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=command_name("engine.export"),
        description="Write a generator as a file for another runtime, proven on a real frame.",
    )
    parser.add_argument("checkpoint", help="checkpoint file or bundled style")
    parser.add_argument("--format", required=True, choices=FORMATS, dest="kind")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="of the frames; needed but for safetensors")
    parser.add_argument("--dynamic", action="store_true", help="for every frame size")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16, fast (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: %(default)s)")
    parser.add_argument("--target", default="", metavar="smNN,...", help="GPUs for tensorrt-rtx, e.g. sm86,sm120")
    parser.add_argument("--operators", action="store_true", help=f"with our operators inside ({_with_operators()})")
    parser.add_argument("--norm-mode", choices=("eval", "batch"), default="eval", help="see engine.run")
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help="default: CHECKPOINT's name in this folder")
    parser.add_argument("-y", "--overwrite", action="store_true", help="replace a file that exists")
    options = parser.parse_args(arguments)
    if options.size is None and options.kind != "safetensors":
        parser.error(f"--format {options.kind} needs --size WxH")
    start = time.perf_counter()
    try:
        generator = load_generator(options.checkpoint, norm_mode=options.norm_mode)
        done = export(
            generator,
            options.kind,
            options.output or _default_output(options),
            size=options.size or (64, 64),
            precision=options.precision,
            device=options.device,
            dynamic=options.dynamic,
            operators=options.operators,
            targets=tuple(name for name in options.target.lower().split(",") if name),
            overwrite=options.overwrite,
        )
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    _report(done, time.perf_counter() - start)
    return 0


def _report(done: Export, seconds: float) -> None:
    print(done.path)
    parity = "the same as eager float32" if done.parity_db == math.inf else f"{done.parity_db} dB"
    if done.parity_db is None:
        parity = f"not run here: {done.remark}"
    elif math.isfinite(done.parity_db):
        parity = f"{done.parity_db:.1f} dB of eager float32 on a real frame"
    print(f"{done.size_bytes / 2**20:.1f} MiB in {seconds:.0f} s, {parity}", file=sys.stderr)
    for name, value in done.facts.items():
        print(f"{name}: {_in_one_line(value)}", file=sys.stderr)


def _in_one_line(fact: Any) -> str:
    """A fact for people: {"layers": 3, "types": {"CONVOLUTION": 2}} is "layers 3, types (CONVOLUTION 2)"."""
    if not isinstance(fact, dict):
        return ", ".join(map(str, fact)) if isinstance(fact, (list, tuple)) else str(fact)
    parts = ((name, _in_one_line(value), isinstance(value, dict)) for name, value in fact.items())
    return ", ".join(f"{name} ({value})" if nested else f"{name} {value}" for name, value, nested in parts)


def _default_output(options: argparse.Namespace) -> Path:
    """The checkpoint's name with the format's ending, in the working folder."""
    backend = FORMATS[options.kind]
    suffix = backend.suffix if backend else ".safetensors"
    size = "" if backend is None else "_any" if options.dynamic else "_{}x{}".format(*options.size)
    return Path(f"{Path(options.checkpoint).stem}{size}{suffix}")


if __name__ == "__main__":
    exit_with(main)
