"""What this machine can do at its best: arithmetic and a copy in memory, the scale for every other figure.

A processor's arithmetic is measured in loops on registers (csrc/cpu/peak.h), which no real program reaches. A CUDA
device's is measured in large matrix products of torch, so it is what its library reaches. A multiplication and its
addition are two operations.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from engine import _native

CPU_COPY_BYTES = 128 * 2**20  # several times any cache
CUDA_COPY_BYTES = 2**30
CUDA_MATRIX_SIZE = 8192
REPEATS = 5
# OpenMP's threads go on spinning for about 10 ms after torch's last work, and would share the cores with the loops.
REST_SECONDS = 0.03

# Key of the result -> kind of _native.peak.
_CPU_KINDS = {
    "float32_gflops": "float32",
    "float16_gflops": "float16",
    "bf16_gflops": "bf16",
    "int8_gops": "int8",
}


def probe(threads: int, device: str = "cpu", seconds: float = 0.05) -> dict[str, float | None]:
    """The peaks of one device, once. To measure them in every round, keep a `Probe`, which keeps its buffers.

    Raises:
        ValueError: `threads` is below 1.
    """
    return Probe(threads, device, seconds).measure()


class Probe:
    """Measures the peaks again and again, with buffers allocated once (256 MiB; on a CUDA device about 4 GiB)."""

    def __init__(self, threads: int, device: str = "cpu", seconds: float = 0.05, isa: str | None = None) -> None:
        """Allocates the buffers.

        Args:
            threads: of the processor's figures; the copy uses as many.
            device: "cpu", or a CUDA device.
            seconds: for each kind of the processor's arithmetic.
            isa: the instruction set whose arithmetic counts; None: the best of the processor.

        Raises:
            ValueError: `threads` is below 1.
        """
        if threads < 1:
            raise ValueError(f"threads is {threads}; accepted is 1 or more")
        self.threads = threads
        self.device = torch.device(device)
        self.seconds = seconds
        self.isa = isa
        self._on_cuda = self.device.type == "cuda"
        size = CUDA_COPY_BYTES if self._on_cuda else CPU_COPY_BYTES
        self._source = torch.ones(size, dtype=torch.uint8, device=self.device)
        self._target = torch.zeros_like(self._source)  # written, so that the system has given the memory
        self._products = _cuda_products(self.device) if self._on_cuda else {}

    def measure(self) -> dict[str, float | None]:
        """One round: 10^9 operations or bytes per second by name, None where the device lacks the instructions.

        float32_gflops, float16_gflops, bf16_gflops, int8_gops and copy_gbytes, read plus written; on a CUDA device also
        tf32_gflops.
        """
        return self._measure_cuda() if self._on_cuda else self._measure_cpu()

    def _measure_cpu(self) -> dict[str, float | None]:
        time.sleep(REST_SECONDS)
        rates: dict[str, float | None] = {}
        for name, kind in _CPU_KINDS.items():
            # The best of several: a thread that loses its core for a moment halves one of them.
            found = [self._peak(kind) for _ in range(REPEATS)]
            rates[name] = max((rate / 1e9 for rate in found if rate is not None), default=None)
        with _torch_threads(self.threads):
            fastest = min(_wall_seconds(self._copy) for _ in range(REPEATS))
        return {**rates, "copy_gbytes": self._copied_bytes / fastest / 1e9}

    def _peak(self, kind: str) -> float | None:
        try:
            return _native.peak(kind, self.threads, self.seconds / REPEATS, self.isa)
        except ValueError as error:
            if "kind" not in str(error):
                raise
            return None  # these kernels have no loop for it

    def _measure_cuda(self) -> dict[str, float | None]:
        operations = 2 * CUDA_MATRIX_SIZE**3
        rates: dict[str, float | None] = {}
        with torch.cuda.device(self.device), torch.inference_mode():
            for name, product in self._products.items():
                rates[name] = None if product is None else operations / _cuda_seconds(product) / 1e9
            rates["copy_gbytes"] = self._copied_bytes / _cuda_seconds(self._copy) / 1e9
        return rates

    def _copy(self) -> None:
        self._target.copy_(self._source)

    @property
    def _copied_bytes(self) -> int:
        return self._source.nbytes + self._target.nbytes


def _cuda_products(device: torch.device) -> dict[str, Callable[[], None] | None]:
    """The matrix products to measure, in the order of their names in the result; None where there is no such unit."""
    capability = torch.cuda.get_device_capability(device)
    has_int8, has_tf32_and_bfloat16 = capability >= (7, 5), capability >= (8, 0)
    shape = (CUDA_MATRIX_SIZE, CUDA_MATRIX_SIZE)
    # Random values: a device draws less power, and may run faster, on constants.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(shape, device=device, generator=generator) for _ in range(2))

    def float_product(dtype: torch.dtype, *, tf32: bool = False) -> Callable[[], None]:
        a, b = left.to(dtype), right.to(dtype)
        out = torch.empty_like(a)

        def multiply() -> None:
            with _tf32(tf32):
                torch.mm(a, b, out=out)

        return multiply

    def int8_product() -> Callable[[], None]:
        # The int8 units take the right matrix column by column.
        a, b = ((32 * matrix).clamp(-127, 127).to(torch.int8) for matrix in (left, right))
        columns = b.t().contiguous().t()

        def multiply() -> None:
            torch._int_mm(a, columns)

        return multiply

    return {
        "float32_gflops": float_product(torch.float32),
        "tf32_gflops": float_product(torch.float32, tf32=True) if has_tf32_and_bfloat16 else None,
        "bf16_gflops": float_product(torch.bfloat16) if has_tf32_and_bfloat16 else None,
        "float16_gflops": float_product(torch.float16),
        "int8_gops": int8_product() if has_int8 else None,
    }


def _wall_seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _cuda_seconds(work: Callable[[], None]) -> float:
    """Seconds of the fastest of some runs on the current stream, after one that loads kernels and wakes the device."""
    work()
    pairs = []
    for _ in range(REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return min(start.elapsed_time(end) for start, end in pairs) / 1e3


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Torch with so many threads, whatever the caller has set."""
    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 matrix products may round their operands to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
