"""One module per way of running a generator.

Each module has `unavailable(device) -> str | None` (None: it can run; else the reason in one line), and is of one of
two kinds.

In memory: `compile_generator(generator, example, precision, parity_db) -> callable`, where `generator` is an eval-mode
module on the device, float32, which the backend may change, `example` is an input [N, C, H, W] (channels_last) in the
dtype to run in, `precision` the name of what was asked for, `parity_db(callable)` the PSNR in dB of such a callable
against eager float32 on a real frame, and the callable takes inputs of that shape and dtype, or of the dtype that it
has as an attribute `input_dtype`. HAS_FAST = True says that `fast` is another arithmetic than half precision.
ACCEPTED are the precisions of a backend that does not have all of them: a fallback is not tried in others.
PRECISIONS are those of a backend that computes elsewhere than on the device, the fastest first (`own_precisions`).

As a file (`engine.artifacts` keeps them in the cache): `SUFFIX`, `version(device)` (what writes the file and has to
read it), `unbuildable(device)`, `build(generator, example, precision, path, *, dynamic, targets) -> facts` and
`load(path, example, precision) -> callable`; where our operators can be inside such a file, `build_with_operators`
of the same arguments without `targets`, which the cache prefers. SAME_RUNTIME = True says that a file runs only where
`version` is the one that it was built with.
"""

from __future__ import annotations

import difflib
from types import ModuleType

from engine.backends import (
    aoti,
    eager,
    fused,
    inductor,
    onnxruntime_backend,
    onnxruntime_tensorrt,
    openvino_backend,
    openvino_gpu,
    openvino_npu,
    tensorrt,
    tensorrt_rtx,
    torchscript,
)
from engine.backends.interface import CompiledGenerator, ParityMeasure
from engine.errors import BackendError

__all__ = ["BACKENDS", "CompiledGenerator", "ParityMeasure", "get_backend", "own_precisions"]

BACKENDS: dict[str, ModuleType] = {
    "eager": eager,
    "fused": fused,
    "torchscript": torchscript,
    "inductor": inductor,
    "aoti": aoti,
    "onnxruntime": onnxruntime_backend,
    "onnxruntime-tensorrt": onnxruntime_tensorrt,
    "openvino": openvino_backend,
    "openvino-gpu": openvino_gpu,
    "openvino-npu": openvino_npu,
    "tensorrt": tensorrt,
    "tensorrt-rtx": tensorrt_rtx,
}


def get_backend(name: str) -> ModuleType:
    """The backend module called `name`.

    Raises:
        BackendError: there is none of that name.
    """
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BackendError(f"unknown backend {name!r}: {hint}accepted are auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]


def own_precisions(name: str) -> tuple[str, ...]:
    """The precisions, fastest first, of a backend that computes elsewhere than on torch's device; else none."""
    own: tuple[str, ...] = getattr(BACKENDS.get(name), "PRECISIONS", ())
    return own
