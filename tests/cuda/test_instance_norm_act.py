"""instance_norm_act of csrc/cuda against float64: both forms, every layout, dtype, remainder and option."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from engine import reference
from tests.cuda.conftest import Kernels
from tests.cuda.emulated import H100, ORDERS, TURING, Device, emulate, plan_for
from tests.ops.cases import LAYOUTS, assert_norm_close, norm_inputs, norm_settings
from tests.tolerances import INSTANCE_NORM_LARGE_MEAN_RTOL, INSTANCE_NORM_RTOL

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Form, and a device that makes it so: a block with four lanes; the largest cluster with one lane; a cluster because a
# block has too little shared memory; chunks of statistics, few and many.
FORMS = {
    "one block": ("resident", Device(1, 227 * 1024, 2**20, 16)),
    "cluster": ("resident", Device(10_000, 227 * 1024, 2**20, 4)),
    "small blocks": ("resident", Device(1, 6 * 1024, 2**20, 16)),
    "few chunks": ("two_passes", Device(1, 64 * 1024, 2**20, 1)),
    "many chunks": ("two_passes", Device(10_000, 64 * 1024, 2**20, 1)),
}
# N, C, H, W: one place, one channel, packs of 4 and 8 channels and places and what is left of them, groups of lanes
# that are not full, more items than threads.
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 8, 3, 2),
    (2, 24, 4, 33),
    (1, 40, 29, 37),
    (3, 5, 2, 130),
    (1, 264, 8, 8),
    (1, 2, 64, 64),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"activation": "relu", "pad": (1, 1, 1, 1)},
    {"activation": "leaky_relu", "affine": True, "pad": (0, 1, 0, 1)},
    {"affine": True, "residual": True, "eps": 1e-3},
    {"activation": "leaky_relu", "negative_slope": 0.5, "residual": True, "over_channels": True},
    {"affine": True, "activation": "relu", "residual": True, "pad": (3, 0, 2, 1), "over_channels": True},
]


def fits(shape: tuple[int, ...], options: dict[str, Any]) -> bool:
    left, right, top, bottom = options.get("pad", (0, 0, 0, 0))
    return max(left, right) < shape[3] and max(top, bottom) < shape[2]


def run_form(kernels: Kernels, form: str, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    name, device = FORMS[form]
    monkeypatch.setenv("STREAMGAN_NORM_FORM", name)
    if kernels.is_emulated:
        emulate(device, order)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values(kernels: Kernels, dtype: str, layout: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = itertools.cycle(ORDERS)
    for shape, options in itertools.product(SHAPES, OPTIONS):
        if not fits(shape, options):
            continue
        run_form(kernels, form, monkeypatch, next(orders))
        inputs = norm_inputs(shape, DTYPES[dtype], layout, options)
        doubles = {name: tensor.double().contiguous() for name, tensor in inputs.items()}
        # One value of one place has no variance, which PyTorch's own refuses.
        one = shape[2] * shape[3] * (shape[1] if options.get("over_channels") else 1) == 1
        if one:
            doubles["input"] = doubles["input"].expand(-1, -1, 1, 2).contiguous()
            doubles |= {"residual": doubles["residual"].expand(-1, -1, 1, 2)} if "residual" in doubles else {}
        expected = reference.instance_norm_act(**doubles, **norm_settings(options))
        expected = expected[..., :1] if one else expected
        actual = kernels.call("instance_norm_act", **inputs, **norm_settings(options))
        assert actual.dtype == DTYPES[dtype]
        if shape[1] > 1 and shape[2] * shape[3] > 1:
            assert actual.is_contiguous(memory_format=LAYOUTS[layout])
        assert_norm_close(actual, expected, INSTANCE_NORM_RTOL[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_every_place_that_mirrors_is_written(
    kernels: Kernels, form: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paddings up to the side: the same values as without them, exactly, moved to where they belong."""
    run_form(kernels, form, monkeypatch, "forward")
    image = torch.randn(2, 16, 4, 5, generator=torch.Generator().manual_seed(0)).half()
    image = image.contiguous(memory_format=LAYOUTS[layout])
    plain = kernels.call("instance_norm_act", image)
    for pad in [(4, 4, 3, 3), (0, 4, 3, 0), (2, 0, 0, 1), (1, 1, 1, 1), (0, 0, 2, 0)]:
        padded = kernels.call("instance_norm_act", image, pad=pad)
        assert torch.equal(padded, torch.nn.functional.pad(plain.float(), pad, mode="reflect").half())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_mean_costs_no_digits(kernels: Kernels, dtype: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values around 1000 with a deviation of 1: E[x^2] - E[x]^2 in float32 would be noise."""
    run_form(kernels, form, monkeypatch, "forward")
    image = (torch.randn(1, 8, 96, 128, generator=torch.Generator().manual_seed(0)) + 1000).to(DTYPES[dtype])
    for layout in LAYOUTS.values():
        actual = kernels.call("instance_norm_act", image.contiguous(memory_format=layout))
        expected = reference.instance_norm_act(image.double())
        assert_norm_close(actual, expected, max(INSTANCE_NORM_LARGE_MEAN_RTOL, INSTANCE_NORM_RTOL[dtype]))


@pytest.mark.parametrize("form", FORMS)
def test_a_first_value_far_out_costs_no_digits(kernels: Kernels, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks shift by their first value; here it is the worst there can be."""
    run_form(kernels, form, monkeypatch, "forward")
    image = torch.randn(1, 8, 96, 128, generator=torch.Generator().manual_seed(0))
    image[..., 0, 0] = 1000.0
    for layout in LAYOUTS.values():
        actual = kernels.call("instance_norm_act", image.contiguous(memory_format=layout))
        assert_norm_close(actual, reference.instance_norm_act(image.double()), INSTANCE_NORM_LARGE_MEAN_RTOL)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_shows_in_its_channel_alone(
    kernels: Kernels, bad: float, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_form(kernels, form, monkeypatch, "forward")
    image = torch.randn(1, 16, 9, 11, generator=torch.Generator().manual_seed(0)).half()
    image[0, 5, 4, 4] = bad
    for layout in LAYOUTS.values():
        actual = kernels.call("instance_norm_act", image.contiguous(memory_format=layout), activation="relu")
        finite = actual.isfinite().flatten(2).all(dim=2)[0]
        assert finite.tolist() == [channel != 5 for channel in range(16)]
        assert actual[0, 5].isnan().all()


@pytest.mark.parametrize("form", FORMS)
def test_a_residual_is_read_out_of_the_middle_of_a_padded_tensor(
    kernels: Kernels, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_form(kernels, form, monkeypatch, "forward")
    source = torch.Generator().manual_seed(0)
    image = torch.randn(2, 16, 6, 9, generator=source).half().contiguous(memory_format=torch.channels_last)
    padded = torch.randn(2, 16, 8, 11, generator=source).half().contiguous(memory_format=torch.channels_last)
    middle = padded[..., 1:-1, 1:-1]
    expected = kernels.call("instance_norm_act", image, residual=middle.contiguous(memory_format=torch.channels_last))
    assert torch.equal(kernels.call("instance_norm_act", image, residual=middle), expected)


def test_memory_that_is_not_aligned(kernels: Kernels) -> None:
    memory = torch.randn(1 + 2 * 16 * 5 * 7, generator=torch.Generator().manual_seed(0)).half()
    for stride in [(16 * 35, 35, 7, 1), (16 * 35, 1, 7 * 16, 16)]:
        image = memory.as_strided((2, 16, 5, 7), stride, 1)
        expected = reference.instance_norm_act(image.double())
        operators = torch.ops.streamgan_emulated if kernels.is_emulated else torch.ops.streamgan
        moved = (memory if kernels.is_emulated else memory.cuda()).as_strided(image.shape, stride, 1)
        actual, _, _ = operators.instance_norm_act(moved, None, None, None, 1e-5, 1.0, False, [0, 0, 0, 0])
        assert_norm_close(actual.cpu(), expected, INSTANCE_NORM_RTOL["float16"])


def test_statistics(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    image = (torch.randn(2, 24, 17, 23, generator=torch.Generator().manual_seed(0)) * 3 + 5).contiguous(
        memory_format=torch.channels_last
    )
    variance, mean = torch.var_mean(image.double(), dim=(2, 3), unbiased=False)
    for form in FORMS:
        run_form(kernels, form, monkeypatch, "forward")
        operators = torch.ops.streamgan_emulated if kernels.is_emulated else torch.ops.streamgan
        moved = image if kernels.is_emulated else image.cuda()
        _, means, rstds = operators.instance_norm_act(moved, None, None, None, 1e-5, 1.0, False, [0, 0, 0, 0])
        torch.testing.assert_close(means.cpu().double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(rstds.cpu().double(), (variance + 1e-5).rsqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_threads_changes_nothing(order: str) -> None:
    kernels = Kernels("emulated")
    image = torch.randn(1, 48, 20, 31, generator=torch.Generator().manual_seed(0)).half()
    image = image.contiguous(memory_format=torch.channels_last)
    for device in (H100, TURING):
        emulate(device, "forward")
        expected = kernels.call("instance_norm_act", image, pad=(1, 1, 1, 1))
        emulate(device, order)
        assert torch.equal(kernels.call("instance_norm_act", image, pad=(1, 1, 1, 1)), expected)


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
def test_what_does_not_fit_is_said(kernels: Kernels, changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"input": torch.zeros(1, 3, 4, 4), **changes}
    with pytest.raises(RuntimeError, match=message):
        kernels.call("instance_norm_act", **arguments)


@pytest.mark.parametrize(
    ("shape", "device", "resident", "parts"),
    [
        ((1, 256, 64, 64), H100, True, 16),  # a residual block at 256x256
        ((1, 64, 256, 256), H100, True, 16),
        ((8, 256, 64, 64), H100, True, 2),
        ((1, 256, 270, 480), H100, True, 16),  # a residual block at 1920x1080
        ((1, 64, 1080, 1920), H100, False, 396),  # 265 MB: no cluster holds a pack of it
        ((1, 256, 64, 64), TURING, False, 118),
    ],
)
def test_the_plan_of_known_layers(shape: tuple[int, int, int, int], device: Device, resident: bool, parts: int) -> None:
    emulate(device)
    plan = plan_for(shape, torch.float16, interleaved=True)
    assert (plan.resident, plan.parts, plan.vector) == (resident, parts, 8)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", [H100, TURING, Device(170, 99 * 1024, 96 * 2**20, 8), Device(1, 48 * 1024, 1, 1)])
def test_every_plan_can_be_launched(device: Device, dtype: str, interleaved: bool) -> None:
    emulate(device)
    for shape in [
        *SHAPES,
        (1, 3, 2160, 3840),
        (8, 64, 1080, 1920),
        (1, 1024, 8, 8),
        (64, 2048, 1, 1),
        (1, 7, 4320, 7680),
    ]:
        plan = plan_for(shape, DTYPES[dtype], interleaved=interleaved)
        assert plan.shared_bytes <= device.shared_bytes, shape
        assert 1 <= plan.lanes <= 32, shape
        assert plan.lanes & (plan.lanes - 1) == 0, shape
        assert 1 <= plan.blocks < 2**31, shape
        assert plan.blocks % plan.parts == 0, shape
        assert not plan.resident or plan.parts <= device.max_cluster, shape
        places = shape[2] * shape[3]
        assert plan.resident or -(-places // plan.parts) <= 8192 + 8, shape


@pytest.mark.parametrize("layout", LAYOUTS)
def test_into_memory_that_is_there(kernels: Kernels, layout: str) -> None:
    """As TensorRT brings it: the bits of the operator."""
    options = {"affine": True, "residual": True, "activation": "relu", "pad": (3, 0, 2, 1)}
    inputs = norm_inputs((2, 24, 4, 33), torch.float16, layout, options)
    expected = kernels.call("instance_norm_act", **inputs, **norm_settings(options))
    operators = torch.ops.streamgan_emulated if kernels.is_emulated else torch.ops.streamgan
    device = "cpu" if kernels.is_emulated else "cuda"
    tensors = [inputs[name].to(device) for name in ("input", "weight", "bias", "residual")]
    settings = (1e-5, 0.0, False, [3, 0, 2, 1])
    output = torch.full_like(expected, torch.nan, device=device)
    operators.instance_norm_act_out(*tensors, *settings, output)
    assert torch.equal(output.cpu(), expected)
    other = next(form for form in LAYOUTS.values() if form != LAYOUTS[layout])
    for wrong in (output[..., 1:], output.float(), output.contiguous(memory_format=other)):
        with pytest.raises(RuntimeError, match=r"output must be \[2, 24, 7, 36\] in the dtype and layout of input"):
            operators.instance_norm_act_out(*tensors, *settings, wrong)
