"""Finds what a program uses of some libraries, by following their objects through its sources.

Nothing is run. Each expression has a set of values: modules, classes, functions and objects of the libraries, and the
program's own functions and classes, whose parameters get the values that they are called with. The order of statements
does not count. Passes over all functions are repeated until nothing is new.
"""

from __future__ import annotations

import ast
import collections
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from tests.contract.calls import Calls
from tests.contract.surface import Bindings, Contract
from tests.contract.values import (
    NOTHING,
    Instance,
    Offered,
    Options,
    Own,
    Place,
    Scope,
    Use,
    Value,
    Values,
    asked_for,
    container_of,
    elements_of,
    part_of,
    place_of,
    tuple_of,
)

_MOST_PASSES = 30


class Inference(Calls):
    """What a program uses.

    Args:
        program: file -> its statements, e.g. {"engine/backends/tensorrt.py": ast.parse(...)}.
        contract: the libraries.
    """

    def __init__(self, program: Mapping[str, ast.Module], contract: Contract) -> None:
        super().__init__(contract)
        for file, tree in program.items():
            module = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            self.modules[module] = self._scopes[tree] = Scope(tree, file, module, None)
        self._pass_until_nothing_is_new()
        self._learns_arguments = True  # of what is still unknown
        self._pass_until_nothing_is_new()
        # What seemed to be missing may have been found since.
        self._uses.clear()
        self._unknown.clear()
        self._pass()
        self._check_overrides(program.values())

    def _pass(self) -> None:
        for scope in self.modules.values():
            self._run(_body(scope.node), scope)

    def _pass_until_nothing_is_new(self) -> None:
        for _ in range(_MOST_PASSES):
            before = self._size
            self._pass()
            if self._size == before:
                return
        raise AssertionError("the passes do not come to an end")

    @property
    def unknown(self) -> frozenset[Place]:
        """Attributes of objects of which nothing is known."""
        return frozenset(self._unknown)

    @property
    def uses(self) -> list[Use]:
        return sorted(self._uses.values(), key=lambda use: use.place)

    def out_of_sight(self) -> list[Place]:
        """Attributes that bindings have and PyTorch's tensors don't, of objects of which nothing is known.

        They are in modules that use these bindings, and have a name of several words: others are everybody's.
        """
        checked = {(use.place.file, use.place.text) for use in self._uses.values()}
        used: dict[str, set[str]] = collections.defaultdict(set)
        for use in self._uses.values():
            used[use.place.file].add(use.library)
        found = []
        for place in self._unknown:
            libraries = [
                self._contract.libraries[name] for name in used[place.file] | self._imported_libraries(place.file)
            ]
            is_theirs = any(isinstance(each, Bindings) and each.mentions(place.text) for each in libraries)
            is_distinct = "_" in place.text.strip("_") and not hasattr(Tensor, place.text)
            if is_theirs and is_distinct and (place.file, place.text) not in checked:
                found.append(place)
        return sorted(found)

    # --- statements

    def _run(self, body: Sequence[ast.AST], scope: Scope) -> None:
        for place, statement in enumerate(body):
            self._statement(statement, scope)
            if (test := _lets_pass(statement)) is not None:
                with self._asking(test, scope) as can_be:
                    self._run(body[place + 1 :] if can_be else [], scope)
                return

    def _statement(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._function(node, scope)
        elif isinstance(node, ast.ClassDef):
            inner = self._scope(node, scope)
            self._bind(scope, node.name, frozenset({inner}))
            for each in (*node.bases, *node.decorator_list):
                self._value(each, scope)
            for base in self._bases(inner):
                self._learn(self._subclasses.setdefault(base, set()), {inner})
            self._run(node.body, inner)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found = self._module(alias.name if alias.asname else alias.name.partition(".")[0])
                self._import_exists(alias.name, alias, scope)
                self._bind(scope, alias.asname or alias.name.partition(".")[0], found)
        elif isinstance(node, ast.ImportFrom):
            source = self._module(node.module or "")
            self._import_exists(node.module or "", node, scope)
            for alias in node.names:
                found = self._attribute(source, alias.name, place_of(scope, alias, alias.name))
                found = found or self._module(f"{node.module}.{alias.name}")
                self._bind(scope, alias.asname or alias.name, found)
        elif isinstance(node, ast.Assign):
            values = self._value(node.value, scope)
            for target in node.targets:
                self._assign(target, values, scope)
        elif isinstance(node, ast.AnnAssign):
            values = self._annotated(node.annotation, scope)
            if node.value is not None:
                values |= self._value(node.value, scope)
            self._assign(node.target, values, scope)
            if isinstance(scope.node, ast.ClassDef) and isinstance(node.target, ast.Name):
                self._learn(scope.attributes.setdefault(node.target.id, set()), values)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self._assign(node.target, elements_of(self._value(node.iter, scope)), scope)
            self._run([*node.body, *node.orelse], scope)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                values = self._value(item.context_expr, scope)
                if item.optional_vars is not None:
                    self._assign(item.optional_vars, values, scope)
            self._run(node.body, scope)
        elif isinstance(node, ast.Return):
            if node.value is not None:
                self._learn(scope.returned, self._value(node.value, scope))
        elif isinstance(node, (ast.If, ast.While)):
            self._value(node.test, scope)
            with self._asking(node.test, scope) as can_be:
                self._run(node.body if can_be else [], scope)
            self._run(node.orelse, scope)
        else:  # expressions of their own, `try` and what else has statements in it
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self._value(child, scope)
                else:
                    self._statement(child, scope)

    def _import_exists(self, module: str, node: ast.AST, scope: Scope) -> None:
        library = module.partition(".")[0]
        if library in self._contract.libraries:
            missing = "" if self._contract.module(module) is not None else "there is no such module"
            self._record("attribute", place_of(scope, node, module), library, missing)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope) -> Scope:
        inner = self._scope(node, scope)
        arguments = node.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for parameter in parameters:
            self._bind(inner, parameter.arg, self._annotated(parameter.annotation, scope))
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self._value(default, scope)
        if isinstance(node, ast.Lambda):
            self._learn(inner.returned, self._value(node.body, inner))
            return inner
        is_method = isinstance(scope.node, ast.ClassDef) and parameters and not _is_static(node)
        # The attributes of a base class are also those of other classes with that base: only of those that are made.
        if is_method and (
            scope in self._constructed or not any(isinstance(base, Scope) for base in self._bases(scope))
        ):
            self._bind(inner, parameters[0].arg, frozenset({Own(scope)}))
        self._learn(inner.returned, self._annotated(node.returns, scope))
        for decorator in node.decorator_list:
            self._value(decorator, scope)
        self._bind(scope, node.name, frozenset({inner}))
        self._run(node.body, inner)
        return inner

    def _annotated(self, node: ast.expr | None, scope: Scope) -> Values:
        """Objects of the libraries' and the program's classes that an annotation names."""
        if node is None:
            return NOTHING
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return NOTHING  # it isn't evaluated
        if isinstance(node, ast.Subscript):
            self._value(node.value, scope)
            found = self._annotated(node.slice, scope)
            return container_of(found)
        if isinstance(node, (ast.BinOp, ast.Tuple)):
            parts = node.elts if isinstance(node, ast.Tuple) else [node.left, node.right]
            return frozenset().union(*(self._annotated(part, scope) for part in parts))
        values = self._value(node, scope)
        own = {Own(value) for value in values if isinstance(value, Scope) and isinstance(value.node, ast.ClassDef)}
        offered = {value.symbol for value in values if isinstance(value, Offered)}
        return frozenset(own | {Instance(symbol.name) for symbol in offered if symbol.kind == "class"})

    def _assign(self, target: ast.expr, values: Values, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            self._bind(scope, target.id, values)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, container_of(values), scope)
        elif isinstance(target, (ast.Tuple, ast.List)):
            is_plain = not any(isinstance(each, ast.Starred) for each in target.elts)
            for place, each in enumerate(target.elts):
                part = part_of(values, place, len(target.elts)) if is_plain else elements_of(values)
                self._assign(each, part, scope)
        elif isinstance(target, ast.Attribute):
            for owner in self._value(target.value, scope):
                if isinstance(owner, Own):
                    self._learn(owner.scope.attributes.setdefault(target.attr, set()), values)
                else:
                    self._attribute(frozenset({owner}), target.attr, place_of(scope, target, target.attr))
        elif isinstance(target, ast.Subscript):
            self._value(target.slice, scope)
            for owner in self._value(target.value, scope):
                if isinstance(owner, Options):
                    self._add_key(owner, target.slice, scope)

    # --- expressions

    def _value(self, node: ast.expr, scope: Scope) -> Values:
        if isinstance(node, ast.Name):
            return self._lookup(scope, node.id)
        if isinstance(node, ast.Attribute):
            owners = self._value(node.value, scope)
            return self._attribute(owners, node.attr, place_of(scope, node, node.attr))
        if isinstance(node, ast.Call):
            return self._call(node, scope)
        if isinstance(node, ast.Tuple) and not any(isinstance(each, ast.Starred) for each in node.elts):
            return tuple_of([self._value(each, scope) for each in node.elts])
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return container_of(frozenset().union(*(self._value(each, scope) for each in node.elts)))
        if isinstance(node, ast.Starred):
            return elements_of(self._value(node.value, scope))
        if isinstance(node, ast.Dict):
            return self._dictionary(node, scope)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            return self._comprehension(node, scope)
        if isinstance(node, ast.IfExp):
            self._value(node.test, scope)
            with self._asking(node.test, scope) as can_be:
                body = self._value(node.body, scope) if can_be else NOTHING
            return body | self._value(node.orelse, scope)
        if isinstance(node, ast.BoolOp):
            return self._operands(node, scope)
        if isinstance(node, ast.NamedExpr):
            values = self._value(node.value, scope)
            self._assign(node.target, values, scope)
            return values
        if isinstance(node, ast.Subscript):
            self._value(node.slice, scope)
            values = self._value(node.value, scope)
            place = node.slice.value if isinstance(node.slice, ast.Constant) else None
            return part_of(values, place) if isinstance(place, int) else elements_of(values)
        if isinstance(node, ast.Lambda):
            return frozenset({self._function(node, scope)})
        if isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await)):
            values = self._value(node.value, scope) if node.value is not None else NOTHING
            if isinstance(node, ast.Yield):
                self._learn(scope.returned, values)
            return values
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._value(child, scope)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._value(node.left, scope) | self._value(node.right, scope)
        return NOTHING

    def _operands(self, node: ast.BoolOp, scope: Scope) -> Values:
        found: set[Value] = set()
        with contextlib.ExitStack() as asking:
            for each in node.values:
                found |= self._value(each, scope)
                if isinstance(node.op, ast.And) and not asking.enter_context(self._asking(each, scope)):
                    break
        return frozenset(found)

    @contextlib.contextmanager
    def _asking(self, test: ast.expr, scope: Scope) -> Iterator[bool]:
        """Marks what is used under a condition; gives whether that can be: not with a library that lacks the name."""
        self._guards.append(asked_for(test))
        first = test.values[0] if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else test
        yield not (isinstance(first, ast.Call) and self._lacks(first, scope))
        self._guards.pop()

    def _lacks(self, call: ast.Call, scope: Scope) -> bool:
        """Whether a call of `hasattr` is false: all that may be meant is known, and has no such name."""
        if not (isinstance(call.func, ast.Name) and call.func.id == "hasattr"):
            return False
        values, name = self._value(call.args[0], scope), ast.literal_eval(call.args[1])
        owners = [value.class_name for value in values if isinstance(value, Instance)]
        owners += [value.symbol.name for value in values if isinstance(value, Offered)]
        are_theirs = bool(values) and len(owners) == len(values)
        return are_theirs and not any(
            self._contract.member(owner, name) or self._is_of_subclass(owner, name) for owner in owners
        )

    def _dictionary(self, node: ast.Dict, scope: Scope) -> Values:
        options = self._options.setdefault(node, Options())
        values: Values = NOTHING
        for key, value in zip(node.keys, node.values, strict=True):
            found = self._value(value, scope)
            if key is None:  # {**others}
                values |= frozenset(each for each in found if isinstance(each, Options))
                continue
            self._value(key, scope)
            self._add_key(options, key, scope)
            values |= container_of(found)
        return values | {options}

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, scope: Scope
    ) -> Values:
        inner = self._scope(node, scope)
        asked: set[str] = set()
        for each in node.generators:
            self._assign(each.target, elements_of(self._value(each.iter, inner)), inner)
            for test in each.ifs:
                asked |= asked_for(test)
                self._value(test, inner)
        self._guards.append(asked)
        if isinstance(node, ast.DictComp):
            self._value(node.key, inner)
        result = self._value(node.value if isinstance(node, ast.DictComp) else node.elt, inner)
        self._guards.pop()
        return container_of(result)

    # --- methods that a library calls

    def _check_overrides(self, trees: Iterable[ast.Module]) -> None:
        """A public method that nobody in the program calls, of a class with a base from a library, has to be its."""
        called = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for scope in list(self._scopes.values()):
            if not isinstance(scope.node, ast.ClassDef):
                continue
            for base in self._bases(scope):
                if not isinstance(base, Offered):
                    continue
                for method in (each for each in scope.node.body if isinstance(each, ast.FunctionDef)):
                    if method.name.startswith("_") or method.name in called:
                        continue
                    known = self._contract.member(base.symbol.name, method.name) is not None
                    problem = "" if known else f"{base.symbol.name} has no method {method.name!r} to override"
                    library = base.symbol.name.partition(".")[0]
                    self._record("method", place_of(scope, method, method.name), library, problem)


def _body(node: ast.AST) -> list[ast.stmt]:
    assert isinstance(node, ast.Module)
    return node.body


def _is_static(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list)


def _lets_pass(statement: ast.AST) -> ast.expr | None:
    """The condition in `if not condition: return`; None for other statements."""
    if not (isinstance(statement, ast.If) and isinstance(statement.test, ast.UnaryOp)):
        return None
    leaves = isinstance(statement.body[-1], (ast.Return, ast.Raise, ast.Continue)) and not statement.orelse
    return statement.test.operand if leaves and isinstance(statement.test.op, ast.Not) else None
