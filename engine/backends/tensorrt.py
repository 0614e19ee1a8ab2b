"""Torch-TensorRT: the fastest engines for one GPU, in some minutes; they run on that GPU and that version only.

The generator is converted to the type it shall run in and compiled with strong typing, as one engine: since
Torch-TensorRT 2.13 no option asks for half precision any more, and a compilation that asks in the old way silently
gives float32. So the engine is read back when it is loaded.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import logging
import operator
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.backends import tensorrt_plugin
from engine.backends.interface import CompiledGenerator
from engine.backends.runtimes import fits, last_line, missing
from engine.backends.tensorrt_common import TYPE_NAMES, check_layers, engine_dtype, layers_in_json, profile_shapes
from engine.errors import BackendError
from engine.generators import Generator

if TYPE_CHECKING:
    from engine.fuse_norms import NormFused

SUFFIX = ".pt2"
SAME_RUNTIME = True
ACCEPTED = ("fp32", "fp16", "fast")
EXTRA = "tensorrt"


def unavailable(device: torch.device) -> str | None:
    """Why this backend can't run on `device`, in one line; None if it can."""
    return missing(EXTRA, "torch_tensorrt", "tensorrt") or (None if device.type == "cuda" else "needs a CUDA device")


def unbuildable(device: torch.device) -> str | None:
    """Why engines can't be built here, in one line; None if they can: on the GPU that they shall run on."""
    return unavailable(device)


def version(device: torch.device) -> str:
    """What an engine is tied to: the versions of the libraries, and the GPU."""
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch-tensorrt", "tensorrt"))
    major, minor = torch.cuda.get_device_capability(device)
    return f"{libraries}, torch {torch.__version__}, {torch.cuda.get_device_name(device)} sm{major}{minor}"


def build(
    generator: Generator,
    example: Tensor,
    precision: str,
    path: Path,
    *,
    dynamic: bool = False,
    targets: Sequence[str] = (),
) -> dict[str, Any]:
    """Compiles the generator to one engine and saves it as an exported program.

    Args:
        generator: eval mode, float32, on the GPU.
        example: input [N, 3, H, W] in the dtype of `precision`, on the GPU.
        precision: fp32 (without TF32), fp16 or fast (fp16).
        path: of the file.
        dynamic: for heights and widths from 64 to 2160x3840 (see `profile_shapes`), fastest at the example's.
        targets: not used: these engines run on the GPU that they are built on.

    Returns:
        How many layers the engine has, of which types.

    Raises:
        BackendError: the generator can't be one engine, or its convolutions aren't in the type asked for.
    """
    return _compile(generator, example, engine_dtype(precision), _shapes(generator, example, dynamic=dynamic), path)


def build_with_operators(
    generator: Generator, example: Tensor, precision: str, path: Path, *, dynamic: bool = False
) -> dict[str, Any]:
    """As `build`, with `instance_norm_act` as a plugin inside the engine, which needs this package to run then.

    Raises:
        BackendError: as `build`; or the generator has no InstanceNorm, or plugins can't be had.
    """
    fused = with_plugin(generator)
    shapes = _shapes(generator, example, dynamic=dynamic)
    return {**_compile(fused, example, engine_dtype(precision), shapes, path), "operators": "streamgan"}


def with_plugin(generator: Generator) -> NormFused:
    """The generator with `instance_norm_act` between its convolutions, which engines run as a plugin from now on.

    Raises:
        BackendError: there is nothing to gain, or plugins can't be had.
    """
    if reason := tensorrt_plugin.unavailable():
        raise BackendError(reason)
    from engine.fuse_norms import InstanceNormAct, fuse_norms

    fused = fuse_norms(generator)
    if not any(isinstance(layer, InstanceNormAct) for layer in fused.modules()):
        raise BackendError("the generator has no InstanceNorm")
    tensorrt_plugin.register()
    return fused


def _compile(
    module: nn.Module, example: Tensor, dtype: torch.dtype, shapes: dict[str, Any], path: Path
) -> dict[str, Any]:
    import torch_tensorrt

    module, example = module.to(dtype=dtype), example.to(dtype)
    options = compile_options(torch_tensorrt, example)
    try:
        with _detailed(torch_tensorrt):
            compiled = torch_tensorrt.compile(
                module, ir="dynamo", inputs=[torch_tensorrt.Input(**shapes, dtype=dtype)], **options
            )
        # As it is: tracing it again would want inputs of every size.
        torch_tensorrt.save(compiled, str(path), output_format="exported_program", retrace=False)
    except Exception as error:  # from torch.export, Torch-TensorRT and TensorRT, whose exceptions have no common base
        raise BackendError(f"Torch-TensorRT can't compile the generator: {last_line(error)}") from error
    return check_program(_read(path), TYPE_NAMES[dtype])


def compile_options(torch_tensorrt: Any, example: Tensor) -> dict[str, Any]:
    """The options of torch_tensorrt.compile: strongly typed, one engine, no TF32.

    Args:
        torch_tensorrt: the module.
        example: input on the GPU to compile for.
    """
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


def _shapes(generator: Generator, example: Tensor, *, dynamic: bool) -> dict[str, Any]:
    if not dynamic:
        return {"shape": tuple(example.shape)}
    smallest, usual, largest = profile_shapes(generator, example)
    return {"min_shape": smallest, "opt_shape": usual, "max_shape": largest}


def check_program(program: torch.export.ExportedProgram, dtype: str) -> dict[str, Any]:
    """Checks that a saved program is one engine, nothing else, and what its convolutions compute in.

    Returns:
        {"layers": how many, "types": how many of each type}.

    Raises:
        BackendError: it is not.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
    engines = [value for value in program.constants.values() if hasattr(value, "get_engine_layer_info")]
    if len(calls) != 1 or len(engines) != 1:
        names = ", ".join(sorted({str(call.target) for call in calls}))
        raise BackendError(f"the program is {len(engines)} TensorRT engines and {len(calls)} calls ({names}), not one")
    return check_layers(layers_in_json(engines[0].get_engine_layer_info()), dtype)


def load(path: Path, example: Tensor, precision: str) -> CompiledGenerator:
    """Loads an engine for inputs like `example`, [N, 3, H, W], and checks what its layers compute in.

    Engines run in CUDA graphs, a setting of Torch-TensorRT for the whole process.

    Raises:
        BackendError: a damaged or foreign file, one for another GPU, of another version of the libraries, for other
            sizes or in another precision.
    """
    import torch_tensorrt

    from engine.frame_runner import DEVICE_LOCK

    if tensorrt_plugin.unavailable() is None:
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


def _read(path: Path) -> torch.export.ExportedProgram:
    """The saved program; Torch-TensorRT's operators have to be imported before."""
    try:
        return torch.export.load(path)
    except Exception as error:  # zip, JSON, schema, and TensorRT's own for other versions and GPUs
        raise BackendError(f"Torch-TensorRT can't load {path.name}: {last_line(error)}: build it again") from error
