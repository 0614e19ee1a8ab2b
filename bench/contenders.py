"""Who takes part in `python -m bench model`: every backend of the engine by itself, a peer by its entry in `_PEERS`."""

from __future__ import annotations

import dataclasses
import importlib
from types import ModuleType

from bench.peers import Spec
from engine.backends import BACKENDS, InMemoryBackend
from engine.precision import PRECISIONS


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way of running a generator.

    Attributes:
        name: as tables and `--contenders` have it.
        module: of `bench.peers`.
        precision: what it runs in, which is also the parity limit it has to keep.
        ours: whether it is this project's.
        backend: of the engine, if it is ours.
    """

    name: str
    module: str
    precision: str
    ours: bool = False
    backend: str = ""

    def spec(self, *, threads: int, device: str) -> Spec:
        """How it runs with so many threads on `device`."""
        return Spec(self.precision, threads, device, self.backend)

    @property
    def uses_inductor(self) -> bool:
        """Whether it starts torch's compiler, which examines the machine on its first use."""
        return self.module in ("torch_compile", "aoti") or self.backend == "inductor"

    def implementation(self) -> ModuleType:
        """Its module, imported."""
        return importlib.import_module(f"bench.peers.{self.module}")

    def unavailable(self, *, threads: int, device: str) -> str | None:
        """Why it can't run here, in one line; None if it can."""
        reason: str | None = self.implementation().unavailable(device, self.spec(threads=threads, device=device))
        return reason


# Tool, module, the precisions it is measured in on the CPU, and on a GPU.
_PEERS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("pytorch eager", "pytorch_eager", ("fp32", "bf16", "fp16"), ("fp32", "bf16", "fp16")),
    ("torchscript", "torchscript", ("fp32",), ("fp32", "fp16")),
    ("torch.compile", "torch_compile", ("fp32", "bf16"), ("fp32", "bf16", "fp16")),
    ("aotinductor", "aoti", ("fp32", "bf16"), ("fp32", "fp16")),
    ("onnxruntime", "onnx_runtime", ("fp32",), ("fp32", "fp16")),
    ("openvino", "openvino_runtime", ("fp32", "bf16"), ()),
    ("ncnn", "ncnn_runtime", ("fp32", "bf16"), ()),
    ("mnn", "mnn_runtime", ("fp32",), ()),  # its wheels have no bf16 for x86: "low" precision gives the same bits
    ("tensorrt", "tensorrt_runtime", (), ("fp32", "fp16")),
    ("tensorrt-rtx", "tensorrt_rtx_runtime", (), ("fp32", "fp16")),
)


def in_memory_backends() -> dict[str, InMemoryBackend]:
    """Our backends that are no other runtime's: those are the peers themselves, and `bench backends` measures them."""
    return {name: backend for name, backend in BACKENDS.items() if isinstance(backend, InMemoryBackend)}


def contenders(device: str, *, emulated: tuple[str, ...] = ()) -> list[Contender]:
    """All that are compared on `device`, ours first.

    Args:
        emulated: precisions that the device has no arithmetic for. Ours are left out in them, since the product warns
            against them; peers are not, for people ask.
    """
    ours = [
        Contender(
            f"engine {name} {precision}",
            # As the product runs it from the second time on.
            "engine_packed" if backend.runs_without_torch and device == "cpu" else "engine_backend",
            precision,
            ours=True,
            backend=name,
        )
        for name, backend in in_memory_backends().items()
        for precision in PRECISIONS
        if precision not in emulated
        # Elsewhere `fast` is the half precision of the device under a looser limit.
        if precision != "fast" or (device == "cpu" and backend.has_fast)
    ]
    peers = [
        Contender(f"{tool} {precision}", module, precision)
        for tool, module, on_cpu, on_gpu in _PEERS
        for precision in (on_cpu if device == "cpu" else on_gpu)
    ]
    return ours + peers
