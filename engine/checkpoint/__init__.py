"""Any checkpoint file -> a generator; its architecture is read from the state dict, no flag is needed.

    reading.py         file -> tensors in dictionaries, never running code
    unwrapping.py      dictionaries -> state dicts that may be a generator's
    layouts.py,        state dict -> configuration and names, one function per key layout
    resnet_layouts.py
    recognition.py     which layout fits key for key, or what differs
    discriminators.py  tells the file that people pass by mistake

The native format is safetensors with the generator's configuration in its metadata.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save
from torch import Tensor

from engine.checkpoint.layouts import Match
from engine.checkpoint.reading import FileContent, read_file
from engine.checkpoint.recognition import (
    Fit,
    build_without_memory,
    compare,
    expected_state,
    float32_state,
    recognise,
)
from engine.checkpoint.unwrapping import Candidate
from engine.errors import CheckpointError
from engine.files import written_beside
from engine.generators import CONFIG_KEY, Generator, GeneratorConfig, config_from_dict
from engine.styles import locate_generator

__all__ = ["CheckpointInfo", "NormMode", "inspect_checkpoint", "load_generator", "save_generator"]

NormMode = Literal["eval", "batch"]


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """What `inspect_checkpoint` found in a file.

    Attributes:
        path: the file.
        family: name of the family in `engine.generators.FAMILIES`.
        architecture: one line for people, such as "ResNet, 9 blocks, 64 channels, instance norm, ...".
        layout: which key layout the file has.
        config: rebuilds the generator.
        parameters: number of learned values.
        dtypes: types that the weights are stored in.
        wrappers: keys of the dictionaries around the state dict, outermost first.
        prefix: what was removed from the beginning of all names.
        others: places of further generators in the same file, which weren't chosen.
        metadata: text fields of a safetensors file, without the configuration.
    """

    path: Path
    family: str
    architecture: str
    layout: str
    config: GeneratorConfig
    parameters: int
    dtypes: tuple[str, ...]
    wrappers: tuple[str, ...]
    prefix: str
    others: tuple[str, ...]
    metadata: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Recognised:
    fit: Fit
    others: tuple[str, ...]
    metadata: dict[str, str]


def load_generator(style: str | Path, *, norm_mode: NormMode = "eval") -> Generator:
    """Loads a bundled style by name, or the generator in a checkpoint file of any known layout.

    Args:
        style: name of a bundled style, or a .pth, .pt, .ckpt or .safetensors file; the content tells the format.
        norm_mode: "eval" normalises BatchNorm layers with their running statistics. "batch" uses each picture's own
            statistics instead, as the pix2pix authors tested: the result is the same generator with affine
            InstanceNorm (equal to train-mode BatchNorm for one picture) and without running statistics. Dropout is
            off in both. Generators without BatchNorm are the same in both.

    Returns:
        The generator in eval mode, float32, on the CPU, without gradients. Where a file holds several generators,
        moving averages come before others and the direction A to B before B to A; `inspect_checkpoint` names the rest.

    Raises:
        CheckpointError: no such style or file, damaged, holding code, or no generator of a known layout.
    """
    if norm_mode not in ("eval", "batch"):
        raise ValueError(f"norm_mode is {norm_mode!r}; accepted are 'eval' and 'batch'")
    path = locate_generator(style)
    fit = _recognise_file(path).fit
    config, state = fit.match.config, float32_state(path, fit)
    if norm_mode == "batch" and getattr(config, "norm", None) == "batch":
        config = dataclasses.replace(config, norm="instance", affine=True)  # type: ignore[call-arg]
        state = {name: state[name] for name in expected_state(config)}
    generator = build_without_memory(config)
    generator.load_state_dict(state, assign=True)
    return generator.eval().requires_grad_(False)


def inspect_checkpoint(path: str | Path) -> CheckpointInfo:
    """Says what generator a checkpoint file holds, and checks its weights as loading does.

    Raises:
        CheckpointError: as `load_generator`.
    """
    path = Path(path)
    found = _recognise_file(path)
    match, candidate = found.fit.match, found.fit.candidate
    float32_state(path, found.fit)
    dtypes = {str(candidate.state[key].dtype).removeprefix("torch.") for key in found.fit.names.values()}
    return CheckpointInfo(
        path=path,
        family=match.config.family,
        architecture=match.config.describe(),
        layout=match.layout,
        config=match.config,
        parameters=build_without_memory(match.config).parameter_count(),
        dtypes=tuple(sorted(dtypes - {"int64"})),
        wrappers=candidate.wrappers,
        prefix=found.fit.prefix,
        others=found.others,
        metadata={name: text for name, text in found.metadata.items() if name != CONFIG_KEY},
    )


def save_generator(generator: Generator, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes `generator` in the native format: safetensors with the configuration in its metadata.

    The file is written beside `path` and renamed, so that `path` is never half a file.

    Args:
        generator: built by `engine.generators.build` or loaded.
        path: the file to write, replaced where it exists; .safetensors is the usual ending.
        metadata: further text fields, such as the licence and the training data.

    Raises:
        CheckpointError: the file can't be written.
    """
    path = Path(path)
    fields = {**(metadata or {}), "format": "pt", CONFIG_KEY: json.dumps(generator.config.to_dict())}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    try:
        with written_beside(path) as part:
            part.write_bytes(save(state, metadata=fields))  # `save_file` would make it readable for its owner only
    except Exception as error:  # safetensors reports a full disk with an exception of its own
        raise CheckpointError(f"{path}: can't be written: {error}") from error


def _recognise_file(path: Path) -> _Recognised:
    content = read_file(path)
    if CONFIG_KEY in content.metadata:
        return _Recognised(_native_fit(path, content), (), content.metadata)
    return _Recognised(*recognise(path, content.value), content.metadata)


def _native_fit(path: Path, content: FileContent) -> Fit:
    """Compares a native file's tensors with the configuration that it names."""
    try:
        values: Any = json.loads(content.metadata[CONFIG_KEY])
        config = config_from_dict(values if isinstance(values, dict) else {})
    except (ValueError, CheckpointError) as error:
        raise CheckpointError(
            f"{path}: its {CONFIG_KEY} metadata is damaged or newer than this version: {error}"
        ) from error
    state: dict[str, Tensor] = content.value
    fit = compare(Match("native", config, {name: name for name in state}), Candidate(state, ()))
    if not fit.complete:
        differing = [*fit.missing, *fit.unexpected, *fit.mismatched]
        raise CheckpointError(
            f"{path}: {len(differing)} tensors differ from its own configuration, {config.describe()}: "
            f"{', '.join(differing[:3])}; save it again with engine.save_generator"
        )
    return fit
