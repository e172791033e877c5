"""Download the shards of an epoch before their videos are needed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from t3d.errors import T3DError
from t3d.io.shard_cache import shard_cache_of

_SHARDS_AHEAD = 4  # shards that are downloaded ahead, besides those in use


@dataclass(frozen=True)
class Shards:
    """Shards of videos.

    Args:
        of_row: Number of each video's shard, int64 [N].
        paths: The shards, by number.
    """

    of_row: npt.NDArray[np.int64]
    paths: Sequence[Path]

    @property
    def remote(self) -> bool:
        """Return whether a shard is a local copy of a remote one."""
        return any(shard_cache_of(folder) is not None for folder in {path.parent for path in self.paths})


def needs(order: npt.NDArray[np.int64], shards: Shards) -> list[tuple[int, Path]]:
    """Return the first place in an epoch at which each shard is needed.

    Args:
        order: Rows in the order of reading, int64 [N].
        shards: Shards of the rows.

    Returns:
        Place and shard, sorted by place.

    Example:
        >>> shards = Shards(np.array([0, 1, 1, 0]), [Path("a.tar"), Path("b.tar")])
        >>> [(place, path.name) for place, path in needs(np.array([2, 3, 1]), shards)]
        [(0, 'b.tar'), (1, 'a.tar')]
    """
    numbers, first = np.unique(shards.of_row[order], return_index=True)
    return sorted((int(place), shards.paths[number]) for number, place in zip(numbers, first, strict=True))


class Prefetcher:
    """Thread that downloads remote shards in the order in which they are needed; a context manager.

    It ignores failures: the reader that needs the shard tries again and reports the error.

    Args:
        order: Rows in the order in which this process reads them, int64 [N].
        shards: Shards of the rows. Local shards are ignored.
    """

    def __init__(self, order: npt.NDArray[np.int64], shards: Shards) -> None:
        self._needs = [
            (at, path) for at, path in needs(order, shards) if shard_cache_of(path.parent) is not None
        ]
        self._lead = _SHARDS_AHEAD * len(order) / max(len(self._needs), 1)
        self._place = 0
        self._stopped = False
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="shards ahead", daemon=True)

    def at(self, place: int) -> None:
        """Report the number of videos that were read."""
        with self._moved:
            self._place = place
            self._moved.notify()

    def __enter__(self) -> Prefetcher:
        if self._needs:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._moved:
            self._stopped = True
            self._moved.notify()

    def _run(self) -> None:
        for place, path in self._needs:
            with self._moved:
                while not self._stopped and place > self._place + self._lead:
                    self._moved.wait()
                if self._stopped:
                    return
            cache = shard_cache_of(path.parent)
            assert cache is not None
            with suppress(T3DError, OSError):
                cache.bring(path.name)
