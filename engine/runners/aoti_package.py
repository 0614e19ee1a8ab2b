"""AOTInductor packages that run on numpy arrays: with torch's libraries, but without importing torch.

Importing torch is a second of Python. A package is a zip file with a shared library in it that needs libtorch_cpu
alone; it is called through the C interfaces that AOTInductor's own loader uses, aoti_runtime/interface.h for the
program and aoti_torch/c/shim.h for tensors. On Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import sys
import tempfile
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import BackendError
from engine.runners.base import FrameFacts
from engine.runners.packed import native_errors, stacked

_CHANNELS = 3

# Of arrays that hold the bits of each dtype.
_KEPT_AS: dict[str, type[np.generic]] = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.uint16}

_Int64 = ctypes.c_int64
_Pointer = ctypes.c_void_p
_Handle = ctypes.POINTER(ctypes.c_void_p)

# Function of libtorch_cpu -> what it returns and takes. Most return 0, or what went wrong.
_TORCH_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "aoti_torch_dtype_float32": (ctypes.c_int32, []),
    "aoti_torch_dtype_bfloat16": (ctypes.c_int32, []),
    "aoti_torch_dtype_float16": (ctypes.c_int32, []),
    "aoti_torch_device_type_cpu": (ctypes.c_int32, []),
    "aoti_torch_create_tensor_from_blob": (
        ctypes.c_int32,
        [
            *(_Pointer, _Int64, ctypes.POINTER(_Int64), ctypes.POINTER(_Int64), _Int64),
            *(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, _Handle),
        ],
    ),
    "aoti_torch_delete_tensor_object": (ctypes.c_int32, [_Pointer]),
    "aoti_torch_get_data_ptr": (ctypes.c_int32, [_Pointer, _Handle]),
    "aoti_torch_get_dim": (ctypes.c_int32, [_Pointer, ctypes.POINTER(_Int64)]),
    "aoti_torch_get_dtype": (ctypes.c_int32, [_Pointer, ctypes.POINTER(ctypes.c_int32)]),
    "aoti_torch_get_sizes": (ctypes.c_int32, [_Pointer, ctypes.POINTER(ctypes.POINTER(_Int64))]),
    "aoti_torch_get_strides": (ctypes.c_int32, [_Pointer, ctypes.POINTER(ctypes.POINTER(_Int64))]),
    "omp_set_num_threads": (None, [ctypes.c_int]),  # of the OpenMP library that torch is linked to
}

# The same of a package.
_PACKAGE_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "AOTInductorModelContainerCreateWithDevice": (
        ctypes.c_int32,
        [_Handle, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p],
    ),
    "AOTInductorModelContainerDelete": (ctypes.c_int32, [_Pointer]),
    "AOTInductorModelContainerGetNumInputs": (ctypes.c_int32, [_Pointer, ctypes.POINTER(ctypes.c_size_t)]),
    "AOTInductorModelContainerGetNumOutputs": (ctypes.c_int32, [_Pointer, ctypes.POINTER(ctypes.c_size_t)]),
    "AOTInductorModelContainerRun": (
        ctypes.c_int32,
        [_Pointer, _Handle, ctypes.c_size_t, _Handle, ctypes.c_size_t, _Pointer, _Pointer],
    ),
}


class PackageRunner:
    """Runs a package on frames of one size; from any thread, one call after the other.

    Args:
        path: of the package, which has to be trusted: it is code.
        facts: how frames become its input.
        dtype: of its input, e.g. "bfloat16".
        size: (H, W) of its input.
        frame_bytes: memory that a frame takes, estimated.
        threads: how many share the work.

    Raises:
        BackendError: it can't be loaded, or is not of a generator.
    """

    frames_under_way = 1
    takes_batches = False
    takes_tensors = False

    def __init__(
        self, path: Path, facts: FrameFacts, *, dtype: str, size: tuple[int, int], frame_bytes: int, threads: int
    ) -> None:
        if dtype not in _KEPT_AS:
            raise BackendError(f"packages of {dtype} are not run")
        if sys.platform != "linux":
            raise BackendError("packages run without torch on Linux alone")
        try:
            from engine import _native
        except ImportError as error:
            raise BackendError(f"the kernels can't be loaded ({error}): run `pip install -e .` again") from error
        self._native = _native
        self.facts = facts
        self._dtype, self._size, self._frame_bytes = dtype, size, frame_bytes
        self._threads = threads
        self._torch = _libtorch()
        self._library = _load_library(path)
        container = _Pointer()
        create = self._library.AOTInductorModelContainerCreateWithDevice
        try:
            self._check(create(ctypes.byref(container), 1, b"cpu", None), f"{path} can't be loaded")
        except RuntimeError as error:
            raise BackendError(str(error)) from error
        self._container = container
        # Not when the process ends: libraries are taken down by then.
        weakref.finalize(self, self._library.AOTInductorModelContainerDelete, container).atexit = False
        for count in ("Inputs", "Outputs"):
            number = ctypes.c_size_t()
            getattr(self._library, f"AOTInductorModelContainerGetNum{count}")(container, ctypes.byref(number))
            if number.value != 1:
                raise BackendError(f"{path} has {number.value} {count.lower()}: it is no generator")

    def translate(self, frame: np.ndarray) -> np.ndarray:
        """Translates a frame, uint8 [H, W, 3], BGR: pads, normalises, runs, rounds and crops.

        Raises:
            BackendError: the package failed, or the frame does not fit in its input.
            FrameSizeError: there is no memory for it.
        """
        facts = self.facts
        with native_errors(frame):
            image = self._native.image_of_frame(np.ascontiguousarray(frame), self._size, facts.input_range, self._dtype)
            with self._ran(image) as output:
                size = (frame.shape[0] * facts.scale, frame.shape[1] * facts.scale)
                return self._native.frame_of_image(output, size, facts.output_range, self._dtype)

    def submit(self, frames: np.ndarray) -> Callable[[], np.ndarray]:
        """See `Runner.submit`."""
        translated = stacked([self.translate(frame) for frame in frames])
        return lambda: translated

    def needed_bytes(self, count: int, height: int, width: int) -> int:
        """See `Runner.needed_bytes`."""
        return self._frame_bytes

    def release(self) -> None:
        """See `Runner.release`: a package keeps nothing between frames."""

    @contextlib.contextmanager
    def _ran(self, image: np.ndarray) -> Any:
        """What the package makes of an image, [H, W, 3]: an array [3, H * scale, W * scale] that lives in the block."""
        torch = self._torch
        height, width = self._size
        torch.omp_set_num_threads(self._threads)  # of this thread's parallel regions
        dtype = getattr(torch, f"aoti_torch_dtype_{self._dtype}")()
        shape = (_Int64 * 4)(1, _CHANNELS, height, width)
        strides = (_Int64 * 4)(image.size, 1, width * _CHANNELS, _CHANNELS)
        tensor = _Pointer()
        self._check(
            torch.aoti_torch_create_tensor_from_blob(
                *(image.ctypes.data, 4, shape, strides, 0, dtype, torch.aoti_torch_device_type_cpu(), -1),
                ctypes.byref(tensor),
            ),
            "torch can't take the image",
        )
        inputs, outputs = (_Pointer * 1)(tensor.value), (_Pointer * 1)()  # the input is the package's from now on
        failed = self._library.AOTInductorModelContainerRun(self._container, inputs, 1, outputs, 1, None, None)
        self._check(failed, "the package failed")
        result = _Pointer(outputs[0])
        try:
            yield self._array_of(result, dtype)
        finally:
            torch.aoti_torch_delete_tensor_object(result)

    def _array_of(self, tensor: ctypes.c_void_p, dtype: int) -> np.ndarray:
        torch = self._torch
        rank, found = _Int64(), ctypes.c_int32()
        sizes, strides, data = ctypes.POINTER(_Int64)(), ctypes.POINTER(_Int64)(), _Pointer()
        torch.aoti_torch_get_dim(tensor, ctypes.byref(rank))
        torch.aoti_torch_get_dtype(tensor, ctypes.byref(found))
        torch.aoti_torch_get_sizes(tensor, ctypes.byref(sizes))
        torch.aoti_torch_get_strides(tensor, ctypes.byref(strides))
        torch.aoti_torch_get_data_ptr(tensor, ctypes.byref(data))
        shape = tuple(sizes[axis] for axis in range(rank.value))
        size = [side * self.facts.scale for side in self._size]
        if found.value != dtype or shape != (1, _CHANNELS, *size):
            raise BackendError(f"the package made a tensor of {list(shape)}, no frame of {size}")
        kind = np.dtype(_KEPT_AS[self._dtype])
        steps = tuple(strides[axis] * kind.itemsize for axis in range(1, 4))
        extent = sum((side - 1) * step for side, step in zip(shape[1:], steps, strict=True)) + kind.itemsize
        buffer = (ctypes.c_char * extent).from_address(data.value or 0)
        return np.ndarray(shape[1:], kind, buffer, strides=steps)

    def _check(self, failed: int, what: str) -> None:
        """Raises RuntimeError unless a call returned 0."""
        if not failed:
            return
        reason = ctypes.c_char_p()
        with contextlib.suppress(AttributeError):  # before torch 2.13
            self._library.AOTInductorGetLastError(ctypes.byref(reason))
        lines = (reason.value or b"").decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"{what}: {lines[0] if lines else 'AOTInductor gives no reason'}")


@functools.cache
def _libtorch() -> ctypes.CDLL:
    spec = importlib.util.find_spec("torch")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise BackendError("torch is not installed")
    return _library(Path(folders[0]) / "lib" / "libtorch_cpu.so", _TORCH_FUNCTIONS)


def _load_library(package: Path) -> ctypes.CDLL:
    """The library in a package. Its file is gone again when this returns; what was loaded of it stays."""
    try:
        with zipfile.ZipFile(package) as archive, tempfile.TemporaryDirectory(prefix="streamgan-") as folder:
            names = [name for name in archive.namelist() if name.endswith(".so")]
            if len(names) != 1:
                raise BackendError(f"{package} has {len(names)} libraries in it: it is no package of one generator")
            path = Path(folder) / "package.so"
            path.write_bytes(archive.read(names[0]))
            return _library(path, _PACKAGE_FUNCTIONS)
    except (OSError, zipfile.BadZipFile) as error:
        raise BackendError(f"{package} can't be unpacked: {error}") from error


def _library(path: Path, functions: dict[str, tuple[Any, list[Any]]]) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in functions.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise BackendError(f"{path.name} can't be loaded: {error}") from error
    return library
