"""A stand-in for Ray, in which workers do at once what they are asked, and die when a test wants it."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"{cause}\nTraceback")
        self.cause = cause


class Reference:
    """A result that is not there before it is waited for."""

    def __init__(self, actor: Actor, call: Callable[[], Any]) -> None:
        self.actor = actor
        self.call = call


class Actor:
    """A worker on a node.

    Attributes:
        under_way: what it was asked and has not done.
    """

    def __init__(self, ray: Ray, node: str, options: dict[str, Any]) -> None:
        self.ray, self.node, self.options = ray, node, options
        self.under_way: list[Reference] = []
        self.greet = types.SimpleNamespace(remote=lambda versions: self._ask(lambda: ray.greet(self)))
        self.make = types.SimpleNamespace(
            remote=lambda order, first, end: self._ask(lambda: ray.make(self, order, first, end))
        )

    def _ask(self, call: Callable[[], Any]) -> Reference:
        self.under_way.append(Reference(self, call))
        self.ray.most_under_way = max(self.ray.most_under_way, len(self.under_way))
        return self.under_way[-1]


class Ray:
    """What `engine.cluster.cluster` uses of Ray.

    Args:
        nodes: name -> resources.

    Attributes:
        greet, make: what workers do; tests replace them.
        most_under_way: most calls that a worker had at a time.
        made: (node, first) of each part that was made.
    """

    exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, nodes: dict[str, dict[str, float]]) -> None:
        self.resources = nodes
        self.most_under_way = 0
        self.made: list[tuple[str, int]] = []
        self.actors: list[Actor] = []
        self.greet: Callable[[Actor], None] = lambda actor: None
        self.make: Callable[[Actor, Any, int, int], Any] = lambda actor, order, first, end: (order, first, end)
        affinity = types.SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
        self.util = types.SimpleNamespace(scheduling_strategies=affinity)
        self._turn = 0

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "Alive": True, "Resources": resources, "NodeManagerHostname": name}
            for name, resources in self.resources.items()
        ]

    def remote(self, **options: Any) -> Callable[[type], Any]:
        def start(node: str) -> Actor:
            self.actors.append(Actor(self, node, options))
            return self.actors[-1]

        def with_options(scheduling_strategy: str) -> Any:
            return types.SimpleNamespace(remote=lambda: start(scheduling_strategy))

        return lambda _: types.SimpleNamespace(options=with_options)

    def kill(self, actor: Actor) -> None:
        actor.under_way.clear()

    def wait(self, references: list[Reference], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        """Workers finish in turn."""
        self._turn += 1
        first = [reference for reference in references if reference is reference.actor.under_way[0]]
        return [first[self._turn % len(first)]], []

    def get(self, reference: Reference) -> Any:
        try:
            result = reference.call()
        except RayError:
            raise
        except Exception as error:
            raise RayTaskError(error) from error
        finally:
            reference.actor.under_way.remove(reference)
        if isinstance(result, tuple):
            self.made.append((reference.actor.node, result[1]))
        return result
