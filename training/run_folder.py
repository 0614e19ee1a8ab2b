"""The files of a run, CHECKPOINTS_DIR/NAME: networks, state, losses, pictures. Each file appears once it is complete.

latest_net_G_A.pth   networks, in the key layout of the reference implementation; EPOCH_net_... are kept
latest_net_G_A_ema.pth  a moving average, where --ema asks for one
latest_state.pth     everything that --continue_train needs
options.json         options of the run
NAME.safetensors, pairs-.../  of --model distillation: the finished style, and the teacher's pictures
losses.csv, tensorboard/, web/index.html
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.errors import CheckpointError, EngineError, SinkError
from engine.generators import Generator, ResNetConfig
from training import distributed
from training.files import load_network, read_mapping, save_whole, write_whole
from training.models import TrainingModel
from training.networks import start_from

_FORMAT = 2


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def require_unused(self) -> None:
        """Raises EngineError where there are networks or a state already: a new run would overwrite them."""
        if self._state_path().exists() or any(self.path.glob("*_net_*.pth")):
            raise EngineError(
                f"{self.path} holds a run: go on with it by --continue_train, take another --name, or --restart"
            )

    @property
    def has_state(self) -> bool:
        """Whether the state of a run was saved here."""
        return self._state_path().exists()

    def lock(self) -> None:
        """Keeps the run to this process until it ends. Raises EngineError where another process trains it."""
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineError(f"another process trains {self.path}: wait for it, or take another --name") from None
        except OSError:
            pass  # a file system without locks

    def unlock(self) -> None:
        """Lets others train the run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load_networks(self, model: TrainingModel, prefix: str) -> None:
        """Networks alone, as the reference leaves them. Raises EngineError where one is missing or is another one."""
        paths = {name: self.path / f"{prefix}_net_{name}.pth" for name in model.networks}
        if not any(path.is_file() for path in paths.values()):
            raise EngineError(
                f"nothing to go on from: there is no {self._state_path()}; leave --continue_train out to start again"
            )
        for name, path in paths.items():
            if not path.is_file():
                raise EngineError(f"there is no {path}: --continue_train needs all of {', '.join(model.networks)}")
            network = model.networks[name]
            if isinstance(network, Generator):
                start_from(network, path, option="--continue_train")
                continue
            try:
                network.load_state_dict(load_network(path, dict), strict=True)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1].strip()
                raise EngineError(
                    f"{path} is another network ({reason}): give the options it was trained with"
                ) from None

    def make(self) -> None:
        """Makes the folder. Raises SinkError where that fails."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"can't make the folder {self.path}: {error.strerror}") from error

    def write_options(self, options: argparse.Namespace) -> None:
        """Keeps the options, for people and for `training.evaluate`."""
        text = json.dumps(vars(options), indent=2, default=str) + "\n"
        write_whole(self.path / "options.json", lambda partial: partial.write_text(text))

    def save_networks(self, model: TrainingModel, prefix: str) -> None:
        """Writes every network and moving average; `prefix` is "latest" or the number of an epoch."""
        networks = dict(model.networks)
        networks |= {f"{name}_ema": average.network for name, average in model.averages.items()}
        for name, network in networks.items():
            state = {key: tensor.detach().cpu().contiguous() for key, tensor in published_state(network).items()}
            save_whole(self.path / f"{prefix}_net_{name}.pth", state)

    def save_state(self, model: TrainingModel, progress: Mapping[str, Any]) -> None:
        """Writes the state that a run resumes from. The earlier state stays until the new one is complete."""
        state = {"format": _FORMAT, "kind": model.options.model, "model": model.state_dict(), **progress}
        save_whole(self._state_path(), state)

    def load_state(self, model: TrainingModel) -> dict[str, Any]:
        """Restores `model`, and returns the progress saved with it. Raises EngineError for a missing or other state."""
        path = self._state_path()
        if not path.is_file():
            raise EngineError(f"nothing to go on from: there is no {path}; leave --continue_train out to start again")
        state = read_mapping(path)
        if state.get("format") != _FORMAT or "kind" not in state:
            raise EngineError(f"{path} is no state of a run of this version: start again, or under another --name")
        if state["kind"] != model.options.model:
            raise EngineError(f"{path} is the state of --model {state['kind']}, not of {model.options.model}")
        try:
            model.load_state_dict(state.pop("model"))
        except KeyError as error:
            raise EngineError(f"{path} is damaged: it has no {error}") from None
        return state

    def _state_path(self) -> Path:
        suffix = f"_rank{distributed.rank()}" if distributed.rank() else ""
        return self.path / f"latest_state{suffix}.pth"


def published_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict under the names from which published code and `engine.load_generator` recognise the architecture.

    They are those of the reference implementation. These don't show that a ResNet's strided convolutions are padded by
    reflection, so such a ResNet gets the names of the code that it comes from: `initial`, `down_blocks`, ...
    """
    state = network.state_dict()
    config = getattr(network, "config", None)
    if isinstance(config, ResNetConfig) and config.downsampling_padding == "reflect":
        names = _block_names(config)
        return {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}
    return state


def _block_names(config: ResNetConfig) -> dict[str, str]:
    """Name of a layer in our sequence -> its name in block-style files."""
    if config.dropout or config.upsampling != "transposed" or config.norm == "none":
        raise CheckpointError(
            "a ResNet with reflect-padded downsampling is saved with a norm, without dropout and with transposed "
            "upsampling only"
        )
    down, blocks = config.downsamplings, config.blocks
    names = {f"model.{5 + 6 * down + blocks}": "last"}
    for part in (0, 1):
        names[f"model.{1 + part}"] = f"initial.{part}"
        for level in range(down):
            names[f"model.{4 + 3 * level + part}"] = f"down_blocks.{level}.conv.{part}"
            names[f"model.{4 + 3 * (down + level) + blocks + part}"] = f"up_blocks.{level}.conv.{part}"
        for number, half in itertools.product(range(blocks), (0, 1)):
            ours = f"model.{4 + 3 * down + number}.conv_block.{1 + 4 * half + part}"
            names[ours] = f"res_blocks.{number}.block.{half}.conv.{part}"
    return names
