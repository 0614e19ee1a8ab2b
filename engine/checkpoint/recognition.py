"""State dicts -> the generator that one of them fits key for key, or the error that says what differs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.checkpoint import discriminators, layouts, resnet_layouts
from engine.checkpoint.layouts import Layout, Match, State
from engine.checkpoint.unwrapping import Candidate, find_candidates, is_optimizer_state
from engine.errors import CheckpointError
from engine.generators import FAMILIES, Generator, GeneratorConfig, ResNetConfig, UNetConfig, build

LAYOUTS: tuple[Layout, ...] = (
    resnet_layouts.sequential_resnet,
    resnet_layouts.block_resnet,
    layouts.unet,
    layouts.transformer_net,
    layouts.animegan,
    layouts.rrdbnet,
    layouts.rrdbnet_first_names,
    layouts.rrdbnet_sequential,
    layouts.srresnet,
    layouts.srvgg,
)

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

# Stored types that become float32; the others (integers, quantised, 8-bit floats) need more than a conversion.
FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# Below this share of keys in common, naming a nearest family would mislead.
RESEMBLANCE = 0.1


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a state dict compares with a configuration's parameters.

    Attributes:
        match: the layout and configuration compared with.
        candidate: where the state dict was found.
        names: name in our module -> key in the state dict, for keys and shapes that agree.
        missing: names of our module, written as in the file, without a tensor.
        unexpected: keys of the file that nothing takes.
        mismatched: "key is [shape] instead of [shape]".
    """

    match: Match
    candidate: Candidate
    names: dict[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every key and shape agrees."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def agreement(self) -> float:
        """Share of all keys, the file's and the module's, that agree."""
        differing = len(self.missing) + len(self.unexpected) + len(self.mismatched)
        return len(self.names) / max(len(self.names) + differing, 1)

    @property
    def prefix(self) -> str:
        """What was removed from the names and isn't part of the layout."""
        return self.candidate.prefix.removesuffix(self.match.root)


def recognise(path: Path, value: Any) -> tuple[Fit, tuple[str, ...]]:
    """Finds the generator in what a file holds.

    Returns:
        How the preferred one fits, and the places of other generators in the file, such as "G_B2A".

    Raises:
        CheckpointError: there is none; says what the file is instead, or which keys differ from the nearest.
    """
    if isinstance(value, nn.Module):
        raise CheckpointError(f"{path}: holds a module; save its state dict instead")
    candidates = find_candidates(value)
    if not candidates:
        raise CheckpointError(f"{path}: {_describe_without_tensors(value)}; pass a generator's file")
    fits = [fit for candidate in candidates for fit in _fits(candidate)]
    complete = [fit for fit in fits if fit.complete]
    if complete:
        places = list(dict.fromkeys(".".join(fit.candidate.names) for fit in complete[1:]))
        return complete[0], tuple(places)
    raise _explain(path, candidates, fits)


def compare(match: Match, candidate: Candidate) -> Fit:
    """Compares `candidate` key by key with the parameters of `match.config`."""
    expected = expected_state(match.config)
    without_statistics = _without_statistics(match.config)
    taken: dict[str, str] = {}
    unexpected = list(candidate.leftover)
    mismatched = []
    for key, tensor in candidate.state.items():
        name = match.names.get(key)
        if name is not None and name in expected:
            shape = expected[name].shape
            if tensor.shape == shape:
                taken[name] = key
            else:
                written = f"{candidate.prefix}{key} is {list(tensor.shape)} instead of {list(shape)}"
                mismatched.append(written)
        elif name is None or not _is_statistic_of(name, without_statistics):
            unexpected.append(f"{candidate.prefix}{key}")
    differing = {match.names.get(key) for key in candidate.state}
    missing = [name for name in expected if name not in differing and not name.endswith("num_batches_tracked")]
    theirs = _names_as_in_file(match, candidate, missing)
    return Fit(match, candidate, taken, tuple(theirs), tuple(unexpected), tuple(mismatched))


@functools.lru_cache(maxsize=32)  # an error message compares with many
def expected_state(config: GeneratorConfig) -> Mapping[str, Tensor]:
    """Names and shapes of the parameters and buffers of `config`'s generator, without memory for them."""
    return build_without_memory(config).state_dict()


def build_without_memory(config: GeneratorConfig) -> Generator:
    """The generator of `config` with parameters that have a shape but no values."""
    with torch.device("meta"):
        return build(config)


def float32_state(path: Path, fit: Fit) -> dict[str, Tensor]:
    """The tensors of a complete fit under our names, as float32 in memory of their own.

    Raises:
        CheckpointError: a tensor of a type that isn't a plain float, or with values that aren't finite.
    """
    state = {}
    for name, expected in expected_state(fit.match.config).items():
        if name in fit.names:
            key = fit.names[name]
            written = f"{fit.candidate.prefix}{key}"
            state[name] = _plain_tensor(
                path, written, fit.candidate.state[key], counter=not expected.is_floating_point()
            )
        else:  # a count of batches, which files from before PyTorch 0.4.1 don't have
            state[name] = torch.zeros((), dtype=torch.int64)
    return state


def _plain_tensor(path: Path, key: str, tensor: Tensor, *, counter: bool) -> Tensor:
    if counter and tensor.dtype == torch.int64:
        return tensor.clone()
    strided = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not strided or tensor.dtype not in FLOAT_DTYPES:
        kind = (str(tensor.dtype) if strided else f"{tensor.dtype}, {tensor.layout}").replace("torch.", "")
        raise CheckpointError(
            f"{path}: {key} is stored as {kind}; accepted are float32, float16, bfloat16 and float64: "
            "pass the file from before it was quantised or converted"
        )
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise CheckpointError(f"{path}: {key} has less data than its shape {list(tensor.shape)} needs; copy it again")
    # A copy even of float32: the file is mapped into memory and may change or vanish.
    values = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(values).all():
        raise CheckpointError(
            f"{path}: {key} has NaN or infinite values, so the training had diverged or the file is damaged; "
            "pass a checkpoint of an earlier epoch"
        )
    return values


def _fits(candidate: Candidate) -> Iterable[Fit]:
    for layout in LAYOUTS:
        match = _try_layout(layout, candidate.state)
        if match is not None:
            yield compare(match, candidate)


def _try_layout(layout: Layout, state: State) -> Match | None:
    try:
        return layout(state)
    except (ValueError, IndexError):  # shapes that no configuration has
        return None


@functools.lru_cache(maxsize=32)
def _without_statistics(config: GeneratorConfig) -> frozenset[str]:
    """Names of the instance norm layers, whose running statistics in old files have no use."""
    modules = build_without_memory(config).named_modules()
    return frozenset(name for name, module in modules if isinstance(module, nn.InstanceNorm2d))


def _is_statistic_of(name: str, layers: frozenset[str]) -> bool:
    layer, _, statistic = name.rpartition(".")
    return statistic in STATISTICS and layer in layers


def _names_as_in_file(match: Match, candidate: Candidate, names: list[str]) -> list[str]:
    """Our names as the file would have them, as far as its other keys of the same layer or block tell."""
    layers = {name.rpartition(".")[0]: key.rpartition(".")[0] for key, name in match.names.items()}
    written = []
    for name in names:
        layer, _, parameter = name.rpartition(".")
        own = f"{layers[layer]}.{parameter}" if layer in layers else name.removeprefix(match.root)
        written.append(f"{candidate.prefix}{own}")
    return written


def _describe_without_tensors(value: Any) -> str:
    if is_optimizer_state(value):
        return "holds an optimizer's state and no weights"
    if isinstance(value, Tensor):
        return "holds a single tensor and no named weights"
    if isinstance(value, Mapping):
        keys = [str(key) for key in value]
        return f"holds no weights, only {_some(keys)}" if keys else "holds an empty dictionary"
    return f"holds a {type(value).__name__} and no named weights"


def _explain(path: Path, candidates: list[Candidate], fits: list[Fit]) -> CheckpointError:
    """The one line for a file in which nothing fits."""
    fits = fits + [compare(match, candidate) for match in _typical_matches() for candidate in candidates]
    nearest = max(fits, key=lambda fit: (fit.agreement, -fit.candidate.rank))
    if nearest.agreement < 0.5 and any(discriminators.is_discriminator(candidate) for candidate in candidates):
        beside = discriminators.generator_file_beside(path)
        hint = f"{beside} beside it" if beside else "the generator's, e.g. latest_net_G_A.pth"
        return CheckpointError(f"{path}: is a discriminator, which only training uses; pass {hint}")
    known = ", ".join(FAMILIES)
    if nearest.agreement < RESEMBLANCE:
        whole = max(candidates, key=lambda candidate: len(candidate.state))
        keys = _some([f"{whole.prefix}{key}" for key in whole.state])
        return CheckpointError(f"{path}: {len(whole.state)} tensors ({keys}) of no known generator; known are {known}")
    differences = [
        f"{len(items)} {what} ({_some(items)})"
        for what, items in (
            ("missing", nearest.missing),
            ("unexpected", nearest.unexpected),
            ("of another shape", nearest.mismatched),
        )
        if items
    ]
    config, layout = nearest.match.config, nearest.match.layout
    return CheckpointError(
        f"{path}: no known generator; nearest is {config.describe()} (layout: {layout}), but of its "
        f"{len(expected_state(config))} keys: {'; '.join(differences)}"
    )


def _typical_matches() -> list[Match]:
    """The usual dimensions of every family in its own layout, to compare files with that no layout knew."""
    configs = [config() for config in FAMILIES.values()]
    configs += [ResNetConfig(blocks=6), ResNetConfig(norm="batch", bias=False), UNetConfig(downsamplings=7)]
    matches = []
    for config in configs:
        root = {"resnet": "model.", "unet": "model.model."}.get(config.family, "")
        names = {name.removeprefix(root): name for name in expected_state(config)}
        matches.append(Match(f"{config.family}, as usual", config, names, root=root))
    return matches


def _some(items: Iterable[str], count: int = 3) -> str:
    """The first few items, and that there are more."""
    shown = list(items)
    return ", ".join(shown[:count]) + (", ..." if len(shown) > count else "")
