"""Key layouts of generator checkpoints, and the configuration that the keys and shapes of each tell.

A layout is a function: state dict -> `Match`, or None where the keys that the layout can't be without are absent. It
only looks; whether every key and shape fits is checked in `engine.checkpoint.recognition`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

from torch import Tensor

from engine.generators import (
    AnimeGANConfig,
    GeneratorConfig,
    RRDBNetConfig,
    SRResNetConfig,
    SRVGGConfig,
    TransformerNetConfig,
    UNetConfig,
)

State = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Match:
    """What a layout made of a state dict.

    Attributes:
        layout: the layout's name for people.
        config: the configuration that the state dict tells.
        names: key in the state dict -> name in our module, for every key that the layout knows.
        root: prefix that belongs to the layout and not to a wrapper, such as "model.".
    """

    layout: str
    config: GeneratorConfig
    names: dict[str, str]
    root: str = ""


Layout = Callable[[State], "Match | None"]


def norm_from_keys(state: State, norm: str, *, bias: bool) -> tuple[str, bool]:
    """The kind of the norm layer called `norm`, and whether it has a learned weight: ("batch", True), ...

    Running statistics alone don't tell BatchNorm: files from before PyTorch 0.4 have them for InstanceNorm too. Those
    have no weight, or a convolution with a bias (`bias`) and no count of batches.
    """
    weight = f"{norm}.weight" in state
    statistics = f"{norm}.running_mean" in state
    counted = f"{norm}.num_batches_tracked" in state
    if weight and statistics and (counted or not bias):
        return "batch", True
    return "instance", weight


def unet(state: State) -> Match | None:
    """Reference U-Net: `0` down, `1.model` the next level, `3` up; names without `model.model.`."""
    if not {"0.weight", "1.model.1.weight", "3.weight"} <= state.keys():
        return None
    widths = [_size(state, "0.weight", 0)]
    level = "1.model."
    while f"{level}1.weight" in state:
        widths.append(_size(state, f"{level}1.weight", 0))
        inner = f"{level}3.model."
        if f"{inner}1.weight" not in state:
            break
        level = inner
    bias = "0.bias" in state
    norm, affine = norm_from_keys(state, f"{level}4", bias=bias)
    if norm == "instance" and not affine and not bias:
        norm = "none"  # the reference gives convolutions before instance norm a bias, and those before no norm none
    config = UNetConfig(
        in_channels=_size(state, "0.weight", 1),
        out_channels=_size(state, "3.weight", 1),
        width=widths[0],
        downsamplings=len(widths),
        norm=norm,
        affine=affine and norm == "instance",
        bias=bias,
    )
    if list(config.level_widths) != widths:
        config = dataclasses.replace(config, widths=tuple(widths))
    return Match("reference U-Net", config, {key: f"model.model.{key}" for key in state}, root="model.model.")


def transformer_net(state: State) -> Match | None:
    """PyTorch's fast_neural_style example."""
    if not {"conv1.conv2d.weight", "deconv3.conv2d.weight"} <= state.keys():
        return None
    config = TransformerNetConfig(
        in_channels=_size(state, "conv1.conv2d.weight", 1),
        out_channels=_size(state, "deconv3.conv2d.weight", 0),
        width=_size(state, "conv1.conv2d.weight", 0),
        blocks=_count(state, r"res(\d+)\.conv1\.conv2d\.weight"),
    )
    return Match("fast neural style TransformerNet", config, {key: key for key in state})


def animegan(state: State) -> Match | None:
    """AnimeGANv2 in PyTorch."""
    if not {"block_a.0.1.weight", "block_c.1.layers.0.1.weight", "out_layer.0.weight"} <= state.keys():
        return None
    expanded, channels = state["block_c.1.layers.0.1.weight"].shape[:2]
    config = AnimeGANConfig(
        in_channels=_size(state, "block_a.0.1.weight", 1),
        out_channels=_size(state, "out_layer.0.weight", 0),
        width=_size(state, "block_a.0.1.weight", 0),
        blocks=_count(state, r"block_c\.(\d+)\.layers\.0\.1\.weight"),
        expansion=max(expanded // max(channels, 1), 1),
    )
    return Match("AnimeGANv2", config, {key: key for key in state})


# ESRGAN's first repository had other names for the same layers as BasicSR, which followed it.
_FIRST_NAMES = {
    "RRDB_trunk": "body",
    "recon_trunk": "body",
    "trunk_conv": "conv_body",
    "HRconv": "conv_hr",
    "RDB1": "rdb1",
    "RDB2": "rdb2",
    "RDB3": "rdb3",
}


def srresnet(state: State) -> Match | None:
    """MSRResNet of BasicSR, or with the names of its predecessor."""
    names = {key: ".".join(_FIRST_NAMES.get(part, part) for part in key.split(".")) for key in state}
    renamed = {name: state[key] for key, name in names.items()}
    if not {"conv_first.weight", "body.0.conv1.weight", "upconv1.weight", "conv_last.weight"} <= renamed.keys():
        return None
    channels = _size(renamed, "conv_first.weight", 1)
    width = _size(renamed, "conv_first.weight", 0)
    factor = math.isqrt(_size(renamed, "upconv1.weight", 0) // max(width, 1))
    config = SRResNetConfig(
        in_channels=channels,
        out_channels=channels,
        width=width,
        blocks=_count(renamed, r"body\.(\d+)\.conv1\.weight"),
        scale=4 if "upconv2.weight" in renamed else factor,
    )
    layout = "MSRResNet" if "conv_hr.weight" in state else "MSRResNet, first names"
    return Match(layout, config, names)


def rrdbnet(state: State) -> Match | None:
    """RRDBNet of BasicSR and Real-ESRGAN."""
    return _rrdbnet(state, {key: key for key in state}, "RRDBNet")


def rrdbnet_first_names(state: State) -> Match | None:
    """RRDBNet of ESRGAN's first repository: RRDB_trunk, trunk_conv, upconv1, upconv2, HRconv."""
    renames = {**_FIRST_NAMES, "upconv1": "conv_up1", "upconv2": "conv_up2"}
    names = {key: ".".join(renames.get(part, part) for part in key.split(".")) for key in state}
    return _rrdbnet(state, names, "RRDBNet, first names") if "RRDB_trunk.0.RDB1.conv1.weight" in state else None


def rrdbnet_sequential(state: State) -> Match | None:
    """RRDBNet as one sequence: `0`, `1.sub.N.RDB1.conv1.0`, `1.sub.LAST`, `3`, `6`, `8`, `10`; without `model.`."""
    if "1.sub.0.RDB1.conv1.0.weight" not in state:
        return None
    blocks = _count(state, r"1\.sub\.(\d+)\.RDB1\.conv1\.0\.weight")
    layers = {"0": "conv_first", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr", "10": "conv_last"}
    names = {}
    for key in state:
        inner = re.fullmatch(r"1\.sub\.(\d+)\.RDB([123])\.(conv[1-5])\.0\.(\w+)", key)
        layer, _, parameter = key.rpartition(".")
        if inner:
            names[key] = "body.{}.rdb{}.{}.{}".format(*inner.groups())
        elif layer == f"1.sub.{blocks}":
            names[key] = f"conv_body.{parameter}"
        elif layer in layers:
            names[key] = f"{layers[layer]}.{parameter}"
    match = _rrdbnet(state, names, "RRDBNet, one sequence")
    return match and dataclasses.replace(match, root="model.")


def _rrdbnet(state: State, names: dict[str, str], layout: str) -> Match | None:
    renamed = {name: state[key] for key, name in names.items()}
    if not {"conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight"} <= renamed.keys():
        return None
    folded = _size(renamed, "conv_first.weight", 1)
    out_channels = _size(renamed, "conv_last.weight", 0)
    fold = {16: 4, 4: 2}.get(folded // max(out_channels, 1), 1) if folded % max(out_channels, 1) == 0 else 1
    config = RRDBNetConfig(
        in_channels=folded // fold**2,
        out_channels=out_channels,
        width=_size(renamed, "conv_first.weight", 0),
        growth=_size(renamed, "body.0.rdb1.conv1.weight", 0),
        blocks=_count(renamed, r"body\.(\d+)\.rdb1\.conv1\.weight"),
        scale=4 // fold,
    )
    return Match(layout, config, names)


def srvgg(state: State) -> Match | None:
    """SRVGGNetCompact with PReLU: convolutions at even indices of `body`."""
    if not {"body.0.weight", "body.1.weight", "body.2.weight"} <= state.keys():
        return None
    if state["body.0.weight"].dim() != 4 or state["body.1.weight"].dim() != 1:
        return None
    last = max(int(key.split(".")[1]) for key in state if re.fullmatch(r"body\.\d+\.weight", key))
    channels = _size(state, "body.0.weight", 1)
    config = SRVGGConfig(
        in_channels=channels,
        out_channels=channels,
        width=_size(state, "body.0.weight", 0),
        convolutions=(last - 2) // 2,
        scale=math.isqrt(_size(state, f"body.{last}.weight", 0) // max(channels, 1)),
    )
    return Match("SRVGGNetCompact", config, {key: key for key in state})


def _size(state: State, key: str, dimension: int) -> int:
    """One dimension of a tensor; 0, which no configuration accepts, where the tensor has fewer."""
    shape = state[key].shape
    return shape[dimension] if dimension < len(shape) else 0


def _count(state: State, pattern: str) -> int:
    """How many different first groups of `pattern` there are among the keys."""
    matches = (re.fullmatch(pattern, key) for key in state)
    return len({match.group(1) for match in matches if match})
