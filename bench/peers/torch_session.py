"""What the contenders that run in PyTorch share: input in their dtype and layout, and the session around a module."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch

from bench.peers import Session, Spec
from engine.precision import dtype_of
from engine.runners.cuda_graph import measured_algorithms


def torch_input(example: np.ndarray, spec: Spec) -> torch.Tensor:
    """`example` in the dtype of the precision, channels_last, on the device; sets torch's threads."""
    torch.set_num_threads(spec.threads)
    device = torch.device(spec.device)
    tensor = torch.from_numpy(example).to(device=device, dtype=dtype_of(spec.precision, device))
    return tensor.to(memory_format=torch.channels_last)


def torch_module(generator: torch.nn.Module, tensor: torch.Tensor) -> torch.nn.Module:
    """`generator` on the device and in the dtype of `tensor`, weights channels_last."""
    moved = generator.to(device=tensor.device, dtype=tensor.dtype)
    return moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def torch_session(
    module: Callable[[torch.Tensor], torch.Tensor],
    tensor: torch.Tensor,
    *,
    mode: Callable[[], AbstractContextManager[object]] = torch.inference_mode,
) -> Session:
    """A session that runs `module` on `tensor` in `mode`: what was compiled in another would be compiled again."""
    on_gpu = tensor.device.type == "cuda"

    def run() -> torch.Tensor:
        with mode():
            output = module(tensor)
        if on_gpu:
            torch.cuda.synchronize()
        return output

    return Session(run, lambda output: output.float().cpu().contiguous().numpy())


def captured(call: Callable[[torch.Tensor], object], tensor: torch.Tensor) -> Callable[[], None]:
    """`call(tensor)` as a function of nothing, without gradients; on a GPU replayed as a CUDA graph."""
    if tensor.device.type != "cuda":

        def directly() -> None:
            with torch.no_grad():
                call(tensor)

        return directly
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.device(tensor.device), measured_algorithms():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call(tensor)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            call(tensor)
    kept = call, tensor  # the graph reads their memory, and does not keep it

    def replay() -> None:
        assert kept
        graph.replay()

    return replay
