"""Shards that lie behind a URL, brought here as they are needed and cleared away when others need the room.

A folder of shards at `https://…` or `s3://…` has a twin on this machine: its index is there at once, a shard
comes when a video in it is asked for. All processes of a machine share the twin. A shard that somebody reads
is locked, so that whoever makes room passes it by.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from t3d.errors import ConfigError, ManifestError
from t3d.io.files import atomic_path

FOLDER = "T3D_SHARDS"
"""Environment variable: the folder for twins; `~/.cache/t3d/shards` without it."""
SIZE = "T3D_SHARDS_GB"
"""Environment variable: largest size of the shards in that folder, in GB; 100 without it."""
INDEX = "index.parquet"
LIST = "shards.json"
_ORIGIN = "origin.json"
_TRIES = 100  # another process may make room of a shard just after it came


class Mirror:
    """The twin of a remote folder of shards.

    Args:
        folder: The twin, which `local_copy` made.
        url: The folder at its origin.
        query: What stands behind the URL of each file, from `?` on.
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
                f"{url}/{LIST}: is no finished list of t3d prepare shards ({error!r}); its copy is "
                f"{folder / LIST}"
            ) from error

    def open(self, name: str) -> BinaryIO:
        """Open a shard for reading; as long as it is open it stays.

        Raises:
            FetchError: It cannot be brought here.
            FileNotFoundError: There is no such shard.
        """
        path = self.folder / name
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                return _locked(path)
            self.bring(name)
        raise ConfigError(
            f"{path} is cleared away as soon as it comes: {SIZE} = {_room() / 1e9:g} GB is too small for "
            "what is read at one time"
        )

    def bring(self, name: str) -> None:
        """Bring a shard here, unless it is there.

        Raises:
            FetchError: It cannot be brought here.
            FileNotFoundError: There is no such shard.
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
    """Bring the index of remote shards here.

    Args:
        name: Its URL.

    Returns:
        The path of its copy.

    Raises:
        ManifestError: A URL of anything else.
        FetchError: It cannot be brought here.
    """
    address, mark, rest = name.partition("?")
    base, _, last = address.rpartition("/")
    if last != INDEX:
        raise ManifestError(
            f"{address}: of what lies behind a URL, T3D reads shards, by the {INDEX} that t3d prepare shards "
            "left beside them"
        )
    from t3d.io.fetch import fetch

    query = mark + rest
    # Behind an http address may stand what changes from day to day, a signature; behind s3, which server.
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
        if query or "@" in base:  # a signature or a key is nobody else's business
            (folder / _ORIGIN).chmod(0o600)
    return str(folder / INDEX)


def is_url(name: str) -> bool:
    """Whether a name is a URL and not a path.

    Example:
        >>> is_url("s3://bucket/shards/index.parquet"), is_url("C:/shards/index.parquet")
        (True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) is not None


def open_shard(path: Path) -> BinaryIO:
    """Open a shard, wherever it is.

    Raises:
        OSError: It is not there.
        FetchError: It lies behind a URL and cannot be brought here.
    """
    mirror = mirror_of(path.parent)
    return path.open("rb") if mirror is None else mirror.open(path.name)


@lru_cache(maxsize=64)
def mirror_of(folder: Path) -> Mirror | None:
    """The mirror that a folder is; None for a folder with shards of its own.

    Raises:
        ManifestError: Its list of shards is damaged.
    """
    try:
        origin = json.loads((folder / _ORIGIN).read_bytes())
    except OSError:
        return None
    return Mirror(folder, origin["url"], origin["query"])


# --- room -------------------------------------------------------------------------------------------------


def _home() -> Path:
    return Path(os.environ.get(FOLDER) or "~/.cache/t3d/shards").expanduser().absolute()


def _room() -> float:
    """Bytes that shards may take."""
    given = os.environ.get(SIZE) or "100"
    try:
        room = float(given) * 1e9
    except ValueError:
        room = 0.0
    if not room > 0:
        raise ConfigError(f"{SIZE} is {given!r}; it must be a number of GB above 0, such as 100")
    return room


def _locked(path: Path) -> BinaryIO:
    file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_nlink == 0:  # cleared away between opening and locking
            raise FileNotFoundError(path)
        with suppress(OSError):
            os.utime(path)  # used now: what was not used for longest makes room
    except BaseException:
        file.close()
        raise
    return file


def _make_room(home: Path, wanted: int) -> None:
    """Clear away the shards that were not used for longest until another fits, those in use excepted."""
    there = []
    for entry in home.glob("*/*.tar"):
        with suppress(FileNotFoundError):
            status = entry.stat()
            there.append((status.st_mtime, status.st_size, entry))
    over = sum(size for _, size, _ in there) + wanted - _room()
    for _, size, path in sorted(there):
        if over <= 0:
            return
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            over -= size
