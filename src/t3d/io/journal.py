"""Journal of the finished work of a long run: one record per line, from which a killed run resumes.

A record reaches the operating system before `Journal.add` returns, so it survives the end of the process. It
is synced to disk when the journal closes: a power failure may cost the last seconds, whose work is then done
again. A killed process can leave an unfinished last line. Readers ignore it, and the next writer removes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from t3d.errors import ConfigError
from t3d.io.files import atomic_path, writing
from t3d.io.locks import alone_in


class JsonLines:
    """Form of a journal: one JSON object per line."""

    header = b""
    """First line of the file; empty if it has none."""

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """Return the line of a record, with its only line break at the end."""
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"

    def decode(self, line: bytes) -> dict[str, Any] | None:
        """Return the record of a line; None if it has another form."""
        try:
            record = json.loads(line)
        except ValueError:
            return None
        return record if isinstance(record, dict) else None

    def may_begin(self, line: bytes) -> bool:
        """Return whether an unfinished line may be the begin of a record."""
        return line.startswith(b"{")

    description = "a JSON object"


JSON_LINES = JsonLines()


class Journal:
    """A journal that is open for adding records, by one process at a time; use it with `with`.

    Args:
        path: The file, new or of an earlier run. Its folder is created if it is missing.
        form: How a record is written.

    Raises:
        ConfigError: Another run is writing to the journal.
        WriteError: It cannot be opened for writing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "done.jsonl"
        >>> with Journal(path) as journal:
        ...     journal.add({"path": "a.mp4"})
        >>> list(read_journal(path))
        [{'path': 'a.mp4'}]
    """

    def __init__(self, path: str | os.PathLike[str], form: JsonLines = JSON_LINES) -> None:
        self.path = Path(path)
        self.form = form
        self._whole = False

    def __enter__(self) -> Journal:
        with ExitStack() as stack, writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone_in(self.path))
            self._open()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack, self._file:
            if kind is None:
                with writing(self.path):
                    os.fsync(self._file.fileno())

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a record.

        Raises:
            WriteError: It cannot be written, since the disk is full for example. The records before it stay.
        """
        line = self.form.encode(record)
        if not self._whole:
            end = _end_of_lines(self.path)
            if end < os.fstat(self._file.fileno()).st_size:
                self._file.truncate(end)
            self._whole = True
        end = os.fstat(self._file.fileno()).st_size
        if end == 0:
            line = self.form.header + line
        with writing(self.path):
            try:
                written = 0
                while written < len(line):  # a nearly full disk takes a part, and then reports the error
                    written += self._file.write(line[written:])
            except BaseException:
                with suppress(OSError):
                    self._file.truncate(end)
                raise

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records so far; see `read_journal`."""
        return read_journal(self.path, self.form)

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Remove the records that `wanted` is false for; the others stay as they are, byte for byte."""
        with atomic_path(self.path) as temporary, temporary.open("wb") as kept:
            kept.write(self.form.header)
            kept.writelines(line for line, record in _lines(self.path, self.form) if wanted(record))
        self._file.close()
        self._open()

    def _open(self) -> None:
        self._file = cast(BinaryIO, self.path.open("ab", buffering=0))
        self._whole = False  # checked before the first record is added


def read_journal(path: Path, form: JsonLines = JSON_LINES) -> Iterator[dict[str, Any]]:
    """Yield the records of a journal; none if it does not exist.

    Raises:
        ConfigError: A line has another form: the file is corrupt, or not such a journal.
        OSError: It cannot be read.
    """
    return (record for _, record in _lines(path, form)) if path.exists() else iter(())


def whole_lines(path: Path) -> bytes:
    """Return a journal's lines as they are, without an unfinished last one; none if it does not exist.

    Raises:
        OSError: It cannot be read.
    """
    if not path.exists():
        return b""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _lines(path: Path, form: JsonLines) -> Iterator[tuple[bytes, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            whole = line.endswith(b"\n")
            if number == 1 and form.header:
                if line != form.header and (whole or not form.header.startswith(line)):
                    raise ConfigError(
                        f"{path}, line 1: has other columns ({_start(line)}) than "
                        f"{_start(form.header)}; choose another path"
                    )
                continue
            record = form.decode(line) if whole else None
            if record is None and (whole or not form.may_begin(line)):
                raise ConfigError(
                    f"{path}, line {number}: not {form.description} ({_start(line)}); the file is corrupt or "
                    "not a journal. Remove the line to do its work again, or choose another path"
                )
            if record is not None:
                yield line, record


def _start(line: bytes) -> str:
    return line[:60].decode(errors="replace").strip()


def _end_of_lines(path: Path) -> int:
    """Return the number of bytes up to the end of the last whole line."""
    block = 1 << 16
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(end - block, 0)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
