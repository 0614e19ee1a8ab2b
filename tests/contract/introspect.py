"""Prints what a package of bindings offers, as JSON: modules, classes, functions with their signatures.

It is a program of its own because it imports the package: `python introspect.py tensorrt_bindings tensorrt`. Functions
in C++ have their signatures in their docstrings (pybind11).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import sys
from types import ModuleType
from typing import Any

CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


def signatures_in(doc: str) -> list[dict[str, Any]]:
    """The signatures that pybind11 writes at the start of a docstring, one for each overload."""
    name = doc.partition("(")[0]
    overloaded = "\nOverloaded function.\n" in doc
    start = r"^\d+\. " if overloaded else r"\A"
    places = re.finditer(rf"{start}{re.escape(name)}\(", doc, re.MULTILINE)
    return [found for place in places if (found := _signature(doc[place.end() :])) is not None]


def _signature(text: str) -> dict[str, Any] | None:
    """From "self: A, b: int = 1) -> C", whatever follows in the next line."""
    parts, rest = _split(text)
    if rest is None:
        return None
    parameters: list[dict[str, Any]] = []
    more_positions = more_names = by_name_only = False
    for part in parts:
        if part == "/":
            for parameter in parameters:
                parameter["by_name"] = False
        elif part.startswith("**"):
            more_names = True
        elif part.startswith("*"):
            more_positions, by_name_only = part != "*", True
        else:
            head, has_default, _ = part.partition(" = ")
            label, _, kind = head.partition(": ")
            parameters.append(
                {
                    "name": label,
                    "type": kind,
                    "required": not has_default,
                    "by_position": not by_name_only,
                    # pybind11 calls parameters without a name arg0, arg1, ...
                    "by_name": re.fullmatch(r"arg\d+", label) is None,
                }
            )
    returned = re.match(r" -> ([^\n]*)", rest)
    if returned is None:
        return None
    return {
        "parameters": parameters,
        "more_positions": more_positions,
        "more_names": more_names,
        "returns": returned.group(1),
    }


def _split(text: str) -> tuple[list[str], str | None]:
    """What stands between commas up to the closing parenthesis, and what follows; None if it isn't closed."""
    parts: list[str] = []
    current, open_ones = "", [")"]
    for place, letter in enumerate(text):
        if letter == open_ones[-1] and not text[:place].endswith("-"):
            open_ones.pop()
            if not open_ones:
                return [part for part in [*parts, current.strip()] if part], text[place + 1 :]
        elif letter in CLOSING:
            open_ones.append(CLOSING[letter])
        if letter == "," and len(open_ones) == 1:
            parts.append(current.strip())
            current = ""
        else:
            current += letter
    return [], None


def signature_of(function: Any) -> list[dict[str, Any]]:
    """The signature of a function in Python."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    kinds = {parameter.kind: parameter.name for parameter in signature.parameters.values()}
    other_names = _read_from(function, kinds.get(inspect.Parameter.VAR_KEYWORD, ""))
    parameters = [
        {
            "name": parameter.name,
            "type": _written(parameter.annotation),
            "required": parameter.default is parameter.empty,
            "by_position": parameter.kind is not parameter.KEYWORD_ONLY,
            "by_name": parameter.kind is not parameter.POSITIONAL_ONLY,
        }
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return [
        {
            "parameters": parameters,
            "more_positions": inspect.Parameter.VAR_POSITIONAL in kinds,
            "more_names": inspect.Parameter.VAR_KEYWORD in kinds and other_names is None,
            "other_names": other_names or [],
            "returns": _written(signature.return_annotation),
        }
    ]


def _read_from(function: Any, kwargs: str) -> list[str] | None:
    """The keywords that a function reads from its `**kwargs`, if it does nothing else with it."""
    try:
        source = inspect.getsource(function).split(f"**{kwargs}", 1)[1] if kwargs else ""
    except (OSError, IndexError):
        return None
    names = re.findall(rf'\b{kwargs}(?:\[|\.get\(|\.pop\()"(\w+)"', source) if kwargs else []
    names += re.findall(rf'"(\w+)" in {kwargs}\b', source) if kwargs else []
    return names if names and len(names) == len(re.findall(rf"\b{kwargs}\b", source)) else None


def _written(annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return ""
    is_plain = isinstance(annotation, type) and not hasattr(annotation, "__origin__")
    if isinstance(annotation, str):
        return re.sub(r"\bC\.", "", annotation.strip("'"))  # ONNX Runtime's name for its extension
    return f"{annotation.__module__}.{annotation.__qualname__}" if is_plain else str(annotation)


class Introspection:
    """Collects `modules` and `classes`, each by its name: name of a member -> what it is."""

    def __init__(self, package: str, name: str) -> None:
        self._package, self._name = package, name
        self.modules: dict[str, dict[str, Any]] = {}
        self.classes: dict[str, dict[str, Any]] = {}
        self.names: dict[str, str] = {}  # as Python has them -> as users write them

    def module(self, module: ModuleType, name: str) -> None:
        """Adds a module and all that is in it."""
        self.modules[name] = {}
        for label, value in vars(module).items():
            if isinstance(value, ModuleType):
                # The package and the extension in it have the same names.
                is_package = value.__name__.split(".")[0] == self._package
                found = {"kind": "module", "name": self._name if is_package else f"{name}.{label}"}
            else:
                found = self._member(value, label, name)
            self.modules[name][label] = found

    def _class(self, value: type, home: str) -> str:
        python = f"{value.__module__}.{value.__qualname__}"
        if python not in self.names:
            self.names[python] = name = f"{home}.{value.__qualname__}"
            self.classes[name] = {
                label: self._member(inspect.getattr_static(value, label), label, home, value) for label in dir(value)
            }
        return self.names[python]

    def _is_own(self, kind: type) -> bool:
        return kind.__module__.split(".")[0] in (self._package, self._name)

    def _member(self, value: Any, label: str, home: str, owner: type | None = None) -> dict[str, Any]:
        is_static, is_of_class = isinstance(value, staticmethod), isinstance(value, classmethod)
        value = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
        if isinstance(value, type):
            return {"kind": "class", "name": self._class(value, home)} if self._is_own(value) else {"kind": "value"}
        if isinstance(value, property):
            returned = signatures_in(f"get{(value.fget.__doc__ or '').strip()}") if value.fget else []
            returned = returned or (signature_of(value.fget) if value.fget else [])
            return {"kind": "value", "type": returned[0]["returns"] if returned else ""}
        if callable(value) and not self._is_own(type(value)):
            is_method = owner is not None and not is_static and not is_of_class
            if inspect.isfunction(value):
                found = signature_of(value)
                if is_of_class:
                    found[0]["parameters"] = found[0]["parameters"][1:]
            else:  # pybind11's instancemethod has the docstring of what it wraps
                found = signatures_in(getattr(getattr(owner, label) if is_method else value, "__doc__", None) or "")
            return {"kind": "method" if is_method else "function", "signatures": found}
        return {"kind": "value", "type": self._class(type(value), home) if self._is_own(type(value)) else ""}


def main(package: str, name: str) -> None:
    """Prints what `package` offers to those who import it as `name`."""
    module = importlib.import_module(package)
    sys.modules[name] = module
    found = Introspection(package, name)
    found.module(module, name)
    if importlib.util.find_spec(f"{name}.plugin"):
        plugin = f"{name}.plugin"
        found.module(importlib.import_module(plugin), plugin)
        found.modules[name]["plugin"] = {"kind": "module", "name": plugin}
    text = json.dumps({"modules": found.modules, "classes": found.classes, "version": module.__version__})
    for python in sorted(found.names, key=len, reverse=True):
        text = text.replace(f"{python}", found.names[python])
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
