"""Torch-TensorRT: the fastest engines for one GPU, in some minutes; they run on that GPU and that version only.

Torch-TensorRT converts the generator, in the type that it shall run in, to one strongly typed TensorRT engine. TensorRT
itself loads and runs the engine: a file holds that alone, not a program that Python would have to unpickle. The engine
is read back when it is loaded, because a layer in another type than was asked for is no error to TensorRT.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.backends import tensorrt_plugin
from engine.backends.base import BuildOptions, CompiledGenerator, FileBackend, load_module, sides_of_any_size
from engine.backends.tensorrt_engine import LoadedEngine, deserialized, new_logger, on_device, read_engine
from engine.backends.tensorrt_layers import TYPE_NAMES, check_layers, engine_dtype, layers_in_json, profile_shapes
from engine.cache import default_folder
from engine.device import DEVICE_LOCK, gpu_name
from engine.errors import BackendError, last_line
from engine.files import written_beside
from engine.generators import Generator

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from engine.fused.norms import NormFused


class TensorRT(FileBackend):
    """Engines run on the kind of GPU and the version that built them; `dynamic` ones in the range of `profile_shapes`.

    This project's operator inside is `instance_norm_act`, as a plugin that needs this package to run.
    """

    name = "tensorrt"
    extra = "tensorrt"
    modules = ("tensorrt",)
    # TensorRT itself is one or two of the three in the middle, depending on the version.
    distributions = ("torch-tensorrt", "tensorrt", "tensorrt-cu13", "tensorrt-cu12", "torch")
    devices = ("cuda",)
    precisions = ("fp32", "fp16", "fast")
    build_cost = "minutes"
    is_captured = True
    suffix = ".plan"
    build_modules = ("torch_tensorrt",)
    export_format = "tensorrt"
    export_precision = "fp16"
    same_runtime = True
    takes_operators = ("cuda",)
    prefers_operators = True

    def operators_unavailable(self) -> str | None:
        return tensorrt_plugin.unavailable()

    def version(self, device: torch.device) -> str:
        return f"{super().version(device)}, {gpu_name(device)}"

    def build(
        self, generator: Generator, example: Tensor, precision: str, path: Path, **options: Unpack[BuildOptions]
    ) -> dict[str, Any]:
        dtype = engine_dtype(precision)
        torch_tensorrt = load_module("torch_tensorrt")
        module: nn.Module = with_plugin(torch_tensorrt, generator) if options.get("operators") else generator
        shapes: dict[str, Any] = {"shape": tuple(example.shape)}
        sides = None
        if options.get("dynamic"):
            smallest, _, largest = profile_shapes(generator, example)
            sides = sides_of_any_size(generator, example, smallest[2], *largest[2:])
            smallest = (*smallest[:2], sides[0][2].min, sides[0][3].min)
            shapes = {"min_shape": smallest, "opt_shape": tuple(example.shape), "max_shape": largest}
        try:
            with (
                on_device(example.device),
                torch.no_grad(),
                _detailed(torch_tensorrt),
                _timing_cache(self.version(example.device)) as timing_cache,
            ):
                program = torch.export.export(
                    module.to(dtype=dtype), (example.to(dtype).contiguous(),), dynamic_shapes=sides
                )
                engine = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                    program,
                    inputs=[torch_tensorrt.Input(**shapes, dtype=dtype)],
                    device=example.device,
                    disable_tf32=True,  # float32 means float32
                    require_full_compilation=True,
                    min_block_size=1,
                    immutable_weights=True,
                    timing_cache_path=str(timing_cache),
                )
        except Exception as error:  # of torch.export, Torch-TensorRT and TensorRT: they have no common base
            raise BackendError(f"Torch-TensorRT can't compile the generator: {last_line(error)}") from error
        path.write_bytes(engine)
        _, facts = _loaded(path, example.device, dtype)
        return facts

    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        """Checks what the layers compute in."""
        (runtime, engine), _ = _loaded(path, example.device, engine_dtype(precision))
        with DEVICE_LOCK, on_device(example.device):
            return LoadedEngine(load_module("tensorrt"), runtime, engine, example, path)


def _loaded(path: Path, device: torch.device, dtype: torch.dtype) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """The runtime and the engine in a file, and how many layers of each kind it has.

    Raises:
        BackendError: it can't be loaded, or its convolutions compute in another type than `dtype`.
    """
    data = read_engine(path)
    trt = load_module("tensorrt")
    if tensorrt_plugin.unavailable() is None:
        with contextlib.suppress(BackendError):
            tensorrt_plugin.register()  # the engine may have it
    log = _logger()
    log.clear()
    with DEVICE_LOCK, on_device(device):
        runtime = trt.Runtime(log)
        engine = deserialized(runtime, data, path)
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        return (runtime, engine), check_layers(layers_in_json(text), TYPE_NAMES[dtype])


def with_plugin(torch_tensorrt: Any, generator: Generator) -> NormFused:
    """The generator with `instance_norm_act` between its convolutions, which engines run as a plugin from now on.

    Raises:
        BackendError: there is nothing to gain, or plugins can't be had.
    """
    if reason := tensorrt_plugin.unavailable():
        raise BackendError(reason)
    if not torch_tensorrt.ENABLED_FEATURES.qdp_plugin:  # some versions of TensorRT are known to break them
        raise BackendError("Torch-TensorRT does not use plugins with this version of TensorRT")
    from engine.fused.norms import InstanceNormAct, fuse_norms

    fused = fuse_norms(generator)
    if not any(isinstance(layer, InstanceNormAct) for layer in fused.modules()):
        raise BackendError("the generator has no InstanceNorm")
    tensorrt_plugin.register()
    tensorrt_plugin.register_converter()
    return fused


@contextlib.contextmanager
def _detailed(torch_tensorrt: Any) -> Iterator[None]:
    """Engines built under it tell their layers' types: Torch-TensorRT asks for them only under its debugger.

    That also replaces the handlers of the root logger, which come back here, and writes a log.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    folder = tempfile.mkdtemp(prefix="streamgan-")
    try:
        with torch_tensorrt.dynamo.Debugger(log_level="error", engine_builder_monitor=False, logging_dir=folder):
            yield
    finally:
        for handler in {*root.handlers} - {*handlers}:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _timing_cache(version: str) -> Iterator[Path]:
    """A file that holds what earlier builds by this version have measured, and is kept with what this one adds.

    Torch-TensorRT's own is one file for all users of the machine. A build that fails leaves none: it may be damaged.
    """
    kept = default_folder() / f"timing-{hashlib.sha256(version.encode()).hexdigest()[:16]}.bin"
    with tempfile.TemporaryDirectory(prefix="streamgan-") as folder:
        path = Path(folder) / kept.name
        with contextlib.suppress(OSError):
            shutil.copyfile(kept, path)
        try:
            yield path
        except BaseException:
            with contextlib.suppress(OSError):
                kept.unlink()
            raise
        with contextlib.suppress(OSError), written_beside(kept) as part:
            shutil.copyfile(path, part)


@functools.cache
def _logger() -> Any:
    """The one logger that TensorRT takes in a process."""
    return new_logger(load_module("tensorrt"))
