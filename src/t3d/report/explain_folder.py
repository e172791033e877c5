"""Folder of explanations: which of its files belong to an earlier `t3d explain`, and may be replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t3d.errors import ConfigError, printable
from t3d.evaluation.parts import Part
from t3d.explanation.config import ExplainConfig
from t3d.io.files import is_url

PAGE, RECORD = "explanation.html", "explanation.json"
_NAMED = 3  # files that a message names


def check_out(config: ExplainConfig, parts: Sequence[Part] = ()) -> None:
    """Refuse a folder that holds other files than those of an earlier explanation, before any work.

    Args:
        config: The folder, and whether an earlier explanation is replaced.
        parts: The videos.

    Raises:
        ConfigError: `out` is a file, holds files that its `explanation.json` does not list, holds a video
            that is to be explained, or has an explanation, and `overwrite` is not set.
    """
    out = Path(config.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"`out` is {out}, which is a file; choose a folder")
    present = {file.name for file in out.iterdir()} if out.exists() else set()
    if not present:
        return
    own = listed_files(out)
    foreign = sorted(present - own)
    if foreign:
        names = ", ".join(map(printable, foreign[:_NAMED])) + (", …" if len(foreign) > _NAMED else "")
        raise ConfigError(
            f"`out` is {out}, which has files that t3d explain did not write ({names}); choose a new or "
            "empty folder"
        )
    if not config.overwrite:
        raise ConfigError(f"{out / RECORD} already exists; choose another `out`, or set `overwrite`")
    _refuse_inputs(config, out, own, parts)


def listed_files(out: Path) -> set[str]:
    """Return the names of the files that an earlier explanation lists, with its page and record.

    Args:
        out: The folder. Without a readable `explanation.json` in it, no file is listed.
    """
    try:
        values = json.loads((out / RECORD).read_text(encoding="utf-8"))
        # Before the key `files`, each video listed its own.
        names = [*values.get("files", ()), *(name for each in values["videos"] for name in _files_of(each))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    # Only files of this folder: a record may come from someone else.
    return {PAGE, RECORD, *(name for name in names if isinstance(name, str) and Path(name).name == name)}


def _files_of(video: dict[str, Any]) -> list[str]:
    return list(video.get("files", ()))


def remove_earlier(out: Path) -> None:
    """Delete the files that an earlier explanation lists, its record last.

    Args:
        out: The folder.
    """
    for name in sorted(listed_files(out), key=lambda name: name == RECORD):
        file = out / name
        if file.is_file() or file.is_symlink():
            file.unlink()


def _refuse_inputs(config: ExplainConfig, out: Path, own: set[str], parts: Sequence[Part]) -> None:
    """Refuse to delete a file that the command reads, also through a link."""
    files = {_identity(out / name): name for name in own}
    inputs = dict.fromkeys(part.path for part in parts if not is_url(part.path))
    for path in [*inputs, config.model, *config.videos, *filter(None, [config.index])]:
        identity = _identity(Path(path))
        if identity is not None and identity in files:
            raise ConfigError(
                f"`out` is {out}, and {files[identity]} in it is read by this command; choose another folder"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from others, whatever its name; None if there is no such file."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino
