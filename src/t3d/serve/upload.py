"""Upload of a video: from the network into a file, with bounds on size and time, never in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from t3d.errors import WriteError, printable, shortened
from t3d.io.files import writing
from t3d.serve.config import MB, ServeConfig
from t3d.serve.refusal import Refusal, no_space

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "video"
"""Name of the form field that holds the file."""
_ESCAPED = {"%22": '"', "%0D": " ", "%0A": " "}  # as browsers and curl write them in a form
_AROUND = 64 * 1024  # bytes of a form that are not the file
_MOST_PARTS = 8  # of a form
_MOST_HEADERS = 8 * 1024  # bytes of the headers of a part
_BLOCK = 1_000_000  # bytes that are written together
_CLOSE = {"Connection": "close"}  # the rest of the upload is not read
_LONGEST_NAME = 100


async def receive(
    chunks: AsyncIterator[bytes],
    file: Path,
    *,
    content_type: str,
    config: ServeConfig,
    claim: Callable[[int], Awaitable[None]],
) -> str:
    """Write the file of a form to the disk. If it is refused, no file is left.

    Args:
        chunks: The body of the request.
        file: Where to write.
        content_type: Header Content-Type of the request.
        config: The options of the server.
        claim: Called with a number of bytes before they are written; it makes space for them.

    Returns:
        Name of the file, for display only.

    Raises:
        Refusal: The upload is too large or too slow, is cut off, or is not a form with one file.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refusal(
            415,
            f"Got {shortened(printable(content_type), 60) or 'nothing'}; send a form (multipart/form-data) "
            f"with the file as `{FIELD}`, for example with `curl -F {FIELD}=@FILE`.",
            _CLOSE,
        )
    try:
        async with asyncio.timeout(config.upload_timeout):
            return await _write(chunks, file, options[b"boundary"], config, claim)
    except TimeoutError:
        raise Refusal(
            408,
            f"The upload took longer than {config.upload_timeout:g} s, the limit of this server. Send a "
            "smaller file.",
            _CLOSE,
        ) from None
    except ClientDisconnect:
        raise Refusal(400, "The upload was cut off.", _CLOSE) from None
    except FormParserError as error:
        raise Refusal(400, "The form is damaged. Send the file again.", _CLOSE) from error
    except WriteError as error:
        raise no_space(_CLOSE) from error


async def _write(
    chunks: AsyncIterator[bytes],
    file: Path,
    boundary: bytes,
    config: ServeConfig,
    claim: Callable[[int], Awaitable[None]],
) -> str:
    form = _Form(config.max_bytes)
    parser = MultipartParser(boundary, form.callbacks())
    received = 0
    with writing(file), file.open("xb") as target:

        async def flush() -> None:
            block = form.take()
            await claim(len(block))
            await asyncio.to_thread(target.write, block)  # other visitors do not wait for the disk

        async for chunk in chunks:
            received += len(chunk)
            parser.write(chunk)
            if form.is_too_large:
                raise too_large(config)
            if received - form.size > _AROUND:
                message = f"The form holds more than the file. Send only the field `{FIELD}`."
                raise Refusal(413, message, _CLOSE)
            if form.waiting >= _BLOCK:
                await flush()
        if not form.is_complete:
            raise Refusal(400, "The upload was cut off. Send the file again.", _CLOSE)
        await flush()
    if form.name is None:
        message = f"The form has no file. Send it as the field `{FIELD}`, as `curl -F {FIELD}=@FILE` does."
        raise Refusal(422, message)
    if form.size == 0:
        raise Refusal(422, "The file is empty (0 bytes). Send a video.")
    return form.name


def largest(length: str | None, config: ServeConfig) -> int:
    """Return how many bytes an upload can have, by the headers of its request.

    Args:
        length: Header Content-Length of the request. It may be missing.
        config: The options of the server.

    Raises:
        Refusal: It is too large.
    """
    if length is None or not (length.isascii() and length.isdigit()):
        return config.max_bytes
    if len(length) > 18 or int(length) > config.max_bytes + _AROUND:
        raise too_large(config)
    return min(int(length), config.max_bytes)


def too_large(config: ServeConfig) -> Refusal:
    """Return the refusal of an upload that is too large."""
    return Refusal(
        413,
        f"The file is larger than {config.max_bytes / MB:g} MB, the limit of this server. Send a shorter or "
        "smaller video.",
        _CLOSE,
    )


def display_name(name: str) -> str:
    r"""Return the name of a file for display: without folders and control characters, and not too long.

    The file on the disk never has this name.

    Example:
        >>> [display_name(name) for name in ("../../etc/a.mp4", "C:\\me\\b.mov", "", "x\0y.avi")]
        ['a.mp4', 'b.mov', 'video', 'x\\x00y.avi']
    """
    last = name.replace("\\", "/").rpartition("/")[2].strip()
    return shortened(printable(last), _LONGEST_NAME) or "video"


class _Form:
    """Receiver of the parts of a form. The first part with the right name is the file."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._field = self._value = b""
        self._is_file = False
        self._blocks: list[bytes] = []
        self.waiting = 0  # bytes of the file that are not taken
        self.name: str | None = None
        self.size = 0
        self.is_complete = False

    @property
    def is_too_large(self) -> bool:
        return self.size > self._most

    def take(self) -> bytes:
        """Return the bytes of the file since the last call."""
        taken = b"".join(self._blocks)
        self._blocks, self.waiting = [], 0
        return taken

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers, self._field, self._value, self._is_file = {}, b"", b"", False
        self._header_bytes = 0
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise Refusal(400, f"The form has more than {_MOST_PARTS} parts. Send only the file.", _CLOSE)

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > _MOST_HEADERS:
            raise Refusal(400, "The headers within the form are too long. Send the file again.", _CLOSE)

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if self.name is None and options.get(b"name") == FIELD.encode() and b"filename" in options:
            name = options[b"filename"].decode("utf-8", "replace")
            for code, char in _ESCAPED.items():
                name = name.replace(code, char)
            self.name = display_name(name)
            self._is_file = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file:
            return
        self.size += end - start
        if not self.is_too_large:
            self._blocks.append(data[start:end])
            self.waiting += end - start

    def _end(self) -> None:
        self.is_complete = True
