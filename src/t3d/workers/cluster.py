"""Bulk work in processes of this machine, or on the machines of a Ray cluster.

Either way, the outcome of every file is returned as soon as it is known, and only the calling process records
what was done. So an interrupted run resumes in the same way, on one machine or on many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from t3d.errors import ConfigError, did_you_mean
from t3d.progress import track
from t3d.workers.pool import Lost, watched

Kind = Literal["none", "ray"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cluster:
    """The machines that do bulk work.

    Args:
        kind: Machines to use: `none` works on this machine only, `ray` on the machines of a Ray cluster.
        ray_address: Ray cluster to join, `HOST:PORT` or `auto`. Default: the cluster that the environment
            variable `RAY_ADDRESS` names, or else one that is started on this machine for this command.

    Raises:
        ConfigError: There is no such kind, or an address is given without a cluster.

    Example:
        >>> Cluster("ray", "10.0.0.7:6379").kind
        'ray'
    """

    kind: Kind = "none"
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"cluster is {self.kind!r}; {did_you_mean(str(self.kind), get_args(Kind))}")
        if self.kind == "none" and self.ray_address is not None:
            raise ConfigError(f"ray_address is {self.ray_address}, but `cluster` is 'none'; set it to 'ray'")


ONE_MACHINE = Cluster()


def outcomes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    cluster: Cluster,
    workers: int,
    timeout: float,
    title: str,
) -> Iterator[tuple[Item, Result | Lost]]:
    """Call a function for each of many files in supervised processes, on this machine or a cluster.

    Args:
        function: The function; it and what it needs must be importable wherever it runs.
        items: Its arguments, one per file.
        cluster: The machines that work.
        workers: Processes on this machine; on a cluster, the processes of each task. The cluster runs as
            many tasks as it has room for.
        timeout: Time limit per file, in seconds.
        title: Title of the progress, see `t3d.progress`.

    Yields:
        Each item with its result or a `Lost`, as soon as it is known.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be joined or is too small.
        Exception: Any error that `function` raises: a bug is not a property of a file.

    Example:
        >>> list(outcomes(abs, [-3], cluster=ONE_MACHINE, workers=1, timeout=60, title="Counting"))
        [(-3, 3)]
    """
    if cluster.kind == "none":
        yield from watched(function, items, workers=workers, timeout=timeout, title=title)
        return
    from t3d.workers.ray_cluster import blocks_of, joined, spread
    from t3d.workers.ray_pools import WatchedTasks

    if not items:
        return
    with joined(cluster.ray_address):
        pool = WatchedTasks(function, workers=workers, timeout=timeout)
        yield from track(spread(pool, blocks_of(items, pool.block)), title, len(items))
