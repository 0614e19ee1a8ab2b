"""Hands our plugins to TensorRT's own parser and prints what it makes of them: `python -m tests.contract.plugin_child`.

A program of its own, because a name can't be taken twice. With the argument `newest`, Python and NumPy are as 3.13 and
2.5 are: a type in brackets, list[int], is no class to `issubclass`, and NDArray is an alias of its own kind.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import GenericAlias, ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing


class Registry:
    """In the place of TensorRT's, which is in C++."""

    def __init__(self) -> None:
        self.creators: dict[str, Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> None:
        self.creators[namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[namespace]


def strict_issubclass(kind: Any, classes: Any) -> bool:
    if isinstance(kind, GenericAlias) or not isinstance(kind, type):
        raise TypeError("issubclass() arg 1 must be a class")
    return issubclass(kind, classes)


def taken(register: Any) -> str:
    """Why it isn't; empty if it is."""
    try:
        register()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(newest: bool) -> None:
    if newest:
        from typing_extensions import TypeAliasType

        item = TypeVar("item")
        alias = TypeAliasType("NDArray", np.ndarray[Any, np.dtype[item]], type_params=(item,))
        numpy.typing.NDArray = alias
    trt = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = trt
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    plugin = importlib.import_module("tensorrt.plugin")
    if newest:
        importlib.import_module("tensorrt.plugin._validate").issubclass = strict_issubclass
    # Torch-TensorRT needs a GPU's libraries.
    for name in ("", ".dynamo", ".dynamo.conversion", ".dynamo.conversion.converter_utils"):
        sys.modules[f"torch_tensorrt{name}"] = ModuleType(f"torch_tensorrt{name}")
    conversion = sys.modules["torch_tensorrt.dynamo.conversion"]
    conversion.dynamo_tensorrt_converter = lambda *_, **__: lambda function: function
    sys.modules["torch_tensorrt.dynamo.conversion.converter_utils"].get_trt_tensor = None

    from engine import ops  # noqa: F401 (registers the operator that plugins stand for)
    from engine.backends import tensorrt_plugin

    found: dict[str, Any] = {"ours": taken(tensorrt_plugin.register)}
    definitions = importlib.import_module("tensorrt.plugin._lib").QDP_REGISTRY
    found["plugins"] = {
        name: {"inputs": definition.input_tensor_names, "run": definition.impl_func is not None}
        for name, definition in definitions.items()
    }

    def describe(x: plugin.TensorDesc, values: numpy.typing.NDArray[np.float32]) -> plugin.TensorDesc:
        return x

    describe.__annotations__ = {
        "x": plugin.TensorDesc,
        "values": numpy.typing.NDArray[np.float32],
        "return": plugin.TensorDesc,
    }
    found["array"] = taken(lambda: plugin.register("streamgan_test::array")(describe))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:] == ["newest"])
