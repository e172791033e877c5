"""Output folder of `t3d prepare`: it belongs to one command and the options it was started with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from t3d.errors import ConfigError
from t3d.io.files import atomic_path, sweep, writing
from t3d.io.locks import alone_in


def read_record(file: Path) -> dict[str, object]:
    """Return the options that a command wrote down; nothing if it has not started.

    Raises:
        ConfigError: The record is damaged, or the folder is a file.
    """
    try:
        record = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except NotADirectoryError as error:
        raise ConfigError(f"{file.parent} is a file; choose a folder") from error
    except ValueError as error:
        raise ConfigError(f"{file}: is not a record of t3d prepare ({error})") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{file}: is not a record of t3d prepare")
    return record


def claim(record: Path, wanted: Mapping[str, object], *, hints: Mapping[str, str]) -> dict[str, object]:
    """Make the folder, or check that it was made with the same options.

    Args:
        record: The file in the folder that keeps the options.
        wanted: The options.
        hints: Advice by option name, for the case that only this option differs.

    Returns:
        The content of the record.

    Raises:
        ConfigError: The folder is a file, holds anything else, or was made with other options, or another
            run is claiming it.
        WriteError: It cannot be made or written to.
    """
    folder = record.parent
    with writing(record):
        folder.mkdir(parents=True, exist_ok=True)
    with alone_in(record):  # another command may claim the folder now
        return _claimed(record, wanted, hints)


def _claimed(record: Path, wanted: Mapping[str, object], hints: Mapping[str, str]) -> dict[str, object]:
    folder = record.parent
    options = read_record(record)
    if options:
        other = [name for name in wanted if options.get(name) != wanted[name]]
        if other:
            changes = "; ".join(f"{name} was {options.get(name)}, is {wanted[name]}" for name in other)
            hint = f" ({hints[other[0]]})" if len(other) == 1 and other[0] in hints else ""
            raise ConfigError(f"{record}: {changes}; use the same options, or choose another folder{hint}")
        return options
    sweep(folder)
    lock_name = f".{record.name}.lock"
    if left := sorted(entry.name for entry in folder.iterdir() if entry.name != lock_name):
        some = ", ".join(left[:3]) + (" …" if len(left) > 3 else "")
        raise ConfigError(f"{folder} holds other files ({some}); choose a new or empty folder")
    write_record(record, wanted)
    return dict(wanted)


def write_record(file: Path, record: Mapping[str, object]) -> None:
    """Write a record. It appears complete or not at all."""
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
