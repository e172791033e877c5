"""Read YAML files of options, with bounds that keep a small file from filling the memory or the stack."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from t3d.errors import ConfigError, T3DError, shortened
from t3d.io.files import refuse_unreadable, refuse_url

MAX_BYTES = 1 << 18
"""Maximum size of a file, in bytes. A file with all options has about 3,000."""
_MOST = 20_000  # values, where an alias counts as all values that it stands for
_DEEPEST = 20


def read_yaml(path: str | os.PathLike[str], *, error: type[T3DError] = ConfigError) -> object:
    """Read a YAML file.

    Args:
        path: The file: UTF-8, with or without a byte-order mark.
        error: Type of the error.

    Returns:
        Its content, of plain values.

    Raises:
        T3DError: The file is missing, cannot be read, is too large, is not UTF-8 text or not YAML, has a
            key twice, or has too many or too deeply nested values. The error has the type `error`.
    """
    refuse_url(path, error=error)
    source = Path(path)
    refuse_unreadable(source, name="file", error=error)
    with source.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise error(f"{source}: larger than {MAX_BYTES:,} bytes, so this is not a file of options")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise error(f"{source}: not UTF-8 text ({wrong}); save it as UTF-8") from wrong
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and (problem := _problem(node)):
            raise error(f"{source}: {problem}")
        return yaml.safe_load(text)
    except RecursionError as deep:
        raise error(f"{source}: nested more than {_DEEPEST} levels deep") from deep
    except (yaml.YAMLError, ValueError) as wrong:
        raise error(f"{source}: not YAML: {shortened(' '.join(str(wrong).split()))}") from wrong


def _problem(root: yaml.Node) -> str:
    """Return why a document is refused, or an empty text. Aliases make it a graph, which is not expanded."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if depth > _DEEPEST:
            raise RecursionError
        if id(node) in sizes:
            if sizes[id(node)] == 0:  # within itself
                raise yaml.YAMLError("an alias refers to a value that contains it")
            return sizes[id(node)]
        sizes[id(node)] = 0
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            _refuse_twice(node)
            children = [each for pair in node.value for each in pair]
        sizes[id(node)] = 1 + sum(size(child, depth + 1) for child in children)
        return sizes[id(node)]

    count = size(root, 0)
    return (
        f"has {count:,} values, counting those of aliases; at most {_MOST:,} are read"
        if count > _MOST
        else ""
    )


def _refuse_twice(node: yaml.MappingNode) -> None:
    keys: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in keys:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line} has the key {shortened(key.value)!r} a second time")
            keys.add(key.value)
