"""Local cache of remote shards: downloaded when they are needed, evicted when others need the room.

A folder of shards at `https://…` or `s3://…` has a copy on this machine. Its index is downloaded first, and a
shard when a video in it is read. All processes of a machine share the copy. Readers of a shard share its
lock, so that a shard in use is never evicted.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from t3d.errors import ConfigError, ManifestError
from t3d.io.cache_folder import cache_bytes, cache_folder
from t3d.io.files import URL_REASON, atomic_path
from t3d.io.locks import Lock, lock_unshared, share

FOLDER = "T3D_SHARDS"
"""Environment variable: folder for the copies. Default: `~/.cache/t3d/shards`."""
SIZE = "T3D_SHARDS_GB"
"""Environment variable: maximum size of the shards in that folder, in GB. Default: 100."""
INDEX = "index.parquet"
LIST = "shards.json"
_ORIGIN = "origin.json"
_TRIES = 100  # another process may evict a shard just after its download


class ShardCache:
    """The local copy of a remote folder of shards, which fills as its shards are read.

    Args:
        folder: The local folder, which `local_copy` made.
        url: The remote folder.
        query: Query string of the URL of each file, with its `?`.
    """

    def __init__(self, folder: Path, url: str, query: str = "") -> None:
        self.folder = folder
        self.url = url
        self.query = query
        try:
            shards = json.loads((folder / LIST).read_bytes())["shards"]
            self.shards: dict[str, tuple[int, str]] = {
                name: (int(row["bytes"]), str(row["sha256"])) for name, row in shards.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestError(
                f"{url}/{LIST}: not a finished list of t3d prepare shards ({error!r}); its copy is "
                f"{folder / LIST}"
            ) from error

    def open(self, name: str) -> BinaryIO:
        """Open a shard for reading. It is not evicted while it is open.

        Raises:
            FetchError: It cannot be downloaded.
            FileNotFoundError: There is no such shard.
            ConfigError: The maximum size of the cache is not a number, or too small for the shards in use.
        """
        path = self.folder / name
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                return _open_shared(path)
            self.bring(name)
        raise ConfigError(
            f"{path} is evicted as soon as it is downloaded: {SIZE} = {cache_bytes(SIZE) / 1e9:g} GB is too "
            "small for the shards that are read at the same time"
        )

    def bring(self, name: str) -> None:
        """Download a shard, unless it exists.

        Raises:
            FetchError: It cannot be downloaded.
            FileNotFoundError: There is no such shard.
            ConfigError: The maximum size of the cache is not a number.
        """
        from t3d.io.fetch import fetch

        if name not in self.shards:
            raise FileNotFoundError(2, "no such shard", f"{self.url}/{name}")
        path = self.folder / name
        if path.exists():
            return
        size, digest = self.shards[name]
        _make_room(self.folder.parent, size)
        fetch(f"{self.url}/{name}{self.query}", path, size=size, digest=digest)


def local_copy(name: str) -> str:
    """Download the index of remote shards.

    Args:
        name: Its URL.

    Returns:
        The path of its copy.

    Raises:
        ManifestError: The URL is not that of an index of shards.
        FetchError: It cannot be downloaded.
    """
    address, mark, rest = name.partition("?")
    base, _, last = address.rpartition("/")
    if last != INDEX:
        raise ManifestError(
            f"{address}: {URL_REASON}. Only shards are read from a URL, which must be that of their {INDEX}; "
            "`t3d prepare shards` writes it next to them"
        )
    from t3d.io.fetch import fetch

    query = mark + rest
    # The query of an http address may be a signature that changes daily; that of s3 names the server.
    place = base if base.startswith("http") else base + query
    folder = _home() / hashlib.sha256(place.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for each in (LIST, INDEX):
        if not (folder / each).exists():
            fetch(f"{base}/{each}{query}", folder / each)
    origin = json.dumps({"url": base, "query": query})
    if not (folder / _ORIGIN).exists() or (folder / _ORIGIN).read_text(encoding="utf-8") != origin:
        with atomic_path(folder / _ORIGIN) as temporary:
            temporary.write_text(origin, encoding="utf-8")
        if query or "@" in base:  # keeps a signature or a key from other users
            (folder / _ORIGIN).chmod(0o600)
    return str(folder / INDEX)


def open_shard(path: Path) -> BinaryIO:
    """Open a local or remote shard.

    Raises:
        OSError: It is missing.
        FetchError: It is remote and cannot be downloaded.
    """
    cache = shard_cache_of(path.parent)
    return path.open("rb") if cache is None else cache.open(path.name)


@lru_cache(maxsize=64)
def shard_cache_of(folder: Path) -> ShardCache | None:
    """Return the cache of a folder with copies of remote shards; None for any other folder.

    Raises:
        ManifestError: Its list of shards is corrupt.
    """
    try:
        origin = json.loads((folder / _ORIGIN).read_bytes())
    except OSError:
        return None
    return ShardCache(folder, origin["url"], origin["query"])


# --- room -------------------------------------------------------------------------------------------------


def _home() -> Path:
    return cache_folder(FOLDER, "shards")


class _SharedFile(io.FileIO):
    """A shard open for reading, with the lock that keeps it from being evicted."""

    def __init__(self, path: Path, reader: Lock | None) -> None:
        self._reader = reader
        super().__init__(path)

    def close(self) -> None:
        super().close()
        if self._reader is not None:
            self._reader.release()


def _open_shared(path: Path) -> BinaryIO:
    """Open a shard as one of its readers.

    Raises:
        FileNotFoundError: It is not in the cache, or was evicted.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        reader = share(path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        reader = None  # a cache without write permission: only its owner evicts
    try:
        file = io.BufferedReader(_SharedFile(path, reader))
    except BaseException:
        if reader is not None:
            reader.release()
        raise
    with suppress(OSError):
        os.utime(path)  # used now: the shard that was not used for longest is evicted first
    return file


def _make_room(home: Path, wanted: int) -> None:
    """Evict the shards that were not used for longest until another fits, those in use excepted."""
    shards = []
    for entry in home.glob("*/*.tar"):
        with suppress(FileNotFoundError):
            status = entry.stat()
            shards.append((status.st_mtime, status.st_size, entry))
    excess = sum(size for _, size, _ in shards) + wanted - cache_bytes(SIZE)
    for _, size, path in sorted(shards):
        if excess <= 0:
            return
        with suppress(OSError):
            held = lock_unshared(path)
            if held is not None:
                with held:
                    path.unlink()
                    excess -= size
