"""Bulk work on the machines of a Ray cluster: blocks of files are sent, and the outcome of each file returns.

A task watches the processes that read the files, as on a single machine: a file that crashes or hangs its
decoder costs that process, not the task. A task that still dies, perhaps with its machine, starts
again elsewhere with its remaining files. If that happens too often, each file gets its own task, to identify
the one that causes it. Only that file is lost, not the run.

This uses Ray's tasks and actors, not Ray Data. Ray Data retries a block whose process died without limit,
unless deprecated options are set, and drops a failed block without listing its files.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from t3d.errors import ConfigError, T3DError
from t3d.workers.pool import Lost

DEATHS = 3
"""Processes that may die over a block, and then over each of its files, before that file is lost."""
_KNOCK = 10.0  # seconds to wait for a connection
_STORE = 128 << 20  # bytes of shared memory of a cluster of our own: outcomes are small

Item = TypeVar("Item")


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Join a Ray cluster, or start one on this machine and stop it at the end of the block.

    Args:
        address: Address for `ray.init`. None uses `RAY_ADDRESS`, or else starts a cluster. If this process
            has already joined a cluster, that one is used.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be joined.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError('cluster ray needs Ray: pip install "t3d[ray]"') from error
    if ray.is_initialized():
        yield
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where.startswith("ray://"):
        raise ConfigError(
            f"ray_address is {where}; run this on a machine of the cluster, which must reach the files "
            "in any case, and give auto or HOST:PORT"
        )
    options: dict[str, Any] = {}
    if where == "local":
        os.environ.setdefault(
            "RAY_USAGE_STATS_ENABLED", "0"
        )  # no usage reports from a cluster that this process starts
        options = {"include_dashboard": False, "object_store_memory": _STORE}
    try:
        _knock(where)
        ray.init(address=where, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster at {where} ({error}); start one by: ray start --head, and give its HOST:PORT"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(where: str) -> None:
    """Check that a server listens at HOST:PORT; Ray alone would wait for many minutes.

    Raises:
        OSError: No server listens.
    """
    host, colon, port = where.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()


@dataclass
class Block(Generic[Item]):
    """Block of files for one process.

    Args:
        left: Files without an outcome yet, by number.
        deaths: Number of processes that died while working on them.
    """

    left: dict[int, Item]
    deaths: int = 0


def blocks_of(items: Sequence[Item], most: int) -> deque[Block[Item]]:
    """Divide files into blocks of consecutive files.

    Args:
        items: The files.
        most: Maximum number of files per block.

    Example:
        >>> [list(block.left.values()) for block in blocks_of("abcde", 2)]
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    firsts = range(0, len(items), most)
    return deque(Block(dict(enumerate(items[first : first + most], first))) for first in firsts)


class Pool(Protocol):
    """Runs blocks in other processes."""

    @property
    def starting(self) -> Sequence[Any]:
        """References; one of them is ready when there is room for another block."""

    def start(self, items: dict[int, Any]) -> Any:
        """Start a block: return a stream of references to (number, outcome), or None if there is no room."""

    def ended(self, stream: Any, *, died: bool) -> None:
        """Forget a stream that has ended."""

    def close(self) -> None:
        """Stop all running work."""


def spread(pool: Pool, blocks: deque[Block[Item]]) -> Iterator[tuple[Item, Any | Lost]]:
    """Process blocks with a pool, even if processes or machines die.

    Args:
        pool: Processes that do the work.
        blocks: All blocks; the queue is emptied.

    Yields:
        Each item once, with its outcome or a `Lost`, as soon as it is known.

    Raises:
        Exception: Any error that a task raises.
    """
    import ray

    deaths = deaths_of_tasks()
    running: dict[Any, Block[Item]] = {}
    room = True  # assumed; checking for every file is too expensive
    try:
        while blocks or running:
            while room and blocks and (stream := pool.start(blocks[0].left)) is not None:
                running[stream] = blocks.popleft()
            room = False
            # If no block is left to start, room does not matter.
            for ready in _ready([*running, *(pool.starting if blocks else ())]):
                if ready not in running:
                    room = True
                    continue
                try:
                    number, outcome = ray.get(next(ready))
                except StopIteration:
                    del running[ready]
                    pool.ended(ready, died=False)
                    room = True
                except deaths:
                    pool.ended(ready, died=True)
                    room = True
                    yield from _after_death(running.pop(ready), blocks)
                except ray.exceptions.RayTaskError as error:
                    raise _cause(error) from error
                else:
                    yield running[ready].left.pop(number), outcome
    finally:
        pool.close()


def _ready(waited_for: list[Any]) -> list[Any]:
    """Wait for one reference, and return all that are ready: fair, and one request for all of them."""
    import ray

    ray.wait(waited_for, num_returns=1)
    ready: list[Any] = ray.wait(waited_for, num_returns=len(waited_for), timeout=0)[0]
    return ready


def deaths_of_tasks() -> tuple[type[Exception], ...]:
    """Return the errors of tasks whose process or machine is gone."""
    from ray import exceptions

    return (
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.OutOfMemoryError,
        exceptions.ObjectLostError,
        exceptions.ActorDiedError,
        exceptions.ActorUnavailableError,
    )


def _after_death(block: Block[Item], blocks: deque[Block[Item]]) -> Iterator[tuple[Item, Lost]]:
    block.deaths += 1
    if block.deaths < DEATHS:
        blocks.append(block)
    elif len(block.left) > 1:
        blocks.extend(Block({number: item}) for number, item in block.left.items())
    else:
        for item in block.left.values():
            yield (
                item,
                Lost(
                    f"each of {DEATHS} processes that worked on it alone died, or its machine did. The file "
                    "may be damaged, or need more memory than the machine has"
                ),
            )


def _cause(error: Any) -> Exception:
    """Return the error of a task, as if it had been raised in this process."""
    cause: Exception = error.cause
    if isinstance(cause, ImportError) or "ModuleNotFoundError" in str(cause):  # Ray wraps it in several ways
        return unfit(cause)
    return cause


def unfit(error: Exception) -> T3DError:
    """Return the error for a machine that cannot run the code at all."""
    reason = str(error).strip().splitlines()[-1]
    return T3DError(
        f"a machine of the cluster cannot start its part ({reason}); install the same t3d on all of them"
    )
