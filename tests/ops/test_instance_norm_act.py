"""instance_norm_act and its gradients against float64: every instruction set, dtype, layout and option."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine import ops, reference
from tests.ops.cases import ISAS, LAYOUTS, assert_norm_close, forced_isa, norm_inputs, norm_settings, threads
from tests.tolerances import INSTANCE_NORM_LARGE_MEAN_RTOL, INSTANCE_NORM_RTOL

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# N, C, H, W: around vectors of 4, 8 and 16, of one pixel's neighbours, of several chunks of statistics.
SHAPES = [(1, 1, 3, 2), (2, 3, 5, 7), (1, 16, 8, 8), (2, 17, 4, 33), (1, 40, 37, 29), (3, 5, 2, 130)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"activation": "relu", "pad": (1, 1, 1, 1)},
    {"activation": "leaky_relu", "affine": True, "pad": (0, 1, 0, 1)},
    {"activation": "leaky_relu", "negative_slope": 0.5, "residual": True, "over_channels": True},
    {"affine": True, "residual": True, "pad": (1, 0, 1, 1), "over_channels": True, "eps": 1e-3},
]


def tensors(shape: tuple[int, ...], dtype: torch.dtype, layout: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """Inputs that gradients are wanted of."""
    return {name: tensor.requires_grad_(True) for name, tensor in norm_inputs(shape, dtype, layout, options).items()}


def expected_of(inputs: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The definition in float64, and the gradients of all inputs for a gradient of `grad_for`."""
    doubles = {name: tensor.detach().double().contiguous().requires_grad_(True) for name, tensor in inputs.items()}
    output = reference.instance_norm_act(**doubles, **norm_settings(options))
    grads = torch.autograd.grad(output, list(doubles.values()), grad_for(output))
    return output.detach(), dict(zip(doubles, grads, strict=True))


def grad_for(output: Tensor) -> Tensor:
    values = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    return values.bfloat16().to(output.dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_values_and_gradients(options: dict[str, Any], dtype: str, layout: str, isa: str) -> None:
    tolerance = INSTANCE_NORM_RTOL[dtype]
    for shape in SHAPES:
        if any(
            pad >= side for pad, side in zip(options.get("pad", ()), (shape[3],) * 2 + (shape[2],) * 2, strict=False)
        ):
            continue
        inputs = tensors(shape, DTYPES[dtype], layout, options)
        expected, expected_grads = expected_of(inputs, options)
        with forced_isa(isa):
            output = ops.instance_norm_act(**inputs, **norm_settings(options))
            grads = torch.autograd.grad(output, list(inputs.values()), grad_for(output))
        assert output.dtype == DTYPES[dtype]
        if shape[1] > 1:
            assert output.is_contiguous(memory_format=LAYOUTS[layout])
        assert_norm_close(output, expected, tolerance)
        for name, grad in zip(inputs, grads, strict=True):
            places = shape[0] * shape[2] * shape[3] if name in ("weight", "bias") else 1
            assert_norm_close(grad, expected_grads[name], 2 * tolerance * max(1.0, places**0.5 / 4))


def test_a_large_mean_costs_no_digits() -> None:
    """A million pixels around 1000 with a deviation of 1: E[x^2] - E[x]^2 in float32 would be noise."""
    image = torch.randn(1, 2, 1000, 1000, generator=torch.Generator().manual_seed(0)) + 1000
    for layout in LAYOUTS.values():
        actual = ops.instance_norm_act(image.contiguous(memory_format=layout))
        assert_norm_close(actual, reference.instance_norm_act(image.double()), INSTANCE_NORM_LARGE_MEAN_RTOL)


def test_any_other_layout_is_taken() -> None:
    inputs = tensors((2, 8, 6, 10), torch.float32, "contiguous", {"residual": True})
    strided = {name: tensor.detach().transpose(2, 3) for name, tensor in inputs.items()}
    expected = ops.instance_norm_act(**{name: tensor.contiguous() for name, tensor in strided.items()})
    assert torch.equal(ops.instance_norm_act(**strided), expected)


def test_threads_change_nothing() -> None:
    inputs = tensors((2, 24, 40, 50), torch.float32, "channels_last", {"residual": True, "affine": True})
    results = []
    for count in (1, 2, 5):
        with threads(count):
            output = ops.instance_norm_act(**inputs, activation="relu")
            results.append([output, *torch.autograd.grad(output, list(inputs.values()), grad_for(output))])
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_an_operator_like_any_other(layout: str) -> None:
    inputs = tensors((2, 5, 6, 7), torch.float32, layout, {"residual": True, "affine": True})
    arguments = (inputs["input"], inputs["weight"], inputs["bias"], inputs["residual"], 1e-5, 0.0, False, [1, 1, 1, 1])
    torch.library.opcheck(torch.ops.streamgan.instance_norm_act.default, arguments)
    compiled = torch.compile(
        lambda: ops.instance_norm_act(**inputs, activation="relu", pad=(1, 1, 1, 1)), fullgraph=True
    )
    output, direct = compiled(), ops.instance_norm_act(**inputs, activation="relu", pad=(1, 1, 1, 1))
    assert torch.equal(output, direct)
    ours = torch.autograd.grad(output, list(inputs.values()), grad_for(output))
    theirs = torch.autograd.grad(direct, list(inputs.values()), grad_for(direct))
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": torch.zeros(3, 4, 4)}, "must be .N, C, H, W."),
        ({"input": torch.zeros(1, 3, 4, 4, dtype=torch.float64)}, "not one of Float"),
        ({"weight": torch.zeros(4)}, "weight must be Float .3."),
        ({"residual": torch.zeros(1, 3, 4, 5)}, "residual must have the shape"),
        ({"pad": (0, 4, 0, 0)}, "below the side"),
        ({"pad": (0, -1, 0, 0)}, "at least 0"),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"input": torch.zeros(1, 3, 4, 4), **changes}
    with pytest.raises(RuntimeError, match=message):
        ops.instance_norm_act(**arguments)
