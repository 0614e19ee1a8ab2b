"""What an expression of a program may stand for, and where something of a library is used."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from tests.contract.surface import Symbol


class Place(NamedTuple):
    """Where something is written. Lines and columns are those of `ast`; text is what is looked up there."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.text}"


@dataclasses.dataclass
class Use:
    """Something of a library that is used in one place.

    Attributes:
        kind: "attribute", "call", "keyword" or "method" (one that overrides the library's).
        library: the name it is imported by.
        is_guarded: the program asks first whether it is there.
        outcomes: for each thing that may be meant, why it is refused; empty where it isn't.
    """

    place: Place
    kind: str
    library: str
    is_guarded: bool
    outcomes: set[str] = dataclasses.field(default_factory=set)

    @property
    def problem(self) -> str | None:
        """Why nothing that may be meant is accepted, in one line; None if something is."""
        return None if "" in self.outcomes else f"{self.place}: {min(self.outcomes)}"


# --- values


@dataclasses.dataclass(frozen=True)
class Offered:
    """A module, class or function of a library. A method that is `bound` gets its `self`."""

    symbol: Symbol
    bound: bool = False


@dataclasses.dataclass(frozen=True)
class Instance:
    """An object of a library's class."""

    class_name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Scope:
    """A module, class or function of the program, with the names in it. It is a value itself.

    Attributes:
        returned: what a function returns or yields.
        attributes: of a class's objects.
    """

    node: ast.AST
    file: str
    module: str
    parent: Scope | None
    names: dict[str, set[Value]] = dataclasses.field(default_factory=dict)
    returned: set[Value] = dataclasses.field(default_factory=set)
    attributes: dict[str, set[Value]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Own:
    """An object of a class of the program, or a bound method."""

    scope: Scope
    method: Scope | None = None


@dataclasses.dataclass(frozen=True)
class Many:
    """A container of something."""

    elements: frozenset[Value]


@dataclasses.dataclass(frozen=True)
class Parts:
    """A tuple, of which each part is known by its place."""

    parts: tuple[Values, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Options:
    """A dictionary by the constants among its keys: key -> where it is written, and whether that is guarded."""

    keys: dict[str, tuple[Place, bool]] = dataclasses.field(default_factory=dict)


Value = Offered | Instance | Scope | Own | Many | Parts | Options
Values = frozenset[Value]
NOTHING: Values = frozenset()


def place_of(scope: Scope, node: ast.AST, text: str) -> Place:
    """Where a name ends; the name of an attribute is the last that is written of it."""
    line, column = getattr(node, "end_lineno", 0), getattr(node, "end_col_offset", 0)
    if isinstance(node, (ast.keyword, ast.Call, ast.FunctionDef)):
        line, column = node.lineno, node.col_offset
    return Place(scope.file, line or 0, column or 0, text)


def container_of(values: Values) -> Values:
    """A container of them; one in another counts as one, so that there is an end to what can be."""
    found = frozenset(value for value in values if not isinstance(value, (Many, Parts))) | elements_of(values)
    return frozenset({Many(found)}) if found else NOTHING


def elements_of(values: Values) -> Values:
    """What containers and tuples hold."""
    found: set[Value] = set()
    for value in values:
        if isinstance(value, Many):
            found |= value.elements
        elif isinstance(value, Parts):
            found = found.union(*value.parts)
    return frozenset(found)


def part_of(values: Values, place: int, count: int | None = None) -> Values:
    """What is at one place of tuples (of `count` parts), and of containers."""
    found: set[Value] = set(elements_of(frozenset(value for value in values if isinstance(value, Many))))
    for value in values:
        if isinstance(value, Parts) and count in (None, len(value.parts)) and place < len(value.parts):
            found |= value.parts[place]
    return frozenset(found)


def tuple_of(parts: list[Values]) -> Values:
    """A tuple; where its parts are tuples of tuples, one of anything, so that there is an end."""
    inner = [value for part in parts for value in part if isinstance(value, Parts)]
    if any(isinstance(value, Parts) for each in inner for part in each.parts for value in part):
        return container_of(NOTHING.union(*parts))
    return frozenset({Parts(tuple(parts))}) if any(parts) else NOTHING


def asked_for(test: ast.AST) -> set[str]:
    """The constants that a condition asks for: "TF32" in `hasattr(flags, "TF32")`, "typing" in `"typing" in names`."""
    return set(_constants_asked_for(test))


def _constants_asked_for(test: ast.AST) -> Iterator[str]:
    for node in ast.walk(test):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
            asked = node.args[1:]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In):
            asked = [node.left]
        yield from (str(each.value) for each in asked if isinstance(each, ast.Constant))


def module_by_name(call: ast.AST) -> str:
    """The module that `importlib.import_module("NAME")`, or a function like it, imports; empty for other calls."""
    if not isinstance(call, ast.Call) or not call.args or not isinstance(call.args[0], ast.Constant):
        return ""
    function = getattr(call.func, "attr", getattr(call.func, "id", ""))
    return str(call.args[0].value) if function in ("import_module", "load_module") else ""
