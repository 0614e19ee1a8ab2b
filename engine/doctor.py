"""What runs here, and what a checkpoint file is: `python -m engine.doctor [CHECKPOINT ...]`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.command_line import command_name
from engine.errors import EngineError

if TYPE_CHECKING:
    from engine.backends import Backend

# Distribution names whose versions matter for a report of trouble.
_DISTRIBUTIONS = ("streamgan", "torch", "numpy", "opencv-python", "opencv-python-headless", "av", "safetensors")


def main(arguments: list[str] | None = None) -> int:
    """Prints the report; returns 1 if a checkpoint can't be loaded or the operators can't, else 0."""
    parser = argparse.ArgumentParser(
        prog=command_name("engine.doctor"), description="Say what runs on this machine, or what a checkpoint file is."
    )
    parser.add_argument("checkpoint", nargs="*", help="checkpoint file or bundled style to look into")
    options = parser.parse_args(arguments)
    if options.checkpoint:
        return max(_describe(checkpoint) for checkpoint in options.checkpoint)
    return _describe_machine()


def _describe(checkpoint: str) -> int:
    from engine.checkpoint import inspect_checkpoint
    from engine.styles import locate_generator

    try:
        info = inspect_checkpoint(locate_generator(checkpoint))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    lines = {
        "file": f"{info.path} ({Path(info.path).stat().st_size / 2**20:.1f} MiB)",
        "architecture": info.architecture,
        "key layout": info.layout,
        "parameters": f"{info.parameters:,} stored as {', '.join(info.dtypes)}",
        **info.metadata,
    }
    if info.others:
        lines["not chosen"] = ", ".join(info.others)
    _print_table(lines)
    return 0


def _describe_machine() -> int:
    import torch

    from engine.backends import BACKENDS, FileBackend
    from engine.cache import default_folder
    from engine.device import choose_device, processor_name
    from engine.precision import auto_precisions

    status = 0
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in _DISTRIBUTIONS if name in installed}
    device = choose_device("auto")
    lines = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "processor": f"{processor_name()}, {torch.get_num_threads()} threads",
        "gpu": _describe_gpu(),
        "precision": _describe_precision(auto_precisions(device)),
    }
    try:
        lines["operators"] = _describe_operators()
        lines |= _describe_instructions()
    except (EngineError, ValueError) as error:
        lines["operators"] = f"not available: {error}"
        status = 1
    lines["video"] = _describe_video()
    lines["video hardware"] = _describe_video_hardware()
    lines["engine cache"] = str(default_folder())
    for name, backend in BACKENDS.items():
        reason = backend.unavailable(device)
        lines[f"backend {name}"] = "available" if reason is None else f"not available: {reason}"
        if packages := _describe_packages(backend):
            lines[f"backend {name}"] += f"; {packages}"
        if reason and isinstance(backend, FileBackend) and backend.unbuildable(device) is None:
            lines[f"backend {name}"] += "; python -m engine.export can write its files"
    _print_table(lines)
    return status


def _describe_packages(backend: Backend) -> str:
    """The installed packages of a backend's extra, and the versions of them that this project accepts."""
    from engine.device import installed_versions

    packages = [name for name in backend.distributions if backend.extra and name != "torch"]
    found = installed_versions(*packages)
    if not found:
        return ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # not installed, but run from its sources
        for requirement in importlib.metadata.requires("streamgan") or ():
            name, _, extra = requirement.partition(";")
            package = re.match(r"[\w.-]+", name)
            if package and package.group() in packages and f'extra == "{backend.extra}"' in extra:
                found += f", accepted: {name.strip()}"
    return found


def _describe_operators() -> str:
    from engine import ops  # noqa: I001 - loads the operator library, which the next one is linked to
    from engine import _native

    reason = ops.cuda_unavailable()
    on_cuda = f"no CUDA operators: {reason}" if reason else "CUDA operators loaded"
    return f"CPU operators for {', '.join(_native.supported_isas())}; {on_cuda}"


def _describe_instructions() -> dict[str, str]:
    """Which instruction tier runs, who decided so, and why a better one that the processor has does not."""
    from engine import _native

    active, detected = _native.active_isa(), _native.detected_isa()
    chosen_by = f"set by STREAMGAN_ISA, {detected} detected" if os.environ.get("STREAMGAN_ISA") else "the best here"
    lines = {"instruction set": f"{active} in use: {chosen_by}"}
    if refusal := _native.refused_isa():
        lines["instructions refused"] = refusal
    return lines


def _describe_precision(precisions: tuple[str, ...]) -> str:
    if len(precisions) == 1:
        return f"auto takes {precisions[0]}"
    return f"auto measures {' and '.join(precisions)} on the first frame of each size, and takes the faster one"


def _describe_gpu() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"{', '.join(names)} (CUDA {torch.version.cuda})"
    if torch.version.cuda is None:
        return "none used: this is a CPU build of torch"
    return "none found by torch"


def _describe_video() -> str:
    try:
        import av
    except ImportError:
        return "no PyAV: video files can't be read or written (pip install av)"
    encoders = [name for name in ("libx264", "libx265", "libvpx-vp9", "h264_nvenc") if name in av.codecs_available]
    return f"PyAV {av.__version__}, encoders {', '.join(encoders)}"


def _describe_video_hardware() -> str:
    from engine.video.nvidia.codecs import describe_hardware

    try:
        return describe_hardware()
    except EngineError as error:
        return f"not available: {error}"


def _print_table(lines: dict[str, str]) -> None:
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    sys.exit(main())
