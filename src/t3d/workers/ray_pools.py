"""Pools that run blocks of files on a Ray cluster, for `t3d.workers.ray_cluster.spread`.

Tasks watch processes that they start. Actors keep expensive objects, such as a model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from t3d.errors import ConfigError
from t3d.workers.pool import watched
from t3d.workers.ray_cluster import DEATHS, deaths_of_tasks, unfit

_BLOCK = 32  # files per process, so that its start, about a second, does not matter

# --- supervised processes -------------------------------------------------------------------------------


class WatchedTasks:
    """Tasks that each process a block of files in watched processes.

    Args:
        function: See `t3d.workers.cluster.outcomes`.
        workers: Processes per task. The same number of CPUs is reserved for it.
        timeout: Time limit per file, in seconds.

    Raises:
        ConfigError: No machine of the cluster has enough processors.
    """

    starting = ()

    def __init__(self, function: Callable[[Any], Any], *, workers: int, timeout: float) -> None:
        import ray

        self.block = _BLOCK * workers  # files that one task should get
        self._needs = {"CPU": float(workers)}
        _fits(self._needs)
        # `spread` handles retries.
        task = ray.remote(_watch).options(num_cpus=workers, num_returns="streaming", max_retries=0)
        self._start = partial(task.remote, function, workers=workers, timeout=timeout)
        self._running: set[Any] = set()

    def start(self, items: dict[int, Any]) -> Any:
        """Start a block. Ray gets a few more blocks than it has room for, so that no machine is idle."""
        if len(self._running) >= 2 * max(_room(self._needs), 1):
            return None
        stream = self._start(items=items)
        self._running.add(stream)
        return stream

    def ended(self, stream: Any, *, died: bool) -> None:  # noqa: ARG002 (a task leaves nothing behind)
        """Remove a task that has ended."""
        self._running.remove(stream)

    def close(self) -> None:
        """Stop all running tasks."""
        import ray

        for stream in self._running:
            ray.cancel(stream, force=True)


def _watch(
    function: Callable[[Any], Any], *, items: dict[int, Any], workers: int, timeout: float
) -> Iterator[tuple[int, Any]]:
    # Without this, the processes would run the main script of this one again, which would import Ray.
    vars(sys.modules["__main__"]).pop("__file__", None)
    work = partial(_on_second, function)
    pairs = list(items.items())
    for (number, _), outcome in watched(work, pairs, workers=workers, timeout=timeout, title=""):
        yield number, outcome


def _on_second(function: Callable[[Any], Any], pair: tuple[int, Any]) -> Any:
    return function(pair[1])


# --- actors ---------------------------------------------------------------------------------------------


class Actors:
    """Processes that create something expensive once, such as a model, and keep it for many blocks.

    Args:
        make: Called once in each process; returns a function from the items of a block to their outcomes.
        cpus: Processors reserved for each.
        gpus: GPUs reserved for each.
        most: Maximum number of processes.

    Raises:
        ConfigError: No machine of the cluster has enough of them.
        T3DError: They cannot be started.
    """

    def __init__(
        self, make: Callable[[], Callable[[list[Any]], Sequence[Any]]], *, cpus: int, gpus: int, most: int
    ) -> None:
        import ray

        needs = {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})
        _fits(needs)
        kind = ray.remote(_Holder).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        self._new = partial(kind.remote, make)
        self._starting: dict[Any, Any] = {}
        self._busy: dict[Any, Any] = {}
        self._failures = 0  # consecutive failures to start
        for _ in range(min(_room(needs), most)):
            self._hire()

    @property
    def starting(self) -> Sequence[Any]:
        """References; one of them is ready when an actor has started."""
        return list(self._starting)

    def start(self, items: dict[int, Any]) -> Any:
        """Send a block to an idle actor that has started.

        An actor that is still starting gets none: after the loss of a machine, it may never start.
        """
        import ray

        while self._starting and (ready := ray.wait(list(self._starting), timeout=0)[0]):
            actor = self._starting.pop(ready[0])
            try:
                ray.get(ready[0])
            except deaths_of_tasks() as error:
                self._failures += 1
                if self._failures >= DEATHS:
                    raise unfit(error) from error
                self._hire()
                continue
            self._failures = 0
            stream = actor.run.options(num_returns="streaming").remote(items)
            self._busy[stream] = actor
            return stream
        return None

    def ended(self, stream: Any, *, died: bool) -> None:
        """Return the actor to the pool, or replace it if it died."""
        import ray

        actor = self._busy.pop(stream)
        if died:
            ray.kill(actor)  # it may just be unreachable
        self._hire(None if died else actor)

    def close(self) -> None:
        """Stop all actors."""
        import ray

        for actor in [*self._starting.values(), *self._busy.values()]:
            ray.kill(actor)

    def _hire(self, actor: Any = None) -> None:
        actor = actor or self._new()
        self._starting[actor.is_up.remote()] = actor


class _Holder:
    def __init__(self, make: Callable[[], Callable[[list[Any]], Sequence[Any]]]) -> None:
        self._make = make
        self._function: Callable[[list[Any]], Sequence[Any]] | None = None

    def is_up(self) -> bool:
        return True

    def run(self, items: dict[int, Any]) -> Iterator[tuple[int, Any]]:
        # Not in the constructor: an error there would look like the death of a process.
        self._function = self._function or self._make()
        results = self._function(list(items.values()))
        # Ray sends values into the generator, which a zip does not support.
        yield from (each for each in zip(items, results, strict=True))


# --- room -----------------------------------------------------------------------------------------------


def _machines() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _room(needs: dict[str, float]) -> int:
    """Return the number of processes with such needs that the machines can run together."""
    return sum(min(int(there.get(what, 0) // much) for what, much in needs.items()) for there in _machines())


def _fits(needs: dict[str, float]) -> None:
    """Refuse needs that no machine can fulfill."""
    if _room(needs):
        return
    wanted = " and ".join(f"{much:g} {what}" for what, much in needs.items())
    largest = max((there.get("CPU", 0.0) for there in _machines()), default=0.0)
    raise ConfigError(
        f"no machine of the Ray cluster has {wanted}, which `workers` asks for; the largest has "
        f"{largest:g} CPU. Use fewer workers"
    )


def has_gpus() -> bool:
    """Return whether a machine of the cluster has a GPU."""
    return any(there.get("GPU", 0) for there in _machines())
