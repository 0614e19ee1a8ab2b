"""Tells discriminators from generators, for an error message that helps: their files lie side by side."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from engine.checkpoint.unwrapping import DISCRIMINATOR_NAME, Candidate

WEIGHT = re.compile(r"(.*\.)?(weight|weight_orig|original|original0)")

# How names of discriminator files become those of the generator saved beside them.
_GENERATOR_FILE_NAMES = (
    (r"net_?D(?=[_.])", lambda match: match.group().replace("D", "G")),
    (r"(?i)discriminator", lambda match: "generator" if match.group()[0] == "d" else "Generator"),
    (r"(?i)critic(?=h)|disc|critic", lambda match: "gen"),
    (r"(?<![A-Za-z])D(?![a-z])", lambda match: "G"),
    (r"(?<![A-Za-z])d(?=[_.])", lambda match: "g"),
)


def is_discriminator(candidate: Candidate) -> bool:
    """Whether a state dict looks like a PatchGAN, pixel, multi-scale or classifier discriminator.

    Patch: 4x4 convolutions one after another, down to one channel. Pixel: the same of 1x1. Multi-scale: several such.
    Classifier: a linear layer with one output.
    """
    state = candidate.state
    if not candidate.prefix and any(re.match(r"scale\d+_layer\d+", key) for key in state):
        return True
    weights = [tensor for key, tensor in sorted(state.items(), key=_natural) if WEIGHT.fullmatch(key)]
    if any(tensor.dim() == 2 and tensor.shape[0] == 1 for tensor in weights):
        return True
    convolutions = [tensor for tensor in weights if tensor.dim() == 4]
    if len(convolutions) < 3:
        return False
    kernels = {tuple(tensor.shape[2:]) for tensor in convolutions}
    chained = all(first.shape[0] == second.shape[1] for first, second in pairwise(convolutions))
    patches = chained and kernels in ({(4, 4)}, {(1, 1)})
    named = any(DISCRIMINATOR_NAME.fullmatch(name) for name in candidate.names)
    return any(tensor.shape[0] == 1 for tensor in convolutions) and (patches or named)


def generator_file_beside(path: Path) -> Path | None:
    """The file that the generator was saved in beside a discriminator's, or None where there is no such file."""
    for pattern, replacement in _GENERATOR_FILE_NAMES:
        other = path.with_name(re.sub(pattern, replacement, path.name))
        if other != path and other.is_file():
            return other
    return None


def _natural(item: tuple[str, Tensor]) -> list[tuple[int, int, str]]:
    """Sorts `10.weight` after `2.weight`, and named layers of a sequence as first, ..., last."""
    order = {"initial": -2, "first": -2, "last": 2, "final": 2}
    parts = item[0].split(".")
    return [(0, int(part), "") if part.isdecimal() else (order.get(part, 1), 0, part) for part in parts]
