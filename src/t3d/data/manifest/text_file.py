"""Text of a list in the encodings that spreadsheets and editors write."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from pathlib import Path

from t3d.errors import ManifestError

_MARKS = (  # UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 4096


@dataclass(frozen=True)
class TextFile:
    """A text file.

    Args:
        name: Its path, for messages.
        text: Its text, without a byte-order mark.
        encoding: `UTF-8`, `UTF-16` or `UTF-32`.
    """

    name: str
    text: str
    encoding: str = "UTF-8"


def read_text(file: str | os.PathLike[str]) -> TextFile:
    """Read a text file that is UTF-8, or UTF-16 or UTF-32 as spreadsheets export it.

    Raises:
        ManifestError: It cannot be read, or is in another encoding.
    """
    name = os.fspath(file)
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise ManifestError(f"{name}: cannot be read ({error.strerror})") from error
    if data.startswith(b"PK\x03\x04"):
        raise ManifestError(f"{name}: is a spreadsheet or zip file; export the list as CSV in UTF-8")
    encoding, skipped = _encoding(data)
    try:
        text = data[skipped:].decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: skipped + error.start].count(b"\n") + 1
        raise ManifestError(
            f"{name}, line {line}: not {encoding.upper()} text (byte 0x{data[skipped + error.start]:02x}); "
            "save the list as UTF-8 (in Excel: CSV UTF-8), or convert it with `iconv -f ENCODING -t UTF-8`"
        ) from error
    if "\0" in text:
        raise ManifestError(f"{name}: is a binary file, not a text; give a list in UTF-8")
    return TextFile(name, text, encoding.upper()[:6].rstrip("-"))


def first_line(file: str | os.PathLike[str]) -> str:
    """Return the start of a text file, up to the first line end or a few thousand characters.

    Raises:
        ManifestError: It cannot be read.
    """
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(2 * _SAMPLE)
    except OSError as error:
        raise ManifestError(f"{os.fspath(file)}: cannot be read ({error.strerror})") from error
    encoding, skipped = _encoding(data)
    lines = data[skipped:].decode(encoding, errors="ignore").splitlines()
    return lines[0] if lines else ""


def _encoding(data: bytes) -> tuple[str, int]:
    """Return the encoding of a text, and the length of its byte-order mark."""
    marked = ((encoding, len(mark)) for mark, encoding in _MARKS if data.startswith(mark))
    return next(marked, (_unmarked(data), 0))


def _unmarked(data: bytes) -> str:
    """Return the encoding of text without a byte-order mark: UTF-16 has a zero in most characters."""
    sample = data[:_SAMPLE]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if 4 * odd > len(sample) and not even:
        return "utf-16-le"
    if 4 * even > len(sample) and not odd:
        return "utf-16-be"
    return "utf-8"
