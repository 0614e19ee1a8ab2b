"""A generator is found in whatever a training script has wrapped around it."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.checkpoint import inspect_checkpoint, load_generator
from tests.architectures import animegan, reference_resnet, reference_unet, super_resolution
from tests.architectures.discriminators import DISCRIMINATORS
from tests.engine.checkpoint.files import difference, optimizer_state, randomise, save, small_resnet
from tests.tolerances import CHECKPOINT_ATOL

WRAPPERS = {
    "DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "torch.compile": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled DataParallel": lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    "state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "model_state_dict and optimizer": lambda s: {"model_state_dict": s, "optimizer_state_dict": optimizer_state()},
    "params_ema before params": lambda s: {"params": shifted(s), "params_ema": s},
    "params": lambda s: {"params": s},
    "netG": lambda s: {"netD": DISCRIMINATORS["PatchGAN"]().state_dict(), "netG": s, "step": torch.tensor(4)},
    "G_A2B before G_B2A": lambda s: {"G_B2A": shifted(s), "G_A2B": s, "D_A": DISCRIMINATORS["PatchGAN"]().state_dict()},
    "generator": lambda s: {"generator": {f"module.{k}": v for k, v in s.items()}, "args": {"lr": 2e-4}},
    "G": lambda s: collections.OrderedDict(G=s),
    "nested": lambda s: {"models": {"gen_A": {"state_dict": s}}, "history": [1, 2.0, "three"]},
    "flat with discriminator": lambda s: {
        "state_dict": {f"netG_A.{k}": v for k, v in s.items()}
        | {f"netG_B.{k}": v for k, v in shifted(s).items()}
        | {f"netD_A.{k}": v for k, v in DISCRIMINATORS["PatchGAN"]().state_dict().items()},
    },
    "any prefix": lambda s: {f"wrapper.inner_net.{k}": v for k, v in s.items()},
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
}


WRAPPED = {
    "resnet": lambda: reference_resnet.ReferenceResNet(blocks=2, width=4),
    "unet": lambda: reference_unet.ReferenceUNet(downs=5, width=4),
    "srvgg": lambda: super_resolution.CompactNet(2, 4, 1),
    "animegan": lambda: animegan.AnimeNet(4),
}


def shifted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another network of the same architecture, which must not be the one loaded."""
    return {key: value + 1 for key, value in state.items()}


@pytest.mark.parametrize("family", WRAPPED)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_unwraps(wrapper: str, family: str, tmp_path: Path) -> None:
    definition = randomise(WRAPPED[family]())
    path = save(WRAPPERS[wrapper](definition.state_dict()), tmp_path / "file.pth")
    assert difference(load_generator(path), definition, torch.rand(1, 3, 32, 32)) <= CHECKPOINT_ATOL


def test_names_other_generators_in_the_file(tmp_path: Path) -> None:
    state = small_resnet().state_dict()
    info = inspect_checkpoint(save({"G_B2A": shifted(state), "G_A2B": state}, tmp_path / "file.pth"))
    assert info.wrappers == ("G_A2B",)
    assert info.others == ("G_B2A.model",)
