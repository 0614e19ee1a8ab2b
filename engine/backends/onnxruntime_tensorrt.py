"""ONNX Runtime's TensorRT provider: an engine for one GPU, built by ONNX Runtime from the file of `onnxruntime`.

Only in half precision: TensorRT computes float32 in TF32, and the provider has no option against it. All of the file is
in float16, TensorRT's provider is the only one that the session gets, and falling back to the CPU is an error: so every
layer is TensorRT's, and in the type asked for, as far as a network that is strongly typed goes (always from TensorRT 11
on; before, TensorRT may take a layer in float32 where that is faster). It does not tell its layers' types: the backends
`tensorrt` and `tensorrt-rtx` read theirs back. **Not run on a GPU yet.**
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.backends import onnxruntime_backend
from engine.backends.interface import CompiledGenerator
from engine.backends.runtimes import missing
from engine.errors import BackendError
from engine.generators import Generator

SUFFIX = ".onnx"
SAME_RUNTIME = True
ACCEPTED = ("fp16", "fast")

_PROVIDER = "TensorrtExecutionProvider"


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on `device`, in one line; None if it can, as far as can be seen without trying."""
    absent = missing(onnxruntime_backend.EXTRA, "onnxruntime")
    if absent is not None or device.type != "cuda":
        return absent or "needs a CUDA device"
    if not onnxruntime_backend.has_provider("tensorrt"):
        return "this build of onnxruntime has no TensorRT provider: pip install onnxruntime-gpu and tensorrt"
    return None


def unbuildable(device: torch.device) -> str | None:
    """Why engines can't be built here, in one line; None if they can: on the GPU that they shall run on."""
    return unavailable(device) or onnxruntime_backend.unbuildable(device)


def version(device: torch.device) -> str:
    """What an engine is tied to: the versions of both libraries, and the GPU."""
    known = []
    for name in ("onnxruntime-gpu", "tensorrt"):  # TensorRT may have come without pip
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known.append(f"{name} {importlib.metadata.version(name)}")
    major, minor = torch.cuda.get_device_capability(device)
    return f"{', '.join(known)}, {torch.cuda.get_device_name(device)} sm{major}{minor}"


def build(
    generator: Generator,
    example: Tensor,
    precision: str,
    path: Path,
    *,
    dynamic: bool = False,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes an ONNX file, and has the engine built into files beside it, in some minutes.

    Args:
        generator: eval mode, float32, on the GPU.
        example: input [N, 3, H, W] in float16, on the GPU.
        precision: fp16 or fast (fp16).
        path: of the file.
        dynamic: not used: engines are for the example's size.
        targets: not used: these engines run on the GPU that they are built on.

    Raises:
        BackendError: another precision, or TensorRT can't run all of the generator.
    """
    _check_precision(example, precision)
    facts = onnxruntime_backend.build(generator, example, precision, path)
    _open(path, example)
    engines = [file.name for file in path.parent.iterdir() if file.suffix == ".engine"]
    if len(engines) != 1:
        raise BackendError(f"ONNX Runtime's TensorRT provider made {len(engines)} engines of the generator, not one")
    return facts


def load(path: Path, example: Tensor, precision: str) -> CompiledGenerator:
    """Loads the file and the engine beside it, for inputs like `example`, float16 [N, 3, H, W].

    Raises:
        BackendError: another precision, TensorRT is not there, or the file is damaged or for another shape.
    """
    _check_precision(example, precision)
    return _open(path, example)


def _open(path: Path, example: Tensor) -> CompiledGenerator:
    with contextlib.suppress(ImportError):
        import tensorrt  # noqa: F401 (loads the libraries that the provider looks for)
    settings = {
        "device_id": str(example.device.index or 0),
        "trt_fp16_enable": "1",  # for networks that are not strongly typed
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(path.parent),
        "trt_builder_optimization_level": "5",
    }
    return onnxruntime_backend.open_session(path, example, _PROVIDER, settings)


def _check_precision(example: Tensor, precision: str) -> None:
    if precision not in ("fp16", "fast") or example.dtype != torch.float16:
        raise BackendError(f"ONNX Runtime's TensorRT provider is used for fp16 and fast (fp16), not for {precision}")
