"""What a checkpoint file holds -> the state dicts in it that may be a generator's, best first."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

# Modules that wrap another one: DataParallel, torch.compile, activation checkpointing, FSDP.
WRAPPER_COMPONENTS = frozenset({"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})

# Names of networks in a file that holds several, as a dictionary's key or the first part of the parameters' names.
# After the name comes a direction or domain: netG_A, genB, G_A2B, disc_monet.
_SUFFIX = r"(([_-]\w+)*|[ABHXYZST]{1,2}|[ABXYST]2[ABXYST])"
GENERATOR_NAME = re.compile(rf"(net_?|model_?)?(g|gen|gan|generator){_SUFFIX}", re.IGNORECASE)
DISCRIMINATOR_NAME = re.compile(rf"(net_?|model_?)?(d|dis|disc|discriminator|critic){_SUFFIX}", re.IGNORECASE)
MOVING_AVERAGE_NAME = re.compile(r"(.*[_-])?ema([_-].*)?", re.IGNORECASE)
FIRST_DIRECTION_NAME = re.compile(r"(net_?|model_?)?(g|gen|gan|generator)[_-]?([AXS]2?[BYT]|[AXS])", re.IGNORECASE)

MAX_DEPTH = 6


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One state dict that was found, or the part of it that one module would have.

    Attributes:
        state: parameter name -> tensor, without `prefix` and without the components in WRAPPER_COMPONENTS.
        wrappers: keys of the dictionaries around it, outermost first.
        prefix: what all names in `state` began with, such as "netG.model."; empty or with a dot at its end.
        leftover: names of the same state dict that neither begin with `prefix` nor belong to another network.
    """

    state: dict[str, Tensor]
    wrappers: tuple[str, ...]
    prefix: str = ""
    leftover: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names around the parameters, outermost first."""
        return (*self.wrappers, *self.prefix.split(".")[:-1])

    @property
    def rank(self) -> int:
        """Lower is preferred where several state dicts are generators: moving averages, then the first direction."""
        if any(DISCRIMINATOR_NAME.fullmatch(name) for name in self.names):
            return 3
        if any(MOVING_AVERAGE_NAME.fullmatch(name) for name in self.names):
            return 0
        return 1 if any(FIRST_DIRECTION_NAME.fullmatch(name) for name in self.names) else 2


def find_candidates(value: Any) -> list[Candidate]:
    """All state dicts in `value`, whole and by common prefix, preferred ones first."""
    candidates = [part for whole in _state_dicts(value, ()) for part in _by_prefix(whole)]
    return sorted(candidates, key=lambda candidate: candidate.rank)


def is_optimizer_state(value: Any) -> bool:
    """Whether `value` is what `optimizer.state_dict()` gives, or a dictionary of nothing else."""
    if not isinstance(value, Mapping):
        return False
    if "param_groups" in value and "state" in value:
        return True
    inner = [item for item in value.values() if isinstance(item, Mapping)]
    return bool(inner) and all(is_optimizer_state(item) for item in inner)


def _state_dicts(value: Any, wrappers: tuple[str, ...]) -> Iterator[Candidate]:
    if not isinstance(value, Mapping) or is_optimizer_state(value) or len(wrappers) > MAX_DEPTH:
        return
    state = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
    if state:
        yield Candidate(_without_wrapper_components(state), wrappers)
    for key, item in value.items():
        if isinstance(key, str):
            yield from _state_dicts(item, (*wrappers, key))


def _without_wrapper_components(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {
        ".".join(part for part in key.split(".") if part not in WRAPPER_COMPONENTS): item for key, item in state.items()
    }
    return renamed if len(renamed) == len(state) else state


def _by_prefix(candidate: Candidate, depth: int = 0) -> Iterator[Candidate]:
    """`candidate` itself, then the part below each first component of its names, and so on."""
    yield candidate
    if depth == MAX_DEPTH:
        return
    groups: dict[str, dict[str, Tensor]] = {}
    for key, item in candidate.state.items():
        first, _, rest = key.partition(".")
        if rest and not first.isdecimal():
            groups.setdefault(first, {})[rest] = item
    for first, state in groups.items():
        if len(state) < 3:  # smaller than any generator
            continue
        others = [key for key in candidate.state if not key.startswith(f"{first}.")]
        leftover = [] if GENERATOR_NAME.fullmatch(first) else [f"{candidate.prefix}{key}" for key in others]
        yield from _by_prefix(
            Candidate(state, candidate.wrappers, f"{candidate.prefix}{first}.", (*candidate.leftover, *leftover)),
            depth + 1,
        )
