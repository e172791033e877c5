"""Local cache of videos with a URL: downloaded when they are read, evicted when others need the room.

The path of a copy is made of the URL alone, so that every process finds it and can tell the URL from it:
`~/.cache/t3d/videos/https/example.org%2Fclips%2Fa.mp4`. Lists and indexes hold the URL.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from t3d.errors import FetchError, ManifestError, VideoError
from t3d.io.cache_folder import cache_bytes, cache_folder
from t3d.io.files import content_digest, is_url

FOLDER = "T3D_VIDEOS"
"""Environment variable: folder for the copies. Default: `~/.cache/t3d/videos`."""
SIZE = "T3D_VIDEOS_GB"
"""Environment variable: maximum size of the videos in that folder, in GB. Default: 100."""
SCHEMES = ("http", "https", "s3", "gs", "file")
_LONGEST = 180  # bytes of a name, so that its lock and its unfinished download have valid names, too
_GOES_ON = "%_"  # ends the name of a folder that holds the rest of a long URL; never part of a quoted URL
_IN_USE = 10.0  # seconds since its last use for which a copy is not evicted
_SHARE = 0.05  # of the free room: what a process writes before it measures the folder again
PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<!--", b"<?xml", b"<svg", b"<error")
_free: dict[Path, float] = {}  # bytes that this process may write before it measures a folder again


def local_path(url: str) -> str:
    """Return the path of the local copy of a URL, whether it exists or not; of `file://`, the file itself.

    Raises:
        ManifestError: The URL has another scheme than `SCHEMES`, or names no file of this machine.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ManifestError(f"{url}: not a URL ({error})") from error
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        raise ManifestError(f"{url}: videos cannot be read from {scheme}://; use {allowed} or a path")
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ManifestError(f"{url}: file:// names a file of this machine; write file:///…")
        return os.path.normpath(url2pathname(parts.path))
    if not parts.netloc or not parts.path.strip("/"):
        raise ManifestError(f"{url}: names no file; give the URL of one video")
    rest = quote(url.partition("://")[2], safe="")
    names = [rest[at : at + _LONGEST] for at in range(0, len(rest), _LONGEST)]
    if not names[-1].strip("."):
        names[-1] = names[-1].replace(".", "%2E")
    folders = [name + _GOES_ON for name in names[:-1]]
    return str(Path(_home(), scheme, *folders, names[-1]))


def original(path: str) -> str:
    """Return the URL of a local copy; any other path as it is.

    Example:
        >>> original(local_path("https://example.org/a.mp4")), original("/videos/a.mp4")
        ('https://example.org/a.mp4', '/videos/a.mp4')
    """
    prefix = prefix_of_copies()
    if not path.startswith(prefix):
        return path
    scheme, *names = path[len(prefix) :].split(os.sep)  # noqa: PTH206 (of a million paths)
    return f"{scheme}://" + unquote("".join(name.removesuffix(_GOES_ON) for name in names))


def prefix_of_copies() -> str:
    """Return what the paths of all local copies begin with."""
    return str(_home()) + os.sep


def is_copy(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is that of a local copy of a URL, downloaded or not."""
    return os.fspath(path).startswith(prefix_of_copies())


def shown_path(path: str) -> str:
    """Return a path for messages and pages. A URL, also that of a local copy, has no password and no query.

    Example:
        >>> shown_path("https://me:secret@example.org/a.mp4?signature=1"), shown_path("/videos/a.mp4?")
        ('https://example.org/a.mp4?…', '/videos/a.mp4?')
    """
    from t3d.io.fetch import shown

    path = original(path)
    return shown(path) if is_url(path) else path


def ensure_local(path: Path) -> None:
    """Download the URL of a local copy, unless it is here. Other paths are left alone.

    Raises:
        VideoError: It cannot be downloaded, or is not a video.
        ConfigError: The maximum size of the cache is not a number.
    """
    if not is_copy(path):
        return
    if path.exists():
        with suppress(OSError):  # of another user
            os.utime(path, (time.time(), path.stat().st_mtime))  # used now; others are evicted first
        return
    from t3d.io.fetch import Retry, fetch, shown

    url, room = original(str(path)), cache_bytes(SIZE)
    try:
        _home().mkdir(parents=True, exist_ok=True, mode=0o700)  # a URL may hold a signature
        fetch(url, path, at_most=int(room), retry=Retry(attempts=3, timeout=30.0))
        reason = _not_a_video(path)
        if reason:
            path.unlink()
            raise VideoError(path, f"{shown(url)}: {reason}")
        # Of equal content, the time is equal too: an index still knows a file that was evicted in between.
        content = int(content_digest(path)[:7], 16)
        os.utime(path, (time.time(), content))
        _make_room(path, room)
    except FetchError as error:
        hint = f", which {SIZE} sets" if f"{int(room):,}" in error.reason else ""
        raise VideoError(path, f"{error.url} cannot be downloaded: {error.reason}{hint}") from error
    except OSError as error:
        raise VideoError(path, f"{shown(url)} cannot be written to {_home()}: {error.strerror}") from error


def _not_a_video(path: Path) -> str | None:
    """Return why a file is what servers send instead of a video; None if it may be one."""
    with path.open("rb") as file:
        head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return "the server sends an empty file"
    if head.startswith(b"#extm3u") or b"<mpd" in head:
        return "is a playlist of a stream (HLS or DASH); give the URL of a video file"
    if head.startswith(PAGES):
        return (
            "the server sends a web page instead of a video; give the address of the file itself, or "
            "download it with your login first"
        )
    if head.startswith((b"{", b"[")):
        return "the server sends JSON instead of a video; give the address of the file itself"
    return None


def _home() -> Path:
    return cache_folder(FOLDER, "videos")


def _make_room(new: Path, room: float) -> None:
    """Evict the copies that were not used for longest, if all are larger than the room."""
    home = _home()
    _free[home] = _free.get(home, 0.0) - new.stat().st_size
    if _free[home] >= 0:
        return
    copies = []
    for folder, _, names in os.walk(home):
        for name in names:
            with suppress(OSError):
                path = Path(folder, name)
                status = path.stat()
                if not name.startswith("."):  # locks and unfinished downloads
                    copies.append((status.st_atime, status.st_size, path))
    excess = sum(size for _, size, _ in copies) - room
    for used, size, path in sorted(copies):
        if excess <= 0:
            break
        if used < time.time() - _IN_USE:
            with suppress(OSError):
                path.unlink()
                excess -= size
    _free[home] = max(-excess, 0.0) * _SHARE


def local_name(name: str | os.PathLike[str]) -> str:
    """Return a path as it is, and of a URL the path of its local copy."""
    text = os.fspath(name)
    return local_path(text) if is_url(text) else text
