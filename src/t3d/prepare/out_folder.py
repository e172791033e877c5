"""The folder that a preparing command writes to: its own, by the options it began with, one run at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from t3d.errors import ConfigError
from t3d.io.files import atomic_path, lock_alone, sweep


def read_record(file: Path) -> dict[str, object]:
    """What a command wrote down of its options; nothing where it has not begun.

    Raises:
        ConfigError: The record is damaged, or the folder is a file.
    """
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        raise ConfigError(f"--out {file.parent} is a file; give a folder") from error
    except ValueError as error:
        raise ConfigError(f"{file}: is no record of t3d prepare ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: is no record of t3d prepare")
    return found


def claim(record: Path, wanted: Mapping[str, object], *, hints: Mapping[str, str]) -> dict[str, object]:
    """Make the folder, or make sure that it was made by the same options.

    Args:
        record: The file in the folder that keeps the options.
        wanted: The options.
        hints: What to do where only the option of this name differs.

    Returns:
        What the record holds.

    Raises:
        ConfigError: The folder is a file, holds anything else, or was made by other options.
        OSError: It cannot be made or written to.
    """
    folder = record.parent
    found = read_record(record)
    if found:
        other = [name for name in wanted if found.get(name) != wanted[name]]
        if other:
            said = "; ".join(f"{name} was {found.get(name)}, is {wanted[name]}" for name in other)
            hint = f" ({hints[other[0]]})" if len(other) == 1 and other[0] in hints else ""
            raise ConfigError(f"{record}: {said}; give the same, or another --out{hint}")
        return found
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    if left := sorted(entry.name for entry in folder.iterdir()):
        some = ", ".join(left[:3]) + (" …" if len(left) > 3 else "")
        raise ConfigError(f"--out {folder} holds other files ({some}); give a new or empty folder")
    write_record(record, wanted)
    return dict(wanted)


def write_record(file: Path, record: Mapping[str, object]) -> None:
    """Write a record; it appears whole or not at all."""
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@contextmanager
def alone(journal: Path) -> Iterator[BinaryIO]:
    """Let nobody else write to a folder; the system lets go when a process ends, however it ends.

    Args:
        journal: A file in the folder, made where it is missing.

    Yields:
        The journal, to add lines to.

    Raises:
        ConfigError: Another run is writing to it.
    """
    with journal.open("ab") as file:
        lock_alone(file.fileno(), journal.parent)
        yield file
