"""Formats of exported files, and the runtimes that compute them. Importing this module imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from t3d.io.hub import is_hub

Format = Literal["openvino", "onnx", "torch"]
Runtime = Literal["auto", "torch", "openvino", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: dict[Format, str] = {"openvino": ".xml", "onnx": ".onnx", "torch": ".pt2"}
"""Ending of an exported file, by format. The weights of `.xml` are in a `.bin` next to it."""
INSTALL = 'pip install "t3d[export]"'
"""Command that installs everything that exporting needs."""


def exported_format(path: str | os.PathLike[str]) -> Format | None:
    """Return the format of an exported file by its ending; None for anything else, such as a run folder.

    Args:
        path: A file or folder.

    Example:
        >>> exported_format("runs/first/best.xml"), exported_format("runs/first")
        ('openvino', None)
    """
    if is_hub(path):  # a name with any ending
        return None
    ending = Path(path).suffix.lower()
    return next((form for form, each in ENDINGS.items() if each == ending), None)


def files_of(path: Path, form: Format) -> list[Path]:
    """Return the files that an exported model consists of: one, or `.xml` and `.bin`."""
    return [path, path.with_suffix(".bin")] if form == "openvino" else [path]
