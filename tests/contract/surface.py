"""What a library offers: its modules, classes and members, and how its functions may be called."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

INTROSPECT = Path(__file__).with_name("introspect.py")

# How annotations name a sequence or a mapping of something.
_CONTAINER = re.compile(r"\b(list|tuple|sequence|iterable|dict|mapping)\[", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        type: the annotation as text, with full names of the library's classes; empty if there is none.
    """

    name: str
    type: str = ""
    required: bool = True
    by_position: bool = True
    by_name: bool = True


@dataclasses.dataclass(frozen=True)
class Signature:
    """One way to call a function.

    Attributes:
        more_positions: it takes any number of further positional arguments.
        more_names: it takes every keyword.
        other_names: keywords that it takes, though they are no parameters.
        returns: the annotation, as text.
    """

    parameters: tuple[Parameter, ...]
    more_positions: bool = False
    more_names: bool = False
    other_names: frozenset[str] = frozenset()
    returns: str = ""

    def without_self(self) -> Signature:
        return dataclasses.replace(self, parameters=self.parameters[1:])

    def takes_name(self, name: str) -> bool:
        named = any(parameter.by_name and parameter.name == name for parameter in self.parameters)
        return named or self.more_names or name in self.other_names

    def refusal(self, positions: int, names: Iterable[str], *, complete: bool) -> str | None:
        """Why a call with so many positional arguments and these keywords is refused; None if it isn't.

        Args:
            complete: these are all arguments; otherwise there may be more of them.
        """
        names = list(names)
        in_order = [parameter for parameter in self.parameters if parameter.by_position]
        if positions > len(in_order) and not self.more_positions:
            return f"takes {len(in_order)} positional arguments, not {positions}"
        if unknown := [name for name in names if not self.takes_name(name)]:
            return f"has no parameter {unknown[0]!r}"
        given = {parameter.name for parameter in in_order[:positions]}
        if twice := given & set(names):
            return f"gets {min(twice)!r} twice"
        given |= {each.name for each in self.parameters if each.by_name and each.name in names}
        lacking = [each.name for each in self.parameters if each.required and each.name not in given]
        return f"lacks {lacking[0]!r}" if complete and lacking else None


@dataclasses.dataclass(frozen=True)
class Symbol:
    """Something that a library offers.

    Attributes:
        kind: "module", "class", "function", "method" (with `self` as its first parameter) or "value".
        name: in full, "tensorrt.IBuilderConfig.set_flag"; of a class or module its own name, wherever it was found.
        type: of a value, as text.
        signatures: of functions and methods, one for each overload.
    """

    kind: str
    name: str
    type: str = ""
    signatures: tuple[Signature, ...] = ()


class Library(Protocol):
    """A source of symbols."""

    def member(self, owner: str, name: str) -> Symbol | None:
        """What a module or class, given by its full name, has under this name."""

    def is_class(self, name: str) -> bool: ...

    def is_module(self, name: str) -> bool: ...

    def mentions(self, name: str) -> bool:
        """Whether a member of anything in the library is called so."""


class Bindings:
    """A library in C++, as `introspect.py` prints it."""

    def __init__(self, described: Mapping[str, Any]) -> None:
        self._modules, self._classes = described["modules"], described["classes"]
        self.version: str = described["version"]

    def member(self, owner: str, name: str) -> Symbol | None:
        found = self._modules.get(owner, {}).get(name) or self._classes.get(owner, {}).get(name)
        if found is None:
            return None
        signatures = tuple(_signature(each) for each in found.get("signatures", ()))
        return Symbol(found["kind"], found.get("name", f"{owner}.{name}"), found.get("type", ""), signatures)

    def is_class(self, name: str) -> bool:
        return name in self._classes

    def is_module(self, name: str) -> bool:
        return name in self._modules

    def mentions(self, name: str) -> bool:
        return any(name in members for members in (*self._modules.values(), *self._classes.values()))


def _signature(described: Mapping[str, Any]) -> Signature:
    parameters = tuple(Parameter(**parameter) for parameter in described["parameters"])
    more, names = described["more_positions"], frozenset(described.get("other_names", ()))
    return Signature(parameters, more, described["more_names"], names, described["returns"])


class Contract:
    """Libraries that are used together, by the names under which they are imported."""

    def __init__(self, libraries: Mapping[str, Library]) -> None:
        self.libraries = dict(libraries)
        self._members: dict[tuple[str, str], Symbol | None] = {}
        self._classes: dict[tuple[str, str], tuple[frozenset[str], bool]] = {}

    def member(self, owner: str, name: str) -> Symbol | None:
        if (owner, name) not in self._members:
            self._members[owner, name] = self._member(owner, name)
        return self._members[owner, name]

    def _member(self, owner: str, name: str) -> Symbol | None:
        library = self._library(owner)
        if library is None:
            return None
        found = library.member(owner, name)
        if found is None and library.is_module(f"{owner}.{name}"):
            return Symbol("module", f"{owner}.{name}")
        return found

    def module(self, name: str) -> Symbol | None:
        library = self._library(name)
        return Symbol("module", name) if library is not None and library.is_module(name) else None

    def resolve(self, name: str) -> Symbol | None:
        """What a full name, "tensorrt.tensorrt.ITensor", stands for."""
        first, *others = name.split(".")
        found = self.module(first)
        for part in others:
            found = self.member(found.name, part) if found is not None else None
        return found

    def classes_in(self, type_text: str, home: str) -> tuple[frozenset[str], bool]:
        """The library's classes that an annotation names, and whether it is of a container of them.

        Args:
            home: the name of what is annotated; its modules are searched for names that aren't full ones.
        """
        if (type_text, home) not in self._classes:
            self._classes[type_text, home] = self._classes_in(type_text, home)
        return self._classes[type_text, home]

    def _classes_in(self, type_text: str, home: str) -> tuple[frozenset[str], bool]:
        parts = home.split(".")
        scopes = ["", *(".".join([*parts[:length], ""]) for length in range(len(parts) - 1, 0, -1))]
        found = set()
        for word in re.findall(r"[A-Za-z_][\w.:]*", type_text):
            # C++ names are those of classes that pybind11 got to know later; Python's may lack the I of an interface.
            words = [word] if "::" not in word else [(last := word.rpartition("::")[2]), last.removeprefix("I")]
            symbols = (self.resolve(scope + each) for each in words for scope in scopes)
            found |= set([each.name for each in symbols if each is not None and each.kind == "class"][:1])
        return frozenset(found), _CONTAINER.search(type_text) is not None

    def _library(self, name: str) -> Library | None:
        return self.libraries.get(name.partition(".")[0])


@functools.cache
def bindings_in(folder: Path, name: str) -> Bindings:
    """The library `name` from the unpacked wheel of its bindings, loaded without the libraries that compute.

    These are replaced by empty ones. The test is skipped if there is no C++ compiler.
    """
    package = f"{name}_bindings"
    (extension,) = folder.glob(f"{package}/*.so")
    with tempfile.TemporaryDirectory() as temporary:
        stand_in_libraries(extension, Path(temporary))
        return _introspected(package, name, {"LD_LIBRARY_PATH": temporary, "PYTHONPATH": str(folder)})


@functools.cache
def package_in(folder: Path | None, name: str) -> Bindings:
    """The library `name` from its unpacked wheel, which needs no others to be loaded; None: as it is installed."""
    return _introspected(name, name, {**os.environ, **({"PYTHONPATH": str(folder)} if folder is not None else {})})


def _introspected(package: str, name: str, environment: dict[str, str]) -> Bindings:
    command = [sys.executable, str(INTROSPECT), package, name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return Bindings(json.loads(done.stdout.splitlines()[-1]))


def stand_in_libraries(extension: Path, folder: Path) -> None:
    """Builds libraries with the functions that an extension expects of NVIDIA's; each returns null."""
    needed = set(re.findall(rb"\0(lib(?:nv\w+|tensorrt\w+)\.so\.\d+)(?=\0)", extension.read_bytes()))
    try:
        listed = subprocess.run(["nm", "-D", "--undefined-only", extension], capture_output=True, text=True, check=True)
        wanted = [line.split()[-1] for line in listed.stdout.splitlines() if " U " in line and "@" not in line]
        functions = [name for name in wanted if name.startswith(("create", "get", "init"))]
        source = "".join(f'extern "C" void *{name}() {{ return nullptr; }}\n' for name in functions)
        first, *others = sorted(folder / library.decode() for library in needed)
        compile_it = ["c++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(first)]
        subprocess.run(compile_it, input=source, text=True, capture_output=True, check=True)
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is not installed")
    for library in others:
        library.symlink_to(first)
