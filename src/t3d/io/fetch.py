"""Download one file: resumed, retried, checked, and complete or not created at all."""

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
from t3d.io.files import resumable_name, writing
from t3d.io.locks import lock
from t3d.io.remote import Opened, TransferError, open_remote

SCHEMES = ("http", "https", "s3", "gs", "file", "")
"""Schemes of the URLs that can be downloaded; the empty one is a path."""
_LONGEST_PAUSE = 60.0
_DIGESTS = {32: "md5", 64: "sha256"}  # by their hexadecimal digits


@dataclass(frozen=True)
class Retry:
    """Limits on the attempts of a download.

    Args:
        attempts: Attempts in a row without new bytes before the download fails.
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

    The file grows as `.NAME.resume.part` next to the target. The next call resumes it, even after a kill, if
    the server reports the same content; otherwise the download starts again. The target appears when the
    file is complete and checked. A target that exists is considered complete and is kept.

    Several threads and processes may fetch the same target: one downloads it, the others wait.

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
        FetchError: The file cannot be downloaded, is not the expected one, or does not fit on the disk.
        ConfigError: An option cannot work.
        WriteError: The target cannot be written. The next call resumes the download.

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
        raise FetchError(shown(url), f"only {allowed} and paths can be downloaded")
    part = resumable_name(target)
    note = part.with_name(f"{part.name}.json")
    with writing(target, part, note):
        target.parent.mkdir(parents=True, exist_ok=True)
        if _is_there(target, wanted):
            return
        held = lock(target, wait=True)
        assert held is not None
        with held:
            if not _is_there(target, wanted):  # or another one has just finished
                _download(target, part, note, wanted, progress)


def _download(
    target: Path,
    part: Path,
    note: Path,
    wanted: _Wanted,
    progress: Callable[[int, int | None], None] | None,
) -> None:
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
    """Return a URL for messages: without passwords and signatures.

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
        raise wanted.wrong(f"{target} is a folder; give a file name")
    if wanted.size not in (None, there):
        raise wanted.wrong(
            f"{target} exists with {there:,} bytes, but {wanted.size:,} are expected; remove it first"
        )
    return True


# --- the transfer ---------------------------------------------------------------------------------------


def _bring(
    wanted: _Wanted, file: BufferedRandom, note: Path, progress: Callable[[int, int | None], None] | None
) -> None:
    """Try until the file is complete."""
    failures, furthest = 0, _length(file)
    while True:
        try:
            return _attempt(wanted, file, note, progress or (lambda *_: None))
        except TransferError as error:
            length = _length(file)
            failures = 1 if length > furthest else failures + 1
            furthest = max(length, furthest)
            if error.lasting:
                raise wanted.wrong(str(error)) from error
            if failures >= wanted.retry.attempts:
                kept = f"; the first {length:,} bytes are kept and resumed" if length else ""
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
        length = remote.start
        progress(length, remote.size)
        for block in remote.blocks:
            length += len(block)
            if wanted.at_most is not None and length > wanted.at_most:
                file.truncate(0)
                raise TransferError(f"the server sends more than {wanted.at_most:,} bytes", lasting=True)
            file.write(block)
            progress(length, remote.size)
        file.flush()
    if remote.size is not None and length != remote.size:
        raise TransferError(f"received {length:,} of the {remote.size:,} bytes that the server announced")


def _accept(remote: Opened, wanted: _Wanted, folder: Path) -> None:
    """Refuse a file that cannot be the expected one, or cannot fit, before it is downloaded."""
    if remote.size is None:
        return
    if wanted.size not in (None, remote.size):
        raise TransferError(
            f"the server announces {remote.size:,} bytes, but {wanted.size:,} are expected", lasting=True
        )
    if wanted.at_most is not None and remote.size > wanted.at_most:
        raise TransferError(
            f"the server announces {remote.size:,} bytes; the limit is {wanted.at_most:,}", lasting=True
        )
    needed, free = remote.size - remote.start, shutil.disk_usage(folder).free
    if needed > free:
        raise TransferError(
            f"the download needs {needed:,} bytes, and {folder} has {free:,} bytes free", lasting=True
        )


def _length(file: BufferedRandom) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size


def _noted(note: Path, url: str) -> str | None:
    """Return the version of the content in the part file; None if it cannot be resumed."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # absent, or half-written
        state = json.loads(note.read_bytes())
        if state["url"] == _fingerprint(url) and isinstance(state["version"], str):
            return state["version"]
    return None


def _write_note(note: Path, url: str, version: str | None) -> None:
    note.write_text(json.dumps({"url": _fingerprint(url), "version": version}), encoding="utf-8")


def _fingerprint(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()  # a signed URL is as good as a password


def _check(wanted: _Wanted, file: BufferedRandom) -> None:
    """Compare the received file with the expected size and digest."""
    length = _length(file)
    if wanted.size not in (None, length):
        file.truncate(0)
        raise wanted.wrong(f"received {length:,} bytes, but {wanted.size:,} are expected; they were deleted")
    if wanted.digest is not None:
        name = _DIGESTS[len(wanted.digest)]
        file.seek(0)
        actual = hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
        if actual != wanted.digest:
            file.truncate(0)
            raise wanted.wrong(
                f"the {length:,} received bytes have {name} {actual}, but {wanted.digest} is expected; they "
                "were deleted. The publisher changed the file, or the transfer corrupted it"
            )
