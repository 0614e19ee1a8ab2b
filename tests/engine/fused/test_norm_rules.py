"""What a norm absorbs and what is refused: one rule a generator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import BackendError
from engine.fused.norms import fuse_norms
from tests.engine.fused.norm_cases import Own, absorbed, assert_equal_to_modules, kinds, made, norm


def reflect(x: Tensor, *pad: int) -> Tensor:
    return F.pad(x, pad, mode="reflect")


def chain(*layers: nn.Module) -> Own:
    """The layers one after the other."""
    return Own({"chain": nn.Sequential(*layers)}, lambda layers, image: layers["chain"](image))


def same_branches(layers: nn.ModuleDict, image: Tensor) -> Tensor:
    """One norm, called twice with something else behind it."""
    return F.relu(layers["norm"](image)) + reflect(layers["norm"](image * 2 + 1), 1, 1, 1, 1)[:, :, 1:-1, 1:-1]


def two_pads(layers: nn.ModuleDict, image: Tensor, *, first: int, second: int) -> Tensor:
    x = layers["norm"](image)
    return F.avg_pool2d(reflect(x, *(first,) * 4), 4).sum() + F.max_pool2d(reflect(x, *(second,) * 4), 4).sum() + x * 2


RULES: dict[str, tuple[Own, dict[str, int]]] = {
    "relu function": (Own(norm(), lambda m, x: F.relu(m["norm"](x))), {"norm": 1, "activation": 1}),
    "relu method": (Own(norm(), lambda m, x: m["norm"](x).relu()), {"norm": 1, "activation": 1}),
    "relu in place": (Own(norm(), lambda m, x: torch.relu_(m["norm"](x))), {"norm": 1, "activation": 1}),
    "leaky_relu function": (Own(norm(), lambda m, x: F.leaky_relu(m["norm"](x), 0.3)), {"norm": 1, "activation": 1}),
    "leaky_relu default": (Own(norm(), lambda m, x: F.leaky_relu(m["norm"](x))), {"norm": 1, "activation": 1}),
    "leaky_relu in place": (Own(norm(), lambda m, x: F.leaky_relu_(m["norm"](x))), {"norm": 1, "activation": 1}),
    "leaky_relu by name": (
        Own(norm(), lambda m, x: F.leaky_relu(m["norm"](x), negative_slope=0.4, inplace=True)),
        {"norm": 1, "activation": 1},
    ),
    "relu of a sum": (  # the operator adds after the activation
        Own(norm(), lambda m, x: F.relu(m["norm"](x) + x)),
        {"norm": 1, "residual": 1},
    ),
    "two activations": (Own(norm(), lambda m, x: F.leaky_relu(F.relu(m["norm"](x)))), {"norm": 1, "activation": 1}),
    "another activation": (Own(norm(), lambda m, x: torch.sigmoid(m["norm"](x))), {"norm": 1}),
    "a module named relu": (
        Own({**norm(), "relu": nn.Hardtanh()}, lambda m, x: m["relu"](m["norm"](x))),
        {"norm": 1},
    ),
    "activation with another reader": (
        Own(norm(), lambda m, x: (lambda n: torch.cat((F.relu(n), n), dim=1))(m["norm"](x))),
        {"norm": 1},
    ),
    "identity and dropout": (
        chain(
            nn.InstanceNorm2d(3), nn.Identity(), nn.Dropout(), nn.LeakyReLU(0.1), nn.Dropout2d(), nn.ReflectionPad2d(2)
        ),
        {"norm": 1, "activation": 1, "pad": 1},
    ),
    "residual first": (Own(norm(), lambda m, x: x + m["norm"](x)), {"norm": 1, "residual": 1}),
    "residual second": (Own(norm(), lambda m, x: torch.add(m["norm"](x), x)), {"norm": 1, "residual": 1}),
    "residual computed later": (
        Own(norm(), lambda m, x: (lambda n: n + torch.sin(x))(m["norm"](x))),
        {"norm": 1, "residual": 1},
    ),
    "residual by name": (Own(norm(), lambda m, x: torch.add(m["norm"](x), other=x)), {"norm": 1}),
    "scaled residual": (Own(norm(), lambda m, x: torch.add(m["norm"](x), x, alpha=3)), {"norm": 1}),
    "added to itself": (Own(norm(), lambda m, x: (lambda n: n + n)(m["norm"](x))), {"norm": 1}),
    "a number is added": (Own(norm(), lambda m, x: m["norm"](x) + 1.5), {"norm": 1}),
    "broadcast over the picture": (
        Own(norm(), lambda m, x: m["norm"](x) + x.mean(dim=(2, 3), keepdim=True)),
        {"norm": 1},
    ),
    "broadcast over images": (
        Own(norm(), lambda m, x: m["norm"](x) + x.mean(dim=0, keepdim=True)),
        {"norm": 1},
    ),
    "two residuals": (Own(norm(), lambda m, x: m["norm"](x) + x + x * x), {"norm": 1, "residual": 1}),
    "two norms are added": (
        Own({**norm(), "other": nn.GroupNorm(1, 3)}, lambda m, x: m["norm"](x) + m["other"](x)),
        {"norm": 2, "residual": 1},
    ),
    "the input is the residual": (  # its convolution keeps the bias
        Own({**norm(), "conv": nn.Conv2d(3, 3, 1)}, lambda m, x: (lambda y: m["norm"](y) + y)(m["conv"](x))),
        {"norm": 1, "residual": 1},
    ),
    "pad function": (Own(norm(), lambda m, x: reflect(m["norm"](x), 1, 2, 3, 0)), {"norm": 1, "pad": 1}),
    "pad by zeros": (Own(norm(), lambda m, x: F.pad(m["norm"](x), (1, 1, 1, 1))), {"norm": 1}),
    "pad by repetition": (chain(nn.InstanceNorm2d(3), nn.ReplicationPad2d(1)), {"norm": 1}),
    "pad by the size": (
        Own(norm(), lambda m, x: F.pad(m["norm"](x), (0, x.shape[3] // 4, 0, 1), mode="reflect")),
        {"norm": 1},
    ),
    "pad of one axis": (
        Own(norm(), lambda m, x: F.pad(m["norm"](x).flatten(2), (1, 1), mode="reflect")),
        {"norm": 1},
    ),
    "pad then activation": (chain(nn.InstanceNorm2d(3), nn.ReflectionPad2d(1), nn.ReLU()), {"norm": 1, "pad": 1}),
    "equal pads": (
        Own(norm(), lambda m, x: two_pads(m, x, first=2, second=2)),
        {"norm": 1, "pad": 1},
    ),
    "unequal pads": (Own(norm(), lambda m, x: two_pads(m, x, first=2, second=1)), {"norm": 1}),
    "one norm twice": (Own(norm(), same_branches), {"norm": 2, "activation": 1, "residual": 1, "pad": 1}),
    "groups": (chain(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.ReLU()), {}),
    "groups of one channel": (
        chain(nn.Conv2d(3, 6, 3), nn.GroupNorm(6, 6), nn.ReLU()),
        {"norm": 1, "activation": 1},
    ),
    "group norm of a sequence": (
        Own({"norm": nn.GroupNorm(1, 3)}, lambda m, x: F.relu(m["norm"](x.flatten(2)))),
        {},
    ),
    "running statistics": (chain(nn.InstanceNorm2d(3, track_running_stats=True), nn.ReLU()), {}),
    "batch norm alone": (chain(nn.BatchNorm2d(3), nn.InstanceNorm2d(3), nn.ReLU()), {"norm": 1, "activation": 1}),
    "batch norm of the batch": (chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), {}),
    "batch norm of grouped transposed": (chain(nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), {}),
    "convolution with two readers": (
        Own(
            {"conv": nn.Conv2d(3, 3, 1), "batch": nn.BatchNorm2d(3), **norm()},
            lambda m, x: (lambda y: m["batch"](y) + m["norm"](y) * y)(m["conv"](x)),
        ),
        {"norm": 1},
    ),
    "one convolution twice": (
        Own(
            {"conv": nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), "batch": nn.BatchNorm2d(3), **norm()},
            lambda m, x: m["conv"](m["norm"](m["conv"](x))) * m["batch"](m["conv"](x)),
        ),
        {"norm": 1},
    ),
    "epsilon": (chain(nn.InstanceNorm2d(3, eps=0.5), nn.ReLU()), {"norm": 1, "activation": 1}),
    "tanh method": (Own(norm(), lambda m, x: m["norm"](x).tanh()), {"norm": 1}),
    "only tanh": (chain(nn.Tanh()), {}),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules(rule: str) -> None:
    generator, expected = RULES[rule]
    fused = fuse_norms(generator)
    assert absorbed(fused) == expected
    for size in ((12, 20), (9, 13)):
        image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
        assert_equal_to_modules(fused, generator, image)


def test_a_tanh_that_is_not_last_stays() -> None:
    generator = Own({}, lambda m, x: (lambda y: y * y.tanh())(x))
    fused = fuse_norms(generator)
    assert not fused.ends_in_tanh
    assert kinds(fused)["tanh"] == 1


# What is refused.


def in_place_read_twice(layers: nn.ModuleDict, image: Tensor) -> Tensor:
    x = layers["norm"](image)
    y = layers["relu"](x)
    return x * 2 + y


def in_place_behind_dropout(layers: nn.ModuleDict, image: Tensor) -> Tensor:
    x = layers["norm"](image)
    y = layers["relu"](layers["dropout"](x))
    return x * 2 + y


@pytest.mark.parametrize("run", [in_place_read_twice, in_place_behind_dropout])
def test_a_change_in_place_of_what_is_read_again_is_refused(run: Callable[[nn.ModuleDict, Tensor], Tensor]) -> None:
    generator = Own({**norm(), "relu": nn.ReLU(inplace=True), "dropout": nn.Dropout()}, run)
    with pytest.raises(BackendError, match=r"^layers\.relu \(ReLU\) changes a value in place"):
        fuse_norms(generator)


@pytest.mark.parametrize(
    "change",
    [lambda x: x.add_(1), lambda x: torch.relu_(x), lambda x: F.leaky_relu(x, inplace=True)],
)
def test_functions_that_change_in_place_are_refused(change: Callable[[Tensor], Tensor]) -> None:
    generator = Own(norm(), lambda m, x: (lambda n: change(n) + n)(m["norm"](x)))
    with pytest.raises(BackendError, match="in place"):
        fuse_norms(generator)


def test_control_flow_is_refused_in_one_line() -> None:
    generator = Own(norm(), lambda m, x: m["norm"](x) if x.mean() > 0 else x)
    with pytest.raises(BackendError, match=r"^Own can't be traced[^\n]*control flow[^\n]*$"):
        fuse_norms(generator)


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_training_mode_is_refused(name: str) -> None:
    with pytest.raises(BackendError, match="training mode"):
        fuse_norms(made(name).train())
    generator = made(name)
    next(layer for layer in generator.modules() if isinstance(layer, (nn.InstanceNorm2d, nn.BatchNorm2d))).train()
    with pytest.raises(BackendError, match="training mode"):
        fuse_norms(generator)
