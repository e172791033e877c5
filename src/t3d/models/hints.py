"""Hints for a path that does not name weights."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

_SIBLINGS = 1000  # entries of a folder that a misspelled name is compared with


def missing_weights_hint(source: Path) -> str:
    """Return a hint for weights that do not exist, as the end of a message.

    Args:
        source: The path.

    Returns:
        A similar path, or where weights come from for the name of a model; empty if there is nothing to say.
    """
    if near := _similar(source):
        return f"; did you mean {near}?"
    from t3d.models.registry import list_models  # not above: it imports torch

    name = str(source)
    if name in list_models():
        return (
            f"; {name} is the name of a model, not a file. Give a weights file (.safetensors) or a run "
            "folder. To train from random weights, give none"
        )
    if re.fullmatch(r"[A-Za-z]\w*", name):
        return (
            ". Give a weights file (.safetensors) or a run folder, not the name of a model. `t3d convert` "
            "with `inflate` turns the weights file of a 2D model into one"
        )
    if not source.suffix and source.parent.is_dir():
        runs = sorted(entry.parent.name for entry in source.parent.glob("*/config.yaml"))
        return f"; runs in {source.parent}: {', '.join(runs[:10])}" if runs else ""
    return ""


def other_format(source: Path) -> str:
    """Return what a file is that is not a safetensors file, and what to do with it.

    Args:
        source: The file.
    """
    ending = source.suffix.lower()
    if ending in (".pth", ".pt"):
        return "a PyTorch file; convert it with `t3d convert`"
    if ending == ".onnx":
        return (
            "an ONNX file, which has no weights that T3D can load into a model. Give a .safetensors file or "
            "a run folder. If `t3d export` wrote the file, `t3d predict` and `t3d test` accept it; any other "
            "ONNX model can be a teacher of `t3d transfer`"
        )
    if ending in (".xml", ".pt2"):
        return (
            "an exported model, whose weights T3D cannot load into a network. Give a run folder or a "
            ".safetensors file; `t3d predict` and `t3d test` accept .xml files from `t3d export`"
        )
    return "not a safetensors file"


def _similar(source: Path) -> str:
    """Return the most similar run folder or weights file next to a path that does not exist."""
    if not source.name or not source.parent.is_dir():
        return ""
    names = []
    for number, entry in enumerate(source.parent.iterdir()):
        if number == _SIBLINGS:
            break
        if entry.suffix == ".safetensors" or (entry / "config.yaml").is_file():
            names.append(entry.name)
    near = difflib.get_close_matches(source.name, names, n=1, cutoff=0.6)
    return str(source.with_name(near[0])) if near else ""
