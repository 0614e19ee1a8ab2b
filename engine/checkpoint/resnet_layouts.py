"""Key layouts of ResNet generators: sequences with numbered layers, and block-style ones.

In a sequence the numbers of the layers with weights tell which layers without weights stand between them: padding,
resize, dropout, an instance norm without a learned weight.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

import torch
from torch import Tensor, nn

from engine.checkpoint.layouts import Match, State, norm_from_keys
from engine.generators import ResNet, ResNetConfig

_INNER_KEY = re.compile(r"([A-Za-z_]\w*)\.(\d+)\.(.+)")

# Numbers of the two convolutions in a block -> padding, dropout, whether there are norm layers.
_BLOCK_FORMS = {
    (1, 5): ("reflect", False, True),
    (1, 6): ("reflect", True, True),
    (0, 3): ("zeros", False, True),
    (0, 4): ("zeros", True, True),
    (1, 4): ("reflect", False, False),
    (0, 2): ("zeros", False, False),
}


@dataclasses.dataclass(frozen=True)
class _Sequence:
    """The layers of a sequence that have weights, by number."""

    layers: dict[int, dict[str, Tensor]]

    @property
    def convolutions(self) -> list[int]:
        return [number for number, layer in self.layers.items() if "weight" in layer and layer["weight"].dim() == 4]

    @property
    def blocks(self) -> list[int]:
        return [number for number, layer in self.layers.items() if any(_INNER_KEY.fullmatch(key) for key in layer)]

    @property
    def blurs(self) -> list[int]:
        return [number for number, layer in self.layers.items() if "filt" in layer]

    def weight(self, number: int) -> Tensor:
        return self.layers[number]["weight"]


@dataclasses.dataclass(frozen=True)
class _Block:
    """The form of one residual block in a sequence."""

    container: str
    convolutions: tuple[int, int]
    padding: str
    dropout: bool
    norm: bool
    separable: bool


def sequential_resnet(state: State) -> Match | None:
    """ResNets that are one sequence, names without `model.`: the reference, CUT, GAN Compression, users' own."""
    if "1.model.1.weight" in state:
        return None  # a U-Net's level looks like a block
    sequence = _read_sequence(state)
    convolutions, blocks = sequence.convolutions, sequence.blocks
    if not blocks or len(convolutions) < 2:
        return None
    block = _read_block(sequence.layers[blocks[0]])
    before = [number for number in convolutions if number < blocks[0]]
    after = [number for number in convolutions if number > blocks[-1]]
    if block is None or not before or len(before) != len(after):
        return None
    form = _find_form(sequence, block, len(before) - 1, len(blocks))
    if form is None:
        return None
    config = _config(state, sequence, block, form, before, after)
    return Match(_layout_name(block, config), config, _names(sequence, block, config), root="model.")


def block_resnet(state: State) -> Match | None:
    """ResNets with `initial`, `down_blocks`, `res_blocks`, `up_blocks`, `last`; all convolutions pad by reflection."""
    needed = {"initial.0.weight", "res_blocks.0.block.0.conv.0.weight", "last.weight"}
    if not needed <= state.keys():
        return None
    downsamplings = _numbers(state, r"down_blocks\.(\d+)\.")
    blocks = _numbers(state, r"res_blocks\.(\d+)\.")
    bias = "initial.0.bias" in state
    norm, affine = norm_from_keys(state, "initial.1", bias=bias)
    stem = state["initial.0.weight"]
    config = ResNetConfig(
        in_channels=stem.shape[1],
        out_channels=state["last.weight"].shape[0],
        width=stem.shape[0],
        blocks=blocks,
        downsamplings=downsamplings,
        norm=norm,
        affine=affine and norm == "instance",
        bias=bias,
        downsampling_padding="reflect",
    )
    # layer in the file -> layer in our sequence
    layers = {"initial.0": "1", "initial.1": "2"}
    for level in range(downsamplings):
        for part in (0, 1):
            layers[f"down_blocks.{level}.conv.{part}"] = str(4 + 3 * level + part)
            layers[f"up_blocks.{level}.conv.{part}"] = str(4 + 3 * (downsamplings + level) + blocks + part)
    for number, half, part in itertools.product(range(blocks), (0, 1), (0, 1)):
        position = f"{4 + 3 * downsamplings + number}.conv_block.{(1, 5)[half] + part}"
        layers[f"res_blocks.{number}.block.{half}.conv.{part}"] = position
    layers["last"] = str(5 + 6 * downsamplings + blocks)
    names = {}
    for key in state:
        layer, _, parameter = key.rpartition(".")
        if layer in layers:
            names[key] = f"model.{layers[layer]}.{parameter}"
    return Match("block-style ResNet", config, names)


def _read_sequence(state: State) -> _Sequence:
    layers: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        number, _, rest = key.partition(".")
        if number.isdecimal() and rest:
            layers.setdefault(int(number), {})[rest] = tensor
    return _Sequence(dict(sorted(layers.items())))


def _read_block(layer: dict[str, Tensor]) -> _Block | None:
    """The form of a block from its keys `container.N.weight`, or `container.N.conv.0.weight` where separable."""
    inner = [match for match in map(_INNER_KEY.fullmatch, layer) if match]
    containers = {match.group(1) for match in inner}
    plain, separable = set(), set()
    for match in inner:
        if match.group(3) == "weight" and layer[match.group()].dim() == 4:
            plain.add(int(match.group(2)))
        elif match.group(3) == "conv.0.weight":
            separable.add(int(match.group(2)))
    numbers = tuple(sorted(plain or separable))
    if len(containers) != 1 or numbers not in _BLOCK_FORMS or (plain and separable):
        return None
    padding, dropout, norm = _BLOCK_FORMS[numbers]
    return _Block(containers.pop(), (numbers[0], numbers[1]), padding, dropout, norm, bool(separable))


@dataclasses.dataclass(frozen=True)
class _Form:
    """Which layers without weights a sequence has."""

    outer_pad: bool
    down_pad: bool
    up_pad: bool
    upsampling: str
    blur_down: bool

    def positions(self, downsamplings: int, blocks: int, *, norm: bool) -> list[tuple[str, int]]:
        """Kind and number of each convolution, blur and block of such a sequence."""
        kinds = ["pad"] * self.outer_pad + ["conv"] + ["norm"] * norm + ["relu"]
        down = ["pad"] * self.down_pad + ["conv"] + ["norm"] * norm + ["relu"] + ["blur"] * self.blur_down
        up = {"transposed": [], "nearest": ["resize"], "blur": ["blur"]}[self.upsampling]
        up = up + ["pad"] * self.up_pad + ["conv"] + ["norm"] * norm + ["relu"]
        kinds += down * downsamplings + ["block"] * blocks + up * downsamplings
        kinds += ["pad"] * self.outer_pad + ["conv"]
        return [(kind, number) for number, kind in enumerate(kinds) if kind in ("conv", "blur", "block")]


def _find_form(sequence: _Sequence, block: _Block, downsamplings: int, blocks: int) -> _Form | None:
    """The form whose layers with weights stand exactly where the file has them."""
    found = [("conv", number) for number in sequence.convolutions]
    found += [("block", number) for number in sequence.blocks] + [("blur", number) for number in sequence.blurs]
    found.sort(key=lambda item: item[1])
    flags = (True, False)
    for outer_pad, down_pad, up_pad in itertools.product(flags, reversed(flags), reversed(flags)):
        for upsampling, blur_down in itertools.product(("transposed", "nearest", "blur"), flags):
            form = _Form(outer_pad, down_pad, up_pad and upsampling == "nearest", upsampling, blur_down)
            if form.positions(downsamplings, blocks, norm=block.norm) == found:
                return form
    return None


def _config(
    state: State, sequence: _Sequence, block: _Block, form: _Form, before: list[int], after: list[int]
) -> ResNetConfig:
    stem = sequence.weight(before[0])
    bias = "bias" in sequence.layers[before[0]]
    norm, affine = norm_from_keys(state, str(before[0] + 1), bias=bias)
    if not block.norm or (block.container == "conv_block" and norm == "instance" and not affine and not bias):
        # The reference gives convolutions before instance norm a bias, and those before no norm none.
        norm, affine = "none", False
    output = 1 if form.upsampling == "transposed" else 0  # dimension of a convolution's weight that is its output
    config = ResNetConfig(
        in_channels=stem.shape[1],
        out_channels=sequence.weight(after[-1]).shape[0],
        width=stem.shape[0],
        blocks=len(sequence.blocks),
        downsamplings=len(before) - 1,
        norm=norm,
        affine=affine and norm == "instance",
        bias=bias,
        dropout=block.dropout,
        downsampling="blur" if form.blur_down and len(before) > 1 else "strided",
        upsampling=form.upsampling,
        outer_padding="reflect" if form.outer_pad else "zeros",
        block_padding=block.padding,
        downsampling_padding="reflect" if form.down_pad else "zeros",
        upsampling_padding="reflect" if form.up_pad else "zeros",
        separable=block.separable,
    )
    widths = [sequence.weight(number).shape[0] for number in before]
    widths += [sequence.weight(number).shape[output] for number in after[:-1]]
    if tuple(widths) != config.stage_widths:
        config = dataclasses.replace(config, widths=tuple(widths))
    first = f"{block.container}.{block.convolutions[0]}.{'conv.2.' if block.separable else ''}weight"
    inner = tuple(_output_size(sequence.layers[number], first) for number in sequence.blocks)
    if inner != config.inner_widths and all(inner):
        config = dataclasses.replace(config, block_widths=inner)
    return config


def _output_size(layer: dict[str, Tensor], key: str) -> int:
    return layer[key].shape[0] if key in layer else 0


def _names(sequence: _Sequence, block: _Block, config: ResNetConfig) -> dict[str, str]:
    """Names in the file -> names in our module: layers of one kind correspond in their order."""
    with torch.device("meta"):
        layers = list(ResNet(config).model)
    ours = {
        kind: [number for number, layer in enumerate(layers) if test(layer)]
        for kind, test in {
            "conv": lambda layer: isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)),
            "block": lambda layer: hasattr(layer, "conv_block"),
            "blur": lambda layer: hasattr(layer, "filt"),
        }.items()
    }
    names: dict[str, str] = {}
    numbers: dict[int, int] = {}
    for theirs, our in zip(sequence.convolutions, ours["conv"], strict=True):
        numbers |= {theirs: our, theirs + 1: our + 1}
    numbers |= dict(zip(sequence.blurs, ours["blur"], strict=True))
    for number, layer in sequence.layers.items():
        if number in numbers and number not in sequence.blocks:
            names |= {f"{number}.{key}": f"model.{numbers[number]}.{key}" for key in layer}
    first = 1 if config.block_padding == "reflect" else 0
    second = first + 3 + config.dropout + (config.block_padding == "reflect")
    inner = {block.convolutions[0]: first, block.convolutions[1]: second}
    inner |= {theirs + 1: our + 1 for theirs, our in inner.items()}
    for theirs, our in zip(sequence.blocks, ours["block"], strict=True):
        for key in sequence.layers[theirs]:
            match = _INNER_KEY.fullmatch(key)
            if match and match.group(1) == block.container and int(match.group(2)) in inner:
                number = inner[int(match.group(2))]
                names[f"{theirs}.{key}"] = f"model.{our}.conv_block.{number}.{match.group(3)}"
    return names


def _layout_name(block: _Block, config: ResNetConfig) -> str:
    if block.separable:
        return "GAN Compression mobile ResNet"
    if "blur" in (config.downsampling, config.upsampling):
        return "anti-aliased ResNet (CUT)"
    if block.container == "conv_block" and config.upsampling == "transposed" and config.outer_padding == "reflect":
        return "reference ResNet"
    if config.upsampling == "nearest":
        return "sequential ResNet, resize-convolution"
    return "sequential ResNet"


def _numbers(state: State, pattern: str) -> int:
    """How many different numbers `pattern` finds at the beginning of the keys."""
    matches = (re.match(pattern, key) for key in state)
    return len({match.group(1) for match in matches if match})
