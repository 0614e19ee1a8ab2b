"""Who gets which part, and what becomes of the parts of workers that die or can't do them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.cluster import cluster as cluster_module
from engine.cluster.cluster import MOST_ATTEMPTS, MOST_STARTS, Cluster, Task
from engine.errors import ClusterError, EngineError, SourceError
from engine.video.frame_index import IrregularError
from tests.engine.cluster.ray_stand_in import Actor, Ray, RayError


class Job:
    """Some parts of ten frames, and what became of them."""

    def __init__(self, cluster: Cluster, parts: int) -> None:
        self.cluster = cluster
        self.done: list[Any] = []
        self.error: EngineError | None = None
        excluded: set[Any] = set()
        orders = {False: "for a CPU", True: "for a GPU"}
        firsts = range(0, 10 * parts, 10)
        self.tasks = [Task(orders, n, n + 10, self.done.append, self._fail, excluded) for n in firsts]
        for task in self.tasks:
            cluster.submit(task)

    def _fail(self, error: EngineError) -> None:
        self.error = error

    def run(self) -> list[int]:
        """First frames of the parts that are there at the end."""
        for _ in range(1000):
            if len(self.done) == len(self.tasks):
                break
            self.cluster.step(0)
            if self.error is not None:
                raise self.error
        return sorted(first for _, first, _ in self.done)


def made_cluster(
    monkeypatch: pytest.MonkeyPatch,
    nodes: dict[str, dict[str, float]],
    *,
    threads: int | None = 1,
    use_gpus: bool = True,
) -> tuple[Cluster, Ray]:
    ray = Ray(nodes)
    monkeypatch.setattr(cluster_module, "_connected", lambda address: ray)
    return Cluster("auto", threads=threads, use_gpus=use_gpus), ray


def test_parts_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}, "b": {"CPU": 1}})
    assert Job(cluster, 20).run() == list(range(0, 200, 10))
    assert len(ray.made) == 20
    assert {node for node, _ in ray.made} == {"a", "b"}
    assert ray.most_under_way == 2


@pytest.mark.parametrize(
    ("threads", "use_gpus", "expected"),
    [
        (None, True, [("cpu", 8, 0), ("gpu", 1, 1), ("gpu", 1, 1)]),
        (3, True, [("cpu", 3, 0), ("cpu", 3, 0), ("gpu", 1, 1), ("gpu", 1, 1)]),
        (None, False, [("cpu", 8, 0), ("gpu", 16, 0)]),
    ],
)
def test_workers_of_nodes(
    threads: int | None, use_gpus: bool, expected: list[tuple[str, float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {"cpu": {"CPU": 8.0}, "gpu": {"CPU": 16.0, "GPU": 2.0}, "head": {"memory": 1.0}}
    cluster, ray = made_cluster(monkeypatch, nodes, threads=threads, use_gpus=use_gpus)
    job = Job(cluster, 20)
    job.run()
    assert [(actor.node, actor.options["num_cpus"], actor.options["num_gpus"]) for actor in ray.actors] == expected
    assert ({order for order, _, _ in job.done} == {"for a CPU", "for a GPU"}) == use_gpus


def test_a_part_of_a_worker_that_dies_is_made_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}, "b": {"CPU": 1}})
    deaths = iter([True, False, False, True, True, False, False, True])

    def make(actor: Actor, order: Any, first: int, end: int) -> Any:
        if next(deaths, False):
            raise RayError("The actor died. Long story")
        return order, first, end

    ray.make = make
    assert Job(cluster, 10).run() == list(range(0, 100, 10))
    assert len(ray.actors) == 6


def test_a_part_that_kills_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}, "b": {"CPU": 1}})
    tried = []

    def make(actor: Actor, order: Any, first: int, end: int) -> Any:
        if first == 30:
            tried.append(actor.node)
            raise RayError("The actor died. Long story")
        return order, first, end

    ray.make = make
    with pytest.raises(ClusterError, match=r"workers died of frames 30 to 39: The actor died$"):
        Job(cluster, 10).run()
    assert len(tried) == MOST_ATTEMPTS


def test_a_worker_that_can_not_do_a_job_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}, "b": {"CPU": 1}})

    def make(actor: Actor, order: Any, first: int, end: int) -> Any:
        if actor.node == "a":
            raise SourceError("film.mp4 can't be read there")
        return order, first, end

    ray.make = make
    assert Job(cluster, 10).run() == list(range(0, 100, 10))
    assert {node for node, _ in ray.made} == {"b"}
    assert "worker on a: film.mp4 can't be read there" in caplog.text
    ray.make = lambda actor, order, first, end: (order, first, end)
    Job(cluster, 10).run()
    assert "a" in {node for node, _ in ray.made}  # another job may be another matter


def test_no_worker_can_do_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}, "b": {"CPU": 1}})

    def make(actor: Actor, order: Any, first: int, end: int) -> Any:
        raise SourceError("film.mp4 can't be read there")

    ray.make = make
    with pytest.raises(ClusterError, match=r"worker on .: film.mp4 can't be read there$"):
        Job(cluster, 10).run()


def test_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}, "b": {"CPU": 1}})

    def greet(actor: Actor) -> None:
        if actor.node in refusing:
            raise ClusterError("it has StreamGAN 0.0.1")

    ray.greet, refusing = greet, {"a"}
    Job(cluster, 10).run()
    assert {node for node, _ in ray.made} == {"b"}
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}, "b": {"CPU": 1}})
    ray.greet, refusing = greet, {"a", "b"}
    with pytest.raises(ClusterError, match=r"no worker can be used: worker on .: it has StreamGAN 0.0.1$"):
        Job(cluster, 10).run()


def test_a_worker_that_never_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}})

    def greet(actor: Actor) -> None:
        raise RayError("The actor died:\n  in a file\nModuleNotFoundError: No module named 'engine'\n")

    ray.greet = greet
    with pytest.raises(ClusterError, match=r"worker on a: ModuleNotFoundError: No module named 'engine'$"):
        Job(cluster, 1).run()
    assert len(ray.actors) == MOST_STARTS


def test_nodes_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_LOOK_SECONDS", -1.0)
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}})

    def make(actor: Actor, order: Any, first: int, end: int) -> Any:
        if first == 20:
            ray.resources = {"b": {"CPU": 1}}
        return order, first, end

    ray.make = make
    assert Job(cluster, 10).run() == list(range(0, 100, 10))
    assert {node for node, _ in ray.made} == {"a", "b"}


def test_frames_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job hears of it at once; what was under way is thrown away when its tasks are dropped."""
    cluster, ray = made_cluster(monkeypatch, {"a": {"CPU": 1}})

    def make(actor: Actor, order: Any, first: int, end: int) -> Any:
        if first == 20:
            raise IrregularError("frame 25 can't be decoded")
        return order, first, end

    ray.make = make
    job = Job(cluster, 10)
    with pytest.raises(IrregularError):
        job.run()
    cluster.drop(job.tasks)
    again = Job(cluster, 2)
    assert again.run() == [0, 10]
    assert len(job.done) == 2
