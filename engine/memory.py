"""How much memory a frame needs in a generator, how much is available, and how much this process has used."""

from __future__ import annotations

import copy
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from engine.generators import Generator


def activation_bytes(generator: Generator, shape: tuple[int, int, int, int], dtype: torch.dtype) -> int:
    """Estimates the activations alive at once while `generator` runs on an input of `shape` [N, C, H, W], in bytes.

    The largest input plus output of any one layer, found by running the generator on the meta device (shapes only),
    plus half of that for what skip connections and library workspaces hold.
    """
    import torch

    largest = 0

    def measure(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        tensors = [tensor for tensor in (*inputs, output) if isinstance(tensor, torch.Tensor)]
        largest = max(largest, sum(tensor.numel() * tensor.element_size() for tensor in tensors))

    on_meta = copy.deepcopy(generator).to(device="meta", dtype=dtype)
    for module in on_meta.modules():
        if not any(module.children()):
            module.register_forward_hook(measure)
    with torch.inference_mode():
        on_meta(torch.empty(shape, device="meta", dtype=dtype))
    return largest * 3 // 2


def most_activation_bytes(generator: Generator, shape: tuple[int, int, int, int], dtype: torch.dtype) -> int:
    """A bound that `activation_bytes` stays below, in bytes, from the weights' shapes alone.

    No layer has more channels than the widest, in and out, at the size of the output and a margin for padding. Running
    on the meta device instead makes torch import its compiler, which takes a second.
    """
    widest = max(
        (side for weight in generator.parameters() if weight.dim() == 4 for side in weight.shape[:2]), default=3
    )
    count, _, height, width = shape
    pixels = count * (height + 32) * (width + 32) * generator.scale**2
    return 3 * pixels * max(widest, 3) * dtype.itemsize


def available_bytes(device: torch.device | None) -> int | None:
    """Memory that an allocation on `device` (None: the CPU) can still get; None where the system does not tell."""
    if device is not None and device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return _bytes_in("/proc/meminfo", "MemAvailable")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that there was not enough memory, of the machine or of its GPU."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "allocate memory" in str(error) or "not enough memory" in str(error)


def peak_process_bytes() -> int:
    """The largest resident memory that this process has had so far, in bytes."""
    # On Linux, getrusage includes the peak of the process that started this one. On macOS it counts bytes.
    return _bytes_in("/proc/self/status", "VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _bytes_in(path: str, name: str) -> int | None:
    """The value of a line `NAME:  N kB` in a file of /proc, in bytes; None where there is no such file."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
