"""Bring one file from a URL to its final name: resumed, retried, checked, and whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from t3d.errors import ConfigError, FetchError, at_least
from t3d.io.files import resumable_name
from t3d.io.locks import lock
from t3d.io.remote import Opened, TransferError, open_remote

SCHEMES = ("http", "https", "s3", "gs", "file", "")
"""What a URL may begin with; nothing stands for a path."""
_LONGEST_PAUSE = 60.0
_DIGESTS = {32: "md5", 64: "sha256"}  # by their hexadecimal digits


@dataclass(frozen=True)
class Retry:
    """How long a download is tried.

    Args:
        attempts: Attempts in a row that bring no new bytes before the download fails.
        pause: Seconds before the second attempt. Each further pause is twice as long, up to a minute.
        timeout: Seconds in which an http(s) server must answer or send something.

    Raises:
        ConfigError: `attempts` is below 1.
    """

    attempts: int = 5
    pause: float = 1.0
    timeout: float = 60.0

    def __post_init__(self) -> None:
        at_least("attempts", self.attempts, 1)


RETRY = Retry()


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    digest: str | None = None,
    at_most: int | None = None,
    retry: Retry = RETRY,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Download one file to its final name.

    The file grows as `.NAME.resume.part` beside the target. The next call resumes it, after a kill too, if
    the server says that the content is still the same; otherwise the download starts again. The target
    appears when the whole file is there and was checked. A target that exists is taken to be whole, and
    stays.

    Threads and processes may fetch one target at once: one downloads it, the others wait.

    Without `size` or `digest`, a file can only be compared with the length that the server announces. HTTP
    hides bytes after that length, and some servers announce none.

    Args:
        url: `http://`, `https://` (certificates are verified, and redirects to http refused), `s3://` and
            `gs://` as `pyarrow.fs.FileSystem.from_uri` takes them, `file://`, or a path.
        target: The final name; its folder is made if it is missing.
        size: Bytes that the file must have.
        digest: Its SHA-256 or MD5, as 64 or 32 hexadecimal digits.
        at_most: Largest number of bytes that are accepted.
        retry: How often, and how long, a download is tried.
        progress: Called with the bytes downloaded so far and the bytes of the whole file, or None.

    Raises:
        FetchError: The file cannot be had, is not the one that is wanted, or does not fit on the disk.
        ConfigError: An option cannot work.
        OSError: The target cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "there.txt").write_text("whole")
        >>> fetch((folder / "there.txt").as_uri(), folder / "here.txt", size=5)
        >>> (folder / "here.txt").read_text()
        'whole'
    """
    wanted = _Wanted(url, size, _checked_digest(digest), at_most, retry)
    if _scheme(url) not in SCHEMES:
        allowed = ", ".join(f"{scheme}://" for scheme in SCHEMES if scheme)
        raise FetchError(shown(url), f"only {allowed} and paths can be fetched")
    target.parent.mkdir(parents=True, exist_ok=True)
    if _is_there(target, wanted):
        return
    held = lock(target, wait=True)
    assert held is not None
    with held:
        if not _is_there(target, wanted):  # or another one has just finished
            _download(target, wanted, progress)


def _download(target: Path, wanted: _Wanted, progress: Callable[[int, int | None], None] | None) -> None:
    part = resumable_name(target)
    note = part.with_name(f"{part.name}.json")
    with part.open("a+b") as file:
        try:
            _bring(wanted, file, note, progress)
            _check(wanted, file)
            os.fsync(file.fileno())  # else a power failure may leave the final name without content
        except BaseException:
            if not _length(file):
                part.unlink()
                note.unlink(missing_ok=True)
            raise
    part.replace(target)
    note.unlink(missing_ok=True)


def shown(url: str) -> str:
    """A URL as it may be read by others: without what may hold passwords and signatures.

    Example:
        >>> shown("https://me:secret@example.org/a.tar?signature=1")
        'https://example.org/a.tar?…'
    """
    if not _scheme(url):
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as error:  # such as an IPv6 address without its second bracket
        raise FetchError(url, f"this is not a URL: {error}") from error


@dataclass(frozen=True)
class _Wanted:
    url: str
    size: int | None
    digest: str | None
    at_most: int | None
    retry: Retry

    def wrong(self, reason: str) -> FetchError:
        return FetchError(shown(self.url), reason)


def _checked_digest(digest: str | None) -> str | None:
    if digest is None:
        return None
    if len(digest) not in _DIGESTS or set(digest.lower()) - set("0123456789abcdef"):
        raise ConfigError(
            f"digest is {digest!r}; it must be a SHA-256 (64 hexadecimal digits) or an MD5 (32 of them)"
        )
    return digest.lower()


def _is_there(target: Path, wanted: _Wanted) -> bool:
    try:
        there = target.stat().st_size
    except FileNotFoundError:
        return False
    if target.is_dir():
        raise wanted.wrong(f"{target} is a folder; give the name of a file")
    if wanted.size not in (None, there):
        raise wanted.wrong(
            f"{target} is there with {there:,} bytes, but {wanted.size:,} are wanted; take it away first"
        )
    return True


# --- what comes ------------------------------------------------------------------------------------------


def _bring(
    wanted: _Wanted, file: BufferedRandom, note: Path, progress: Callable[[int, int | None], None] | None
) -> None:
    """Try until all has come."""
    failures, furthest = 0, _length(file)
    while True:
        try:
            return _attempt(wanted, file, note, progress or (lambda *_: None))
        except TransferError as error:
            here = _length(file)
            failures = 1 if here > furthest else failures + 1
            furthest = max(here, furthest)
            if error.lasting:
                raise wanted.wrong(str(error)) from error
            if failures >= wanted.retry.attempts:
                kept = f"; the first {here:,} bytes are kept for another try" if here else ""
                raise wanted.wrong(f"{error}, after {failures} attempts{kept}") from error
            time.sleep(min(max(wanted.retry.pause * 2 ** (failures - 1), error.wait), _LONGEST_PAUSE))


def _attempt(
    wanted: _Wanted, file: BufferedRandom, note: Path, progress: Callable[[int, int | None], None]
) -> None:
    version = _noted(note, wanted.url)
    with open_remote(
        wanted.url, offset=_length(file), version=version, timeout=wanted.retry.timeout
    ) as remote:
        file.truncate(remote.start)  # before the note is written, which speaks of what is in the file
        _accept(remote, wanted, note.parent)
        if remote.start == 0:
            _write_note(note, wanted.url, remote.version)
        here = remote.start
        progress(here, remote.size)
        for block in remote.blocks:
            here += len(block)
            if wanted.at_most is not None and here > wanted.at_most:
                file.truncate(0)
                raise TransferError(f"more than {wanted.at_most:,} bytes come", lasting=True)
            file.write(block)
            progress(here, remote.size)
        file.flush()
    if remote.size is not None and here != remote.size:
        raise TransferError(f"{here:,} bytes came, of {remote.size:,} that the server announced")


def _accept(remote: Opened, wanted: _Wanted, folder: Path) -> None:
    """Refuse what need not even begin to come."""
    if remote.size is None:
        return
    if wanted.size not in (None, remote.size):
        raise TransferError(
            f"the server announces {remote.size:,} bytes, but {wanted.size:,} are wanted", lasting=True
        )
    if wanted.at_most is not None and remote.size > wanted.at_most:
        raise TransferError(
            f"the server announces {remote.size:,} bytes; at most {wanted.at_most:,} are taken", lasting=True
        )
    needed, free = remote.size - remote.start, shutil.disk_usage(folder).free
    if needed > free:
        raise TransferError(f"{needed:,} bytes are to come, {free:,} are free in {folder}", lasting=True)


def _length(file: BufferedRandom) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size


def _noted(note: Path, url: str) -> str | None:
    """The version of what is in the part file; None if it cannot be continued."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # absent, or half-written
        found = json.loads(note.read_bytes())
        if found["url"] == _fingerprint(url) and isinstance(found["version"], str):
            return found["version"]
    return None


def _write_note(note: Path, url: str, version: str | None) -> None:
    note.write_text(json.dumps({"url": _fingerprint(url), "version": version}), encoding="utf-8")


def _fingerprint(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()  # a signed URL is as good as a password


def _check(wanted: _Wanted, file: BufferedRandom) -> None:
    """Compare what came with what is wanted."""
    here = _length(file)
    if wanted.size not in (None, here):
        file.truncate(0)
        raise wanted.wrong(f"{here:,} bytes came, but {wanted.size:,} are wanted; they were deleted")
    if wanted.digest is not None:
        name = _DIGESTS[len(wanted.digest)]
        file.seek(0)
        found = hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
        if found != wanted.digest:
            file.truncate(0)
            raise wanted.wrong(
                f"the {here:,} bytes that came have {name} {found}, but {wanted.digest} is wanted; they were "
                "deleted. The file was changed by its publisher, or damaged on its way"
            )
