"""Where bulk work runs: in processes of this machine, or on the machines of a Ray cluster.

Both engines give the outcome of every file as it comes; the process that asked is the only one that writes
down what was done. So a run that was killed goes on in the same way whichever engine it had, or has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from t3d.errors import ConfigError, did_you_mean
from t3d.workers.pool import Lost, shown, watched

ENGINES = ("local", "ray")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Engine:
    """Which machines work.

    Args:
        name: `local`: this one. `ray`: those of a Ray cluster.
        address: The cluster to join, as `ray.init` takes it; None joins that of `RAY_ADDRESS`, or else starts
            one on this machine for as long as the work takes.

    Raises:
        ConfigError: There is no such engine, or an address without a cluster.

    Example:
        >>> Engine("ray", "10.0.0.7:6379").name
        'ray'
    """

    name: str = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise ConfigError(f"engine is {self.name!r}; {did_you_mean(self.name, ENGINES)}")
        if self.name == "local" and self.address is not None:
            raise ConfigError(f"ray_address {self.address} belongs to --engine ray; the engine is local")


LOCAL = Engine()


def outcomes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    engine: Engine,
    workers: int,
    patience: float,
    title: str,
) -> Iterator[tuple[Item, Result | Lost]]:
    """Call a function for each of many files in watched processes, here or on many machines.

    Args:
        function: What is called; it and what it needs must be importable wherever it runs.
        items: What it is called with, one a file.
        engine: Where.
        workers: Watched processes here; with Ray, those of each task, of which as many run as the cluster has
            room for.
        patience: Seconds after which a file is given up.
        title: What is being done, for the progress bar.

    Yields:
        Each item with its result, or with how it was lost, as they come.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be joined or is too small.
        Exception: What `function` raises: a mistake of ours is no fact about a file.

    Example:
        >>> list(outcomes(abs, [-3], engine=LOCAL, workers=1, patience=60, title="counting"))
        [(-3, 3)]
    """
    if engine.name == "local":
        yield from watched(function, items, workers=workers, patience=patience, title=title)
        return
    from t3d.workers.ray_cluster import blocks_of, joined, spread
    from t3d.workers.ray_pools import WatchedTasks

    if not items:
        return
    with joined(engine.address):
        pool = WatchedTasks(function, workers=workers, patience=patience)
        yield from shown(spread(pool, blocks_of(items, pool.block)), title, len(items))
