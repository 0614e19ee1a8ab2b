"""Calls: arguments go into the program's own functions, and are checked where a library's are called."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping

from tests.contract.knowledge import Knowledge
from tests.contract.surface import Signature, Symbol
from tests.contract.values import (
    NOTHING,
    Instance,
    Many,
    Offered,
    Options,
    Own,
    Scope,
    Values,
    container_of,
    elements_of,
    module_by_name,
    place_of,
)


class Calls(Knowledge):
    """The part of `Inference` that handles calls."""

    def _call(self, node: ast.Call, scope: Scope) -> Values:
        functions = self._value(node.func, scope)
        positions = [self._value(each, scope) for each in node.args]
        names = {each.arg: self._value(each.value, scope) for each in node.keywords}
        found = self._builtin(node, scope) | self._partial(node, positions, names)
        for function in functions:
            if isinstance(function, Offered):
                found |= self._call_library(function, node, scope)
            elif isinstance(function, Scope):
                found |= self._call_own(function, node, positions, names)
            elif isinstance(function, Own) and function.method is not None:
                found |= self._call_own(function.method, node, [NOTHING, *positions], names)
            elif isinstance(function, Many):
                found |= {function, *function.elements}
        return found

    def _builtin(self, node: ast.Call, scope: Scope) -> Values:
        """getattr, hasattr, dict and import_module, and what containers go through."""
        if module := module_by_name(node):
            return self._module(module)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "super":
            return self._super(scope)
        if name in ("getattr", "hasattr") and isinstance(node.args[1], ast.Constant):
            label = str(node.args[1].value)
            self._guards.append({label} if name == "hasattr" or len(node.args) == 3 else set())
            values = self._value(node.args[0], scope)
            found = self._attribute(values, label, place_of(scope, node.args[1], label))
            if not values:
                self._mentioned(label, node.args[1], scope)
            self._guards.pop()
            return found if name == "getattr" else NOTHING
        if name == "dict":
            options = self._options.setdefault(node, Options())
            for keyword in node.keywords:
                self._add_key(options, ast.copy_location(ast.Constant(keyword.arg), keyword), scope)
            for argument in node.args:  # dict(zip(("a", "b"), ...))
                first = argument.args[0] if isinstance(argument, ast.Call) and argument.args else None
                for key in first.elts if isinstance(first, (ast.Tuple, ast.List)) else ():
                    self._add_key(options, key, scope)
            return frozenset({options})
        if name in ("list", "tuple", "set", "sorted", "reversed", "iter"):
            return container_of(elements_of(self._value(node.args[0], scope))) if node.args else NOTHING
        return elements_of(self._value(node.args[0], scope)) if name == "next" and node.args else NOTHING

    def _super(self, scope: Scope) -> Values:
        inner: Scope | None = scope
        while inner is not None and not isinstance(inner.node, ast.ClassDef):
            inner = inner.parent
        bases = self._bases(inner) if inner is not None else NOTHING
        own = frozenset(Own(base) for base in bases if isinstance(base, Scope))
        return own | {Instance(base.symbol.name) for base in bases if isinstance(base, Offered)}

    def _partial(self, node: ast.Call, positions: list[Values], names: Mapping[str | None, Values]) -> Values:
        """functools.partial and the like: what is handed over first is called with the rest some time."""
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name not in ("partial", "Thread", "submit") or not positions:
            return NOTHING
        for function in positions[0]:
            if isinstance(function, Scope):
                self._call_own(function, node, positions[1:], names)
            elif isinstance(function, Own) and function.method is not None:
                self._call_own(function.method, node, [NOTHING, *positions[1:]], names)
        return positions[0]

    def _call_own(
        self, function: Scope, node: ast.Call, positions: list[Values], names: Mapping[str | None, Values]
    ) -> Values:
        """Hands the arguments over; returns what comes back."""
        if isinstance(function.node, ast.ClassDef):
            made: Values = frozenset({Own(function)})
            if any((*positions, *names.values())) or not (positions or names):
                self._learn(self._constructed, {function})  # otherwise with nothing that matters
            constructors = function.names.get("__init__", set())
            for constructor in constructors:
                if isinstance(constructor, Scope):
                    self._call_own(constructor, node, [made, *positions], names)
            if not constructors:  # a dataclass
                fields = [each.target for each in function.node.body if isinstance(each, ast.AnnAssign)]
                labels = [field.id for field in fields if isinstance(field, ast.Name)]
                given: dict[str | None, Values] = {**dict(zip(labels, positions, strict=False)), **names}
                for label in given.keys() & set(labels):
                    self._learn(function.attributes.setdefault(str(label), set()), given[label])
            return made
        if not isinstance(function.node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return NOTHING
        arguments = function.node.args
        parameters = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
        is_method = function.parent is not None and isinstance(function.parent.node, ast.ClassDef)
        handed_over = [*positions[is_method:], *names.values()]
        for place, values in enumerate(positions):
            if place < len(parameters):
                self._bind(function, parameters[place], values)
            elif arguments.vararg is not None:
                self._bind(function, arguments.vararg.arg, container_of(values))
        for name, values in names.items():
            if name in {*parameters, *(each.arg for each in arguments.kwonlyargs)}:
                self._bind(function, str(name), values)
        if handed_over and not any(handed_over) and any(map(function.names.get, parameters[is_method:])):
            return NOTHING  # what others have handed over would come back
        return frozenset(function.returned)

    def _call_library(self, function: Offered, node: ast.Call, scope: Scope) -> Values:
        symbol = function.symbol
        if symbol.kind == "class":
            constructor = self._contract.member(symbol.name, "__init__")
            made = frozenset({Instance(symbol.name)})
            if constructor is None:
                return made
            self._check_call(dataclasses.replace(constructor, name=symbol.name), True, node, scope)
            return made
        if symbol.kind not in ("function", "method"):
            return NOTHING
        self._check_call(symbol, function.bound, node, scope)
        returned = (self._typed(each.returns, symbol.name) for each in symbol.signatures)
        return frozenset().union(*returned)

    def _check_call(self, symbol: Symbol, bound: bool, node: ast.Call, scope: Scope) -> None:
        library = symbol.name.partition(".")[0]
        signatures = [each.without_self() if bound else each for each in symbol.signatures]
        names = {each.arg: place_of(scope, each, each.arg) for each in node.keywords if each.arg is not None}
        place = place_of(scope, node, ast.unparse(node.func))
        is_complete = all(each.arg is not None for each in node.keywords)
        is_complete = is_complete and not any(isinstance(each, ast.Starred) for each in node.args)
        guarded: set[str] = set()
        for each in node.keywords:
            if each.arg is not None:
                continue
            dictionaries = [value for value in self._value(each.value, scope) if isinstance(value, Options)]
            for options in dictionaries:
                names |= {name: place for name, (place, _) in options.keys.items()}
                guarded |= {name for name, (_, is_guarded) in options.keys.items() if is_guarded}
            if not any(options.keys for options in dictionaries):
                where = place_of(scope, each, f"**{ast.unparse(each.value)}")
                self._record("keyword", where, library, "the keys can't be read")
        for name, where in names.items():
            taken = any(signature.takes_name(name) for signature in signatures)
            self._guards.append(guarded)
            self._record("keyword", where, library, "" if taken else f"{symbol.name} has no parameter {name!r}")
            self._guards.pop()
            self._uses[where, "keyword", library].is_guarded |= name in guarded
        positions = sum(not isinstance(each, ast.Starred) for each in node.args)
        known = [name for name in names if any(signature.takes_name(name) for signature in signatures)]
        refusals = [signature.refusal(positions, known, complete=is_complete) for signature in signatures]
        if refusals and None not in refusals:
            self._record("call", place, library, f"{symbol.name} {refusals[0]}")
        elif refusals:
            self._record("call", place, library, "")
        self._learn_arguments(signatures, node, scope)

    def _learn_arguments(self, signatures: list[Signature], node: ast.Call, scope: Scope) -> None:
        """A name of which nothing is known yet is what the library's function expects."""
        if len(signatures) != 1 or not self._learns_arguments:
            return
        (signature,) = signatures
        types = {parameter.name: parameter.type for parameter in signature.parameters}
        given = [*zip(signature.parameters, node.args, strict=False)]
        expected = [(parameter.type, argument) for parameter, argument in given]
        expected += [(types.get(each.arg or "", ""), each.value) for each in node.keywords]
        for type_text, argument in expected:
            home = self._home(scope, argument.id) if isinstance(argument, ast.Name) else None
            if isinstance(argument, ast.Name) and home is not None and not home.names[argument.id]:
                self._bind(home, argument.id, self._typed(type_text, ""))
