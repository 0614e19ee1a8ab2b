"""What is known about the names of a program, and what its attributes mean in the libraries that it uses."""

from __future__ import annotations

import abc
import ast
from collections.abc import Iterable

from tests.contract.surface import Contract
from tests.contract.values import (
    NOTHING,
    Instance,
    Many,
    Offered,
    Options,
    Own,
    Place,
    Scope,
    Use,
    Value,
    Values,
    container_of,
    module_by_name,
    place_of,
)

# What objects of Python have, whatever their class offers.
_OF_EVERYTHING = frozenset(dir(object))


class Knowledge(abc.ABC):
    """Grows until nothing is new.

    Args:
        contract: the libraries.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._uses: dict[tuple[Place, str, str], Use] = {}
        self._scopes: dict[ast.AST, Scope] = {}
        self._options: dict[ast.AST, Options] = {}
        self._imported: dict[str, set[str]] = {}
        self._guards: list[set[str]] = []
        self._constructed: set[Value] = set()
        self._subclasses: dict[Value, set[Value]] = {}
        self._unknown: set[Place] = set()
        self._size = 0  # of everything that is known
        self._learns_arguments = False
        self.modules: dict[str, Scope] = {}

    @abc.abstractmethod
    def _value(self, node: ast.expr, scope: Scope) -> Values:
        """What an expression may stand for."""

    def _learn(self, known: set[Value], values: Iterable[Value]) -> None:
        before = len(known)
        known.update(values)
        self._size += len(known) - before

    def _bind(self, scope: Scope, name: str, values: Values) -> None:
        self._learn(scope.names.setdefault(name, set()), values)

    def _lookup(self, scope: Scope | None, name: str) -> Values:
        while scope is not None:
            if name in scope.names:
                return frozenset(scope.names[name])
            scope = scope.parent
            if scope is not None and isinstance(scope.node, ast.ClassDef):
                scope = scope.parent  # methods don't see the names of their class
        return NOTHING

    def _home(self, scope: Scope | None, name: str) -> Scope | None:
        """The innermost scope that has a name."""
        while scope is not None and name not in scope.names:
            scope = scope.parent
        return scope

    def _record(self, kind: str, place: Place, library: str, outcome: str) -> None:
        is_guarded = kind == "attribute" and any(place.text in guards for guards in self._guards)
        use = self._uses.setdefault((place, kind, library), Use(place, kind, library, is_guarded))
        self._size += outcome not in use.outcomes
        use.outcomes.add(outcome)

    def _typed(self, type_text: str, home: str) -> Values:
        classes, is_container = self._contract.classes_in(type_text, home)
        found: Values = frozenset(Instance(name) for name in classes)
        return container_of(found) if is_container else found

    def _module(self, name: str) -> Values:
        if name in self.modules:
            return frozenset({self.modules[name]})
        found = self._contract.module(name)
        return frozenset({Offered(found)}) if found is not None else NOTHING

    def _scope(self, node: ast.AST, parent: Scope) -> Scope:
        if node not in self._scopes:
            self._scopes[node] = Scope(node, parent.file, parent.module, parent)
        return self._scopes[node]

    def _add_key(self, options: Options, key: ast.expr | None, scope: Scope) -> None:
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value not in options.keys:
            is_guarded = any(key.value in guards for guards in self._guards)
            options.keys[key.value] = (place_of(scope, key, key.value), is_guarded)
            self._size += 1

    def _attribute(self, owners: Values, name: str, place: Place) -> Values:
        found: set[Value] = set()
        if not owners:
            self._unknown.add(place)
        for owner in owners:
            if isinstance(owner, Offered) and owner.symbol.kind in ("module", "class"):
                found |= self._offered(owner.symbol.name, name, place, bound=False)
            elif isinstance(owner, Instance):
                found |= self._offered(owner.class_name, name, place, bound=True)
            elif isinstance(owner, Scope):
                found |= owner.names.get(name, set())
                if isinstance(owner.node, ast.Module):
                    found |= self._module(f"{owner.module}.{name}")
                elif isinstance(owner.node, ast.ClassDef):
                    found |= self._inherited(owner, name, place)
            elif isinstance(owner, Many):
                found.add(owner)  # .values(), .pop() and so on
            elif isinstance(owner, Own) and owner.method is None:
                found |= owner.scope.attributes.get(name, set())
                found |= self._of_object(owner, name)
                found |= self._inherited(owner.scope, name, place)
        return frozenset(found)

    def _offered(self, owner: str, name: str, place: Place, *, bound: bool) -> Values:
        symbol = self._contract.member(owner, name)
        library = owner.partition(".")[0]
        known = symbol is not None or name in _OF_EVERYTHING
        if bound and any(place.text in guards for guards in self._guards):
            known |= self._is_of_subclass(owner, name)
        self._record("attribute", place, library, "" if known else f"{owner} has no {name!r}")
        if symbol is None:
            return NOTHING
        if symbol.kind == "value":
            return self._typed(symbol.type, symbol.name)
        return frozenset({Offered(symbol, bound and symbol.kind == "method")})

    def _is_of_subclass(self, class_name: str, name: str) -> bool:
        """Whether a class of the program with this base has the name: the program may have made the object."""
        found = (
            derived
            for base, derived in self._subclasses.items()
            if isinstance(base, Offered) and base.symbol.name == class_name
        )
        classes = (each for derived in found for each in derived if isinstance(each, Scope))
        return any(name in each.names or name in each.attributes for each in classes)

    def _of_object(self, owner: Own, name: str) -> Values:
        found: set[Value] = set()
        for derived in self._subclasses.get(owner.scope, set()):  # whose methods may override
            if isinstance(derived, Scope) and derived in self._constructed:
                found |= self._of_object(Own(derived), name)
        for value in owner.scope.names.get(name, set()):
            if isinstance(value, Scope) and isinstance(value.node, ast.FunctionDef):
                is_property = any("property" in ast.unparse(each) for each in value.node.decorator_list)
                found |= value.returned if is_property else {Own(owner.scope, value)}
        return frozenset(found)

    def _inherited(self, scope: Scope, name: str, place: Place) -> Values:
        """From base classes, unless the class itself has the name."""
        if name in scope.names or name in scope.attributes:
            return NOTHING
        found: set[Value] = set()
        for base in self._bases(scope):
            if isinstance(base, Scope):
                found |= self._attribute(frozenset({Own(base)}), name, place)
            elif isinstance(base, Offered) and base.symbol.kind == "class":
                found |= self._offered(base.symbol.name, name, place, bound=True)
        return frozenset(found)

    def _bases(self, scope: Scope) -> Values:
        assert isinstance(scope.node, ast.ClassDef)
        assert scope.parent is not None
        return frozenset().union(*(self._value(base, scope.parent) for base in scope.node.bases))

    def _mentioned(self, name: str, node: ast.expr, scope: Scope) -> None:
        """A name of an object that isn't known has to be one of the libraries that the module imports."""
        for library in sorted(self._imported_libraries(scope.file)):
            is_there = self._contract.libraries[library].mentions(name)
            outcome = "" if is_there else f"nothing in {library} is called {name!r}"
            self._record("attribute", place_of(scope, node, name), library, outcome)

    def _imported_libraries(self, file: str) -> set[str]:
        if file not in self._imported:
            tree = next(scope.node for scope in self.modules.values() if scope.file == file)
            names = {name.partition(".")[0] for node in ast.walk(tree) for name in _imported_modules(node)}
            self._imported[file] = names & self._contract.libraries.keys()
        return self._imported[file]


def _imported_modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [(node.module or "") if isinstance(node, ast.ImportFrom) else module_by_name(node)]
