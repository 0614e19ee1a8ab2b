"""The CUDA operators as torch sees them: opcheck, compiled, captured into a graph, with gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine import ops

ARGUMENTS = (1e-5, 0.2, False, [1, 0, 1, 1])


def inputs(layout: torch.memory_format, device: str = "cuda", **options: Any) -> list[torch.Tensor]:
    """Input, weight, bias and residual."""
    source = torch.Generator().manual_seed(0)
    image, residual = (torch.randn(2, 8, 9, 11, generator=source, **options) for _ in range(2))
    weight, bias = torch.rand(8, generator=source) + 0.5, torch.randn(8, generator=source)
    return [
        image.to(device, memory_format=layout),
        weight.to(device),
        bias.to(device),
        residual.to(device, memory_format=layout),
    ]


@pytest.mark.parametrize("over_channels", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradients_are_those_of_the_processor(layout: torch.memory_format, over_channels: bool) -> None:
    """What CUDA tensors get is plain PyTorch, so it runs here too."""
    image, weight, bias, grad = inputs(layout, "cpu")
    _, mean, rstd = torch.ops.streamgan.instance_norm_act(
        image, weight, bias, None, 1e-5, 0.2, over_channels, [0, 0, 0, 0]
    )
    arguments = (grad, image, weight, bias, mean, rstd, 0.2, over_channels)
    expected = torch.ops.streamgan.instance_norm_act_backward(*arguments)
    for actual, other in zip(ops._instance_norm_act_backward_on_cuda(*arguments), expected, strict=True):
        torch.testing.assert_close(actual, other, rtol=1e-5, atol=1e-5)
        assert actual.stride() == other.stride()
    without = (grad, image, None, None, mean, rstd, 0.2, over_channels)
    plain = torch.ops.streamgan.instance_norm_act_backward(*without)[0]
    torch.testing.assert_close(ops._instance_norm_act_backward_on_cuda(*without)[0], plain, rtol=1e-5, atol=1e-5)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
class TestOnADevice:
    @pytest.fixture(autouse=True)
    def loaded(self) -> None:
        assert ops.cuda_unavailable() is None

    def test_opcheck(self, layout: torch.memory_format) -> None:
        tensors = [tensor.requires_grad_(True) for tensor in inputs(layout)]
        torch.library.opcheck(torch.ops.streamgan.instance_norm_act.default, (*tensors, *ARGUMENTS))
        half = inputs(layout, dtype=torch.float32)[0].half()
        torch.library.opcheck(torch.ops.streamgan.instance_norm_act.default, (half, None, None, None, *ARGUMENTS))
        frames = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8, device="cuda")
        torch.library.opcheck(torch.ops.streamgan.frames_to_tensor.default, (frames, -1.0, 1.0, 8, 8, torch.float16))
        tensor = half[:, :3].contiguous(memory_format=layout)
        torch.library.opcheck(torch.ops.streamgan.tensor_to_frames.default, (tensor, -1.0, 1.0, 8, 8, True))
        luma, chroma = frames[0, :, :, 0], frames[0, :3, :4, :2].contiguous()
        torch.library.opcheck(torch.ops.streamgan.yuv_to_bgr.default, (luma, chroma, 0.2126, 0.0722, False, True, 8))
        torch.library.opcheck(torch.ops.streamgan.bgr_to_yuv.default, (frames[0, :4, :6], 0.2126, 0.0722, False))

    def test_compiled(self, layout: torch.memory_format) -> None:
        tensors = inputs(layout)

        def call(*given: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.ops.streamgan.instance_norm_act(*given, *ARGUMENTS)[0])

        torch.testing.assert_close(torch.compile(call, fullgraph=True)(*tensors), call(*tensors))

    def test_captured_into_a_graph(self, layout: torch.memory_format) -> None:
        """On a stream that is not the default one, and again with other values in the same memory."""
        image = inputs(layout)[0].half()
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            for _ in range(2):
                ops.instance_norm_act(image, activation="relu", pad=(1, 1, 1, 1))
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            output = ops.instance_norm_act(image, activation="relu", pad=(1, 1, 1, 1))
        image.copy_(torch.randn_like(image))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(output, ops.instance_norm_act(image, activation="relu", pad=(1, 1, 1, 1)))
