"""Weights that are not those of a known generator are refused, each with one line that helps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.generators import CONFIG_KEY
from tests.architectures.discriminators import DISCRIMINATORS
from tests.engine.checkpoint.files import error_of, save, small_resnet


@pytest.mark.parametrize("wrapper", ["plain", "DataParallel", "netG"])
@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_discriminator(kind: str, wrapper: str, tmp_path: Path) -> None:
    state = DISCRIMINATORS[kind]().state_dict()
    value = {"plain": state, "DataParallel": {f"module.{k}": v for k, v in state.items()}, "netG": {"netD": state}}
    path = save(value[wrapper], tmp_path / "latest_net_D_A.pth")
    assert "is a discriminator" in error_of(path)
    assert "e.g. latest_net_G_A.pth" in error_of(path)


@pytest.mark.parametrize(
    ("discriminator", "generator"),
    [
        ("latest_net_D_A.pth", "latest_net_G_A.pth"),
        ("netD_A2B.pth", "netG_A2B.pth"),
        ("D_100.pth", "G_100.pth"),
        ("discriminator.pt", "generator.pt"),
        ("disc_h.pth", "gen_h.pth"),
        ("critich.pth.tar", "genh.pth.tar"),
    ],
)
def test_names_the_generator_beside_a_discriminator(discriminator: str, generator: str, tmp_path: Path) -> None:
    path = save(DISCRIMINATORS["PatchGAN"]().state_dict(), tmp_path / discriminator)
    (tmp_path / generator).touch()
    assert f"pass {tmp_path / generator} beside it" in error_of(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    state["model.10.conv_block.5.weight"][0, 0, 1, 2] = value
    message = error_of(save({"netG": state}, tmp_path / "file.pth"))
    assert "model.10.conv_block.5.weight has NaN or infinite values" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_types_that_are_not_plain_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {key: value.to(dtype) for key, value in small_resnet().state_dict().items()}
    message = error_of(save(state, tmp_path / "file.pth"))
    assert f"model.1.weight is stored as {str(dtype).removeprefix('torch.')}" in message


def test_sparse_weight(tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    state["model.1.bias"] = state["model.1.bias"].to_sparse()
    assert "model.1.bias is stored as float32, sparse_coo" in error_of(save(state, tmp_path / "file.pth"))


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


def test_missing_keys_are_named(tmp_path: Path) -> None:
    state = without(small_resnet().state_dict(), "model.11.conv_block.1.bias", "model.19.bias")
    message = error_of(save(state, tmp_path / "file.pth"))
    assert "nearest is ResNet, 2 blocks, 4 channels" in message
    assert "2 missing (model.11.conv_block.1.bias, model.19.bias)" in message
    assert "unexpected" not in message


def test_leftover_keys_are_named(tmp_path: Path) -> None:
    state = dict(small_resnet().state_dict())
    for number in range(5):
        state[f"attention.{number}.weight"] = torch.ones(2, 2)
    message = error_of(save(state, tmp_path / "file.pth"))
    assert "5 unexpected (attention.0.weight, attention.1.weight, attention.2.weight, ...)" in message
    assert "missing" not in message


def test_leftover_keys_inside_the_layout_are_named(tmp_path: Path) -> None:
    state = {**small_resnet().state_dict(), "model.10.conv_block.8.weight": torch.ones(16)}
    assert "1 unexpected (model.10.conv_block.8.weight)" in error_of(save(state, tmp_path / "file.pth"))


def test_other_shapes_are_named(tmp_path: Path) -> None:
    state = {**small_resnet().state_dict(), "model.1.weight": torch.ones(4, 3, 9, 9)}
    message = error_of(save({"netG": state}, tmp_path / "file.pth"))
    assert "1 of another shape (model.1.weight is [4, 3, 9, 9] instead of [4, 3, 7, 7])" in message


def test_mixed_blocks_are_an_error(tmp_path: Path) -> None:
    """One block of another form than the first is never silently taken for the same."""
    state = dict(small_resnet().state_dict())
    moved = {key.replace("model.11.conv_block.5", "model.11.conv_block.6"): value for key, value in state.items()}
    message = error_of(save(moved, tmp_path / "file.pth"))
    assert "2 missing" in message
    assert "model.11.conv_block.6.weight" in message


def test_sequence_with_unknown_positions_is_an_error(tmp_path: Path) -> None:
    """A layer without weights that no form of the layout has may compute anything."""
    moved = {}
    for key, value in small_resnet().state_dict().items():
        number, _, rest = key.removeprefix("model.").partition(".")
        moved[f"model.{int(number) + 2 * (int(number) > 4)}.{rest}"] = value
    assert "no known generator" in error_of(save(moved, tmp_path / "file.pth"))


def test_empty_and_odd_shapes_are_an_error(tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    for shape in ((0, 3, 7, 7), (4, 0, 7, 7), (), (4,)):
        error_of(save({**state, "model.1.weight": torch.ones(shape)}, tmp_path / "file.pth"))


def test_weight_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    state["model.1.weight"] = torch.ones(1).expand(4, 3, 7, 7)
    assert "less data than its shape" in error_of(save(state, tmp_path / "file.pth"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{", "metadata is damaged"),
        ("[]", "metadata is damaged"),
        ('{"family": "resnet", "width": "64"}', "accepted is a value of type int"),
        ('{"family": "resnet", "colour": 1}', "no field 'colour'"),
        ('{"family": "resnet", "blocks": 1000000000}', "blocks is 1000000000"),
        ('{"family": "diffusion"}', "unknown generator family 'diffusion'"),
        ('{"family": "resnet", "width": 4, "blocks": 3}', "tensors differ from its own configuration"),
    ],
)
def test_native_metadata_is_checked(config: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file(small_resnet().state_dict(), path, metadata={CONFIG_KEY: config})
    assert expected in error_of(path)
