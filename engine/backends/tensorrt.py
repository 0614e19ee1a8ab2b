"""Torch-TensorRT: the fastest engines for one GPU, in some minutes; they run on that GPU and that version only.

The generator is converted to the type it shall run in and compiled with strong typing, as one engine: since
Torch-TensorRT 2.13 no option asks for half precision any more, and a compilation that asks in the old way silently
gives float32. So the engine is read back when it is loaded.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.backends import tensorrt_plugin
from engine.backends.base import BuildOptions, CompiledGenerator, FileBackend, fits
from engine.backends.tensorrt_layers import TYPE_NAMES, check_layers, engine_dtype, layers_in_json, profile_shapes
from engine.device import DEVICE_LOCK, gpu_name
from engine.errors import BackendError, last_line
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
    modules = ("torch_tensorrt", "tensorrt")
    distributions = ("torch-tensorrt", "tensorrt", "torch")
    devices = ("cuda",)
    precisions = ("fp32", "fp16", "fast")
    build_cost = "minutes"
    suffix = ".pt2"
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
        module: nn.Module = with_plugin(generator) if options.get("operators") else generator
        import torch_tensorrt

        shapes: dict[str, Any] = {"shape": tuple(example.shape)}
        if options.get("dynamic"):
            shapes = dict(zip(("min_shape", "opt_shape", "max_shape"), profile_shapes(generator, example), strict=True))
        dtype = engine_dtype(precision)
        try:
            with _detailed(torch_tensorrt):
                compiled = torch_tensorrt.compile(
                    module.to(dtype=dtype),
                    ir="dynamo",
                    inputs=[torch_tensorrt.Input(**shapes, dtype=dtype)],
                    **compile_options(torch_tensorrt, example),
                )
            # As it is: tracing it again would want inputs of every size.
            torch_tensorrt.save(compiled, str(path), output_format="exported_program", retrace=False)
        except Exception as error:  # of torch.export, Torch-TensorRT and TensorRT: they have no common base
            raise BackendError(f"Torch-TensorRT can't compile the generator: {last_line(error)}") from error
        return check_program(_read(path), TYPE_NAMES[dtype])

    def load(self, path: Path, example: Tensor, precision: str) -> CompiledGenerator:
        """Checks what the layers compute in. Engines run in CUDA graphs: Torch-TensorRT sets that for the process."""
        import torch_tensorrt

        if self.operators_unavailable() is None:
            with contextlib.suppress(BackendError):
                tensorrt_plugin.register()  # the engine may have it
        program = _read(path)
        check_program(program, TYPE_NAMES[engine_dtype(precision)])
        inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
        shape = [side if isinstance(side, int) else str(side) for side in inputs[0].meta["val"].shape]
        if not fits(shape, example.shape):
            raise BackendError(f"{path.name} takes inputs of {shape}, not of {list(example.shape)}: build it again")
        module = program.module()
        torch_tensorrt.runtime.set_cudagraphs_mode(True)
        try:
            with DEVICE_LOCK:  # it captures a graph
                module(example)
        except Exception as error:  # a size outside the profile, no memory: RuntimeErrors of several trees
            raise BackendError(
                f"Torch-TensorRT can't run {path.name} on {list(example.shape)}: {last_line(error)}"
            ) from error
        return module


def with_plugin(generator: Generator) -> NormFused:
    """The generator with `instance_norm_act` between its convolutions, which engines run as a plugin from now on.

    Raises:
        BackendError: there is nothing to gain, or plugins can't be had.
    """
    if reason := tensorrt_plugin.unavailable():
        raise BackendError(reason)
    from engine.fused.norms import InstanceNormAct, fuse_norms

    fused = fuse_norms(generator)
    if not any(isinstance(layer, InstanceNormAct) for layer in fused.modules()):
        raise BackendError("the generator has no InstanceNorm")
    tensorrt_plugin.register()
    return fused


def compile_options(torch_tensorrt: Any, example: Tensor) -> dict[str, Any]:
    """The options of torch_tensorrt.compile: strongly typed, one engine, no TF32, on the device of `example`."""
    options = {
        "device": example.device,
        "disable_tf32": True,  # float32 means float32
        "require_full_compilation": True,
        "min_block_size": 1,
        "immutable_weights": True,
    }
    if "use_explicit_typing" in inspect.signature(torch_tensorrt.dynamo.compile).parameters:
        options["use_explicit_typing"] = True  # from 2.13 on there is nothing else
    return options


@contextlib.contextmanager
def _detailed(torch_tensorrt: Any) -> Iterator[None]:
    """Engines built under it tell their layers' types: Torch-TensorRT asks for them only under its debugger.

    That also replaces the handlers of the root logger, which come back here.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with torch_tensorrt.dynamo.Debugger(log_level="error", engine_builder_monitor=False):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def check_program(program: torch.export.ExportedProgram, dtype: str) -> dict[str, Any]:
    """Counts the layers of a saved program by their types.

    Raises:
        BackendError: the program is not one engine alone, or its convolutions compute in another type than `dtype`.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
    engines = [value for value in program.constants.values() if hasattr(value, "get_engine_layer_info")]
    if len(calls) != 1 or len(engines) != 1:
        names = ", ".join(sorted({str(call.target) for call in calls}))
        raise BackendError(f"the program is {len(engines)} TensorRT engines and {len(calls)} calls ({names}), not one")
    return check_layers(layers_in_json(engines[0].get_engine_layer_info()), dtype)


def _read(path: Path) -> torch.export.ExportedProgram:
    """The saved program; Torch-TensorRT's operators have to be imported before."""
    try:
        return torch.export.load(path)
    except Exception as error:  # zip, JSON, schema, and TensorRT's own for other versions and GPUs
        raise BackendError(f"Torch-TensorRT can't load {path.name}: {last_line(error)}: build it again") from error
