"""What a package in Python offers, read from its sources without importing it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from tests.contract.surface import Parameter, Signature, Symbol

# Aliases and forwarded keywords are followed so far: no farther than any library needs.
_MOST_STEPS = 20


@dataclasses.dataclass(frozen=True)
class Found:
    """A statement that binds a name, and the module it is in."""

    module: str
    node: ast.AST


class Sources:
    """A package in Python as a library.

    Args:
        folder: that holds the package.
        package: its name.
    """

    def __init__(self, folder: Path, package: str) -> None:
        self._folder = folder
        self._package = package

    def member(self, owner: str, name: str) -> Symbol | None:
        if self.is_module(owner):
            return self._symbol(owner, name, _MOST_STEPS)
        home = owner.rpartition(".")[0]
        node = self._class_node(owner)
        return None if node is None else self._class_member(home, node, name, owner)

    def is_class(self, name: str) -> bool:
        return self._class_node(name) is not None

    def is_module(self, name: str) -> bool:
        return self._file(name) is not None

    @functools.cache  # noqa: B019
    def mentions(self, name: str) -> bool:
        """Whether any file, compiled ones among them, has the name."""
        pattern = re.compile(rf"\b{re.escape(name)}\b".encode())
        files = [*self._folder.rglob("*.py"), *self._folder.rglob("*.so")]
        return any(pattern.search(file.read_bytes()) for file in files)

    # --- modules

    @functools.cache  # noqa: B019
    def _file(self, module: str) -> Path | None:
        path = self._folder.joinpath(*module.split("."))
        if module.partition(".")[0] != self._package:
            return None
        candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
        return next((file for file in candidates if file.is_file()), None)

    @functools.cache  # noqa: B019 (there are a few, and they live as long as the tests)
    def _bindings(self, module: str) -> dict[str, list[ast.AST]]:
        """Name -> what binds it, in the order of the file; under "*" the modules of which all names are imported."""
        file = self._file(module)
        assert file is not None
        found: dict[str, list[ast.AST]] = {}
        for statement in _statements(ast.parse(file.read_text()).body):
            for name in _bound_names(statement):
                found.setdefault(name, []).append(statement)
        return found

    def _imported_from(self, module: str, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        file = self._file(module)
        assert file is not None
        parts = module.split(".")
        above = parts[: len(parts) - statement.level + (file.name == "__init__.py")]
        return ".".join([*above, *([statement.module] if statement.module else [])])

    def _symbol(self, module: str, name: str, steps: int) -> Symbol | None:
        """A name of a module, followed through imports and assignments to where it is defined."""
        if not steps:
            return None
        bindings = self._bindings(module)
        for statement in bindings.get(name, ()):
            if (found := self._defined(module, name, statement, steps - 1)) is not None:
                return found
        for statement in bindings.get("*", ()):
            assert isinstance(statement, ast.ImportFrom)
            source = self._imported_from(module, statement)
            if self.is_module(source) and name in self._public(source):
                return self._symbol(source, name, steps - 1)
        return Symbol("module", f"{module}.{name}") if self.is_module(f"{module}.{name}") else None

    def _public(self, module: str) -> set[str]:
        """The names that `from module import *` takes."""
        bindings = self._bindings(module)
        for statement in bindings.get("__all__", ()):
            if isinstance(statement, ast.Assign) and isinstance(statement.value, (ast.List, ast.Tuple)):
                return {str(each.value) for each in statement.value.elts if isinstance(each, ast.Constant)}
        return {name for name in bindings if not name.startswith("_") and name != "*"}

    def _defined(self, module: str, name: str, node: ast.AST, steps: int) -> Symbol | None:
        full = f"{module}.{name}"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return Symbol("function", full, signatures=(self._signature(module, node),))
        if isinstance(node, ast.ClassDef):
            return Symbol("class", full)
        if isinstance(node, ast.Import):
            (target,) = (alias.name for alias in node.names if (alias.asname or alias.name.split(".")[0]) == name)
            is_alias = any(alias.asname == name for alias in node.names)
            return Symbol("module", target if is_alias else name)
        if isinstance(node, ast.ImportFrom):
            (original,) = {alias.name for alias in node.names if (alias.asname or alias.name) == name}
            source = self._imported_from(module, node)
            if not self.is_module(source):
                return Symbol("other", f"{source}.{original}")
            return self._symbol(source, original, steps)
        if isinstance(node, ast.AnnAssign):
            return Symbol("value", full, self._type(module, node.annotation, steps))
        if isinstance(node, ast.Assign):
            if _named_tuple_fields(node.value) is not None:
                return Symbol("class", full)
            if isinstance(node.value, ast.Call):
                return Symbol("value", full, self._type(module, node.value.func, steps))
            return self._expression(module, node.value, steps) or Symbol("value", full)
        return Symbol("value", full)

    def _expression(self, module: str, node: ast.expr, steps: int) -> Symbol | None:
        """What a name, or names with dots between them, stand for."""
        if isinstance(node, ast.Name):
            return self._symbol(module, node.id, steps)
        if isinstance(node, ast.Attribute):
            owner = self._expression(module, node.value, steps)
            if owner is None or owner.kind not in ("module", "class", "other"):
                return None
            return self.member(owner.name, node.attr) or Symbol("other", f"{owner.name}.{node.attr}")
        return None

    def _type(self, module: str, node: ast.expr | None, steps: int = _MOST_STEPS) -> str:
        """An annotation as text, with full names for what it names."""
        if node is None:
            return ""
        if isinstance(node, (ast.Name, ast.Attribute)):
            found = self._expression(module, node, steps)
            return found.name if found is not None else ast.unparse(node)
        if isinstance(node, ast.Subscript):
            return f"{ast.unparse(node.value)}[{self._type(module, node.slice, steps)}]"
        if isinstance(node, ast.Tuple):
            return ", ".join(self._type(module, each, steps) for each in node.elts)
        if isinstance(node, ast.BinOp):
            return f"{self._type(module, node.left, steps)} | {self._type(module, node.right, steps)}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self._type(module, ast.parse(node.value, mode="eval").body, steps)
        return ""

    # --- classes

    def _class_node(self, name: str) -> ast.ClassDef | ast.Assign | None:
        module, _, class_name = name.rpartition(".")
        if not self.is_module(module):
            return None
        kinds = (ast.ClassDef, ast.Assign)
        found = (node for node in self._bindings(module).get(class_name, ()) if isinstance(node, kinds))
        return next((n for n in found if isinstance(n, ast.ClassDef) or _named_tuple_fields(n.value) is not None), None)

    def _class_member(self, module: str, node: ast.ClassDef | ast.Assign, name: str, owner: str) -> Symbol | None:
        if isinstance(node, ast.Assign):
            return Symbol("value", f"{owner}.{name}") if name in (_named_tuple_fields(node.value) or ()) else None
        full = f"{owner}.{name}"
        for statement in _statements(node.body):
            if name not in _bound_names(statement):
                continue
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                decorators = {ast.unparse(each) for each in statement.decorator_list}
                if "property" in decorators:
                    return Symbol("value", full, self._type(module, statement.returns))
                signature = self._signature(module, statement)
                if "staticmethod" in decorators:
                    return Symbol("function", full, signatures=(signature,))
                if "classmethod" in decorators:
                    return Symbol("function", full, signatures=(signature.without_self(),))
                return Symbol("method", full, signatures=(signature,))
            if isinstance(statement, ast.AnnAssign):
                return Symbol("value", full, self._type(module, statement.annotation))
            is_enum = any("Enum" in ast.unparse(base) for base in node.bases)
            return Symbol("value", full, owner if is_enum and isinstance(statement, ast.Assign) else "")
        own = (inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute) and inner.attr == name)
        if any(ast.unparse(inner.value) == "self" and isinstance(inner.ctx, ast.Store) for inner in own):
            return Symbol("value", full)
        if name == "__init__" and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
            return Symbol("method", full, signatures=(self._of_fields(module, node),))
        for base in node.bases:
            found = self._expression(module, base, _MOST_STEPS)
            inherited = self.member(found.name, name) if found is not None and found.kind == "class" else None
            if inherited is not None:
                return inherited
        return None

    def _of_fields(self, module: str, node: ast.ClassDef) -> Signature:
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
        parameters = [
            Parameter(ast.unparse(each.target), self._type(module, each.annotation), required=each.value is None)
            for each in fields
        ]
        return Signature((Parameter("self"), *parameters))

    # --- functions

    def _signature(self, module: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature:
        arguments = node.args
        in_order = [*arguments.posonlyargs, *arguments.args]
        first_default = len(in_order) - len(arguments.defaults)
        parameters = [
            Parameter(
                each.arg,
                self._type(module, each.annotation),
                required=place < first_default,
                by_name=each not in arguments.posonlyargs,
            )
            for place, each in enumerate(in_order)
        ]
        parameters += [
            Parameter(each.arg, self._type(module, each.annotation), required=default is None, by_position=False)
            for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        ]
        return Signature(
            tuple(parameters),
            more_positions=arguments.vararg is not None,
            other_names=frozenset(self._other_names(module, node, set())),
            returns=self._type(module, node.returns),
        )

    def _other_names(self, module: str, node: ast.AST, seen: set[str]) -> Iterator[str]:
        """Keywords that a function takes from its `**kwargs`: those that it reads there, or that it passes on.

        A keyword that nobody reads would be accepted, and ignored in silence.
        """
        assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if node.args.kwarg is None:
            return
        kwargs = node.args.kwarg.arg
        for inner in ast.walk(node):
            yield from _read_from(kwargs, inner)
            if not isinstance(inner, ast.Call):
                continue
            passes_on = any(each.arg is None and ast.unparse(each.value) == kwargs for each in inner.keywords)
            target = self._expression(module, inner.func, _MOST_STEPS) if passes_on else None
            if target is None or target.kind != "function" or target.name in seen:
                continue
            yield from self._taken_by(target.name, seen | {target.name})

    def _taken_by(self, function: str, seen: set[str]) -> Iterator[str]:
        module, _, name = function.rpartition(".")
        for node in self._bindings(module).get(name, ()):
            if isinstance(node, ast.FunctionDef):
                yield from (each.arg for each in (*node.args.args, *node.args.kwonlyargs))
                yield from self._other_names(module, node, seen)


def _read_from(kwargs: str, node: ast.AST) -> Iterator[str]:
    """The constants in `kwargs["name"]`, `kwargs.get("name")`, `kwargs.pop("name")` and `"name" in kwargs`."""
    found: list[ast.AST] = []
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == kwargs:
        found = [node.slice]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in (f"{kwargs}.get", f"{kwargs}.pop"):
        found = list(node.args[:1])
    elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) in (kwargs, f"{kwargs}.keys()"):
        found = [node.left]
    yield from (str(each.value) for each in found if isinstance(each, ast.Constant))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, those in branches too."""
    for statement in body:
        yield statement
        for field in ("body", "orelse", "finalbody", "handlers"):
            if isinstance(statement, (ast.If, ast.Try, ast.With)):
                inner = getattr(statement, field, [])
                for each in inner:
                    yield from _statements(each.body if isinstance(each, ast.ExceptHandler) else [each])


def _bound_names(statement: ast.stmt) -> list[str]:
    """The names that a statement binds; "*" if it imports all of a module."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, ast.Import):
        return [alias.asname or alias.name.split(".")[0] for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    if isinstance(statement, ast.AnnAssign):
        return [statement.target.id] if isinstance(statement.target, ast.Name) else []
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []


def _named_tuple_fields(node: ast.expr) -> list[str] | None:
    """The fields in `namedtuple("Name", ["first", "second"])`; None for other expressions."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("namedtuple") and len(node.args) == 2):
        return None
    fields = node.args[1]
    if not isinstance(fields, ast.List):
        return None
    return [str(each.value) for each in fields.elts if isinstance(each, ast.Constant)]
