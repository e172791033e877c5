"""Open a URL, starting at a given byte: http(s), object stores (s3, gs), local files."""

from __future__ import annotations

import re
import socket
import ssl
import string
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

_BLOCK = 1 << 20
_STORE_BLOCK = 8 << 20  # one s3 request per block
_PASSING = {408, 425, 429}  # besides 5xx: statuses after which another attempt may succeed


class TransferError(Exception):
    """One attempt failed.

    Args:
        reason: The reason, in one sentence.
        lasting: Whether another attempt would fail in the same way.
        wait: Seconds to wait before another attempt, as the server asks.
    """

    def __init__(self, reason: str, *, lasting: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.lasting = lasting
        self.wait = wait


@dataclass(frozen=True)
class Opened:
    """A file that is open for download.

    Args:
        start: Position of the first block in the file, in bytes.
        size: Size of the whole file in bytes; None if it is unknown.
        version: Mark that changes with the content. None if there is no such mark, so that the download
            cannot be resumed.
        blocks: The content from `start` on. Reading it raises `TransferError`.
    """

    start: int
    size: int | None
    version: str | None
    blocks: Iterator[bytes]


@contextmanager
def open_remote(url: str, *, offset: int = 0, version: str | None = None, timeout: float) -> Iterator[Opened]:
    """Open a URL.

    Args:
        url: `http://`, `https://`, `s3://`, `gs://`, `file://`, or a path.
        offset: Bytes of this `version` that were downloaded before.
        version: `Opened.version` of these bytes. If it has changed, the download starts at byte 0.
        timeout: Timeout of an http(s) server, in seconds.

    Yields:
        The file, open.

    Raises:
        TransferError: It cannot be opened.
    """
    scheme = urlsplit(url).scheme.lower()
    with (_open_http if scheme in ("http", "https") else _open_store)(
        url, offset if version else 0, version, timeout
    ) as opened:
        yield opened


# --- http ------------------------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        scheme = urlsplit(newurl).scheme
        if scheme not in allowed:
            raise TransferError(f"the server redirects from {req.type} to {scheme}: refused", lasting=True)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _open_http(url: str, offset: int, version: str | None, timeout: float) -> Iterator[Opened]:
    if "@" in urlsplit(url).netloc:
        raise TransferError("user name and password in a URL are not supported; remove them", lasting=True)
    headers = {"User-Agent": "t3d", "Accept-Encoding": "identity"}
    if offset and version:
        headers |= {"Range": f"bytes={offset}-", "If-Range": version}
    # Quotes spaces and non-ASCII letters; what is quoted already stays.
    request = urllib.request.Request(quote(url, safe=string.punctuation), headers=headers)
    try:
        response = urllib.request.build_opener(_Redirects).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416 or not offset:
                raise _refused(error) from error
            whole = error.headers.get("Content-Range") == f"bytes */{offset}"
            same = whole and _version(error.headers) in (version, None)
        if same:  # everything was downloaded before: no byte is left
            yield Opened(offset, offset, version, iter(()))
            return
        response = None
    except (OSError, HTTPException, ValueError) as error:
        raise _failed(error) from error
    if response is not None:
        with response:
            opened = _described(response, url, offset, version)
            if opened is not None:
                yield opened
                return
    with _open_http(url, 0, None, timeout) as opened:  # the content has changed since
        yield opened


def _described(response: HTTPResponse, url: str, offset: int, version: str | None) -> Opened | None:
    """Return the file of a response; None if it is not the content that was downloaded before."""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    packed = urlsplit(url).path.endswith(
        (".gz", ".tgz")
    )  # some servers declare the encoding gzip for a gzip file
    if encoding != "identity" and not packed:
        raise TransferError(
            f"the server sends the file encoded ({encoding}), against the request", lasting=True
        )
    now = _version(response.headers)
    if response.status == 200:  # also for a range, if the content has changed or the server has no ranges
        return Opened(0, response.length, now, _body(response))
    if response.status != 206 or not offset:
        raise TransferError(f"the server answers {response.status} {response.reason}", lasting=True)
    if now not in (version, None):
        return None
    content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if content_range is None or int(content_range[1]) != offset:
        raise TransferError("the server sends a different range than requested", lasting=True)
    return Opened(
        offset, None if content_range[2] == "*" else int(content_range[2]), version, _body(response)
    )


def _version(headers: Message) -> str | None:
    """Return the mark for If-Range: a strong ETag, or a time of change that no later change can share."""
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    try:
        changed, now = (parsedate_to_datetime(headers[name]) for name in ("Last-Modified", "Date"))
    except (TypeError, ValueError):  # absent, or no date
        return None
    return str(headers["Last-Modified"]) if (now - changed).total_seconds() >= 1 else None


def _body(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read1(_BLOCK):  # returns available bytes without waiting for a full block
            yield block
    except (OSError, HTTPException) as error:
        raise _failed(error) from error


def _refused(error: urllib.error.HTTPError) -> TransferError:
    passing = error.code in _PASSING or error.code >= 500
    asked = error.headers.get("Retry-After", "") if passing else ""
    reason = " ".join(str(error.reason).split())
    return TransferError(
        f"the server answers {error.code} {reason}",
        lasting=not passing,
        wait=float(asked) if asked.isdecimal() else 0.0,
    )


def _failed(error: Exception) -> TransferError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TransferError(
            f"its certificate is not trusted ({cause.verify_message}); if your own authority signed it, set "
            "SSL_CERT_FILE to the file of that authority",
            lasting=True,
        )
    if isinstance(cause, TimeoutError):
        return TransferError("the server stopped sending (timeout)")
    unknown = isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN
    lasting = unknown or isinstance(cause, InvalidURL | ValueError)
    reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return TransferError(reason or type(cause).__name__, lasting=lasting)


# --- object stores and local files -----------------------------------------------------------------------


@contextmanager
def _open_store(url: str, offset: int, version: str | None, _timeout: float) -> Iterator[Opened]:
    import pyarrow.fs as pafs

    filesystem, path = _store(url)

    def state() -> tuple[int, str]:
        info = _asked(lambda: filesystem.get_file_info(path))
        if info.type != pafs.FileType.File:
            kind = "a folder" if info.type == pafs.FileType.Directory else "missing"
            raise TransferError(f"it is {kind}", lasting=True)
        return info.size, f"{info.size} {info.mtime_ns}"

    size, now = state()
    start = offset if version == now else 0

    def blocks() -> Iterator[bytes]:
        if start:
            _asked(lambda: stream.seek(start))
        while block := _asked(lambda: stream.read(_STORE_BLOCK)):
            yield block
        if state()[1] != now:  # separate requests may return blocks of two versions
            raise TransferError("it changed while it was read")

    def opened() -> Any:
        if start:
            return filesystem.open_input_file(path)
        return filesystem.open_input_stream(path, compression=None)  # one request where the store can stream

    with _asked(opened) as stream:
        yield Opened(start, size, now, blocks())


def _store(url: str) -> tuple[Any, str]:
    import pyarrow.fs as pafs

    parts = urlsplit(url)
    if parts.scheme == "":
        return pafs.LocalFileSystem(), url
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise TransferError(
                f"file:// names a file of this machine, not of {parts.netloc}: file:///…", lasting=True
            )
        return pafs.LocalFileSystem(), urllib.request.url2pathname(parts.path)
    if "tls_verify_certificates" in parse_qs(parts.query, keep_blank_values=True):
        raise TransferError("certificates are always verified; remove tls_verify_certificates", lasting=True)
    filesystem, path = _asked(lambda: pafs.FileSystem.from_uri(url))
    return filesystem, path


def _asked(call: Callable[[], Any]) -> Any:
    import pyarrow as pa

    try:
        return call()
    except (FileNotFoundError, PermissionError, IsADirectoryError, pa.ArrowInvalid) as error:
        raise TransferError(_first_line(error), lasting=True) from error
    except (OSError, pa.ArrowException) as error:
        reason = _first_line(error)
        raise TransferError(reason, lasting="ACCESS_DENIED" in reason) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
