"""What TensorRT and TensorRT for RTX have in common: profiles, and reading back what an engine computes in.

Networks are strongly typed: they compute in the types that they are given. Each engine is still read back, because a
layer in another type than was asked for is no error to TensorRT.
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.errors import BackendError
from engine.generators import Generator
from engine.precision import dtype_of
from engine.sizes import padded_size

# TensorRT's names of the types, and how the descriptions of its engines spell them.
TYPE_NAMES = {torch.float32: "FLOAT", torch.float16: "HALF"}
_SPELLINGS = {"FLOAT": ("float", "fp32"), "HALF": ("half", "fp16")}

# What engines of different versions call their convolutions.
_CONVOLUTIONS = re.compile("conv|correlation|gemm|runtime_fusion", re.IGNORECASE)

# Sides that engines for any size are built for.
_SMALLEST_SIDE = 64
_LARGEST_HEIGHT = 2160
_LARGEST_WIDTH = 3840

Shape = tuple[int, int, int, int]


def engine_dtype(precision: str) -> torch.dtype:
    """The type of everything in an engine.

    Raises:
        BackendError: `precision` has no engines.
    """
    if precision not in ("fp32", "fp16", "fast"):
        raise BackendError(f"TensorRT engines are built in fp32, fp16 and fast (fp16), not in {precision}")
    return dtype_of(precision, torch.device("cuda"))


def profile_shapes(generator: Generator, example: Tensor) -> tuple[Shape, Shape, Shape]:
    """Smallest, usual and largest input [N, 3, H, W] of an engine for any size."""
    batch, channels, height, width = example.shape
    smallest = min(*padded_size(generator, _SMALLEST_SIDE, _SMALLEST_SIDE), height, width)
    highest, widest = padded_size(generator, _LARGEST_HEIGHT, _LARGEST_WIDTH)
    largest = (batch, channels, max(highest, height), max(widest, width))
    return (batch, channels, smallest, smallest), (batch, channels, height, width), largest


def layers_in_text(text: str) -> list[dict[str, Any]]:
    """The layers of an engine from TensorRT's description of one line each, as its builder logs them.

    Each is {"LayerType": ..., "Read": [{"Dimensions": [...], "Datatype": ...}, ...]}: its inputs and weights.
    """
    layers = []
    for line in text.splitlines():
        kind = re.search(r"LayerType: (\w+)", line)
        if kind:
            read = line.partition("Outputs: [")[0]
            found = re.findall(r"Dimensions: \[([^\]]*)\][^{}]*?Datatype: (\w+)", read)
            tensors = [{"Dimensions": sides.split(","), "Datatype": name} for sides, name in found]
            layers.append({"LayerType": kind.group(1), "Read": tensors})
    return layers


def layers_in_json(text: str) -> list[dict[str, Any]]:
    """The layers of an engine, as `layers_in_text` gives them, from the engine inspector's JSON.

    Raises:
        BackendError: the engine was built without details, or this is another form of JSON.
    """
    try:
        return [_layer(layer) for layer in json.loads(text)["Layers"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError("the engine does not tell its layers' types: build it again") from error


def _layer(layer: dict[str, Any]) -> dict[str, Any]:
    read = [tensor for place in ("Inputs", "Constants") for tensor in layer.get(place, ())]
    return {
        "LayerType": layer["LayerType"],
        "Read": [{"Dimensions": tensor["Dimensions"], "Datatype": tensor["Datatype"]} for tensor in read],
    }


def check_layers(layers: list[dict[str, Any]], dtype: str) -> dict[str, Any]:
    """Counts an engine's layers by their types.

    A layer computes in the type that it reads: what it writes may be float32 for a norm, which keeps sums in float32.

    Raises:
        BackendError: there is no convolution, or one reads no images and filters in `dtype`, or some in another type.
    """
    convolutions = [layer for layer in layers if _CONVOLUTIONS.search(layer["LayerType"])]
    if not convolutions:
        raise BackendError("the engine has no convolutions to read back")
    for layer in convolutions:
        types = {tensor["Datatype"] for tensor in layer["Read"] if _is_image_or_filter(tensor["Dimensions"])}
        if other := sorted(name for name in types or {"an unknown type"} if not _is_of_type(name, dtype)):
            raise BackendError(f"a {layer['LayerType']} of the engine is in {', '.join(other)}, not in {dtype}")
    return {"layers": len(layers), "types": dict(collections.Counter(layer["LayerType"] for layer in layers))}


def _is_image_or_filter(dimensions: Sequence[int | str]) -> bool:
    """Not a number or a bias, e.g. [1, C, 1, 1], which may be in float32."""
    return sum(int(side) != 1 for side in dimensions) > 1


def _is_of_type(datatype: str, dtype: str) -> bool:
    text = datatype.lower()
    return "bfloat" not in text and any(spelling in text for spelling in _SPELLINGS[dtype])
