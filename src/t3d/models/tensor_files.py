"""Safetensors files: written complete or not at all, and read with bounds on everything in their header.

A file may come from anywhere. So its header is checked before its library reads it, and its tensors are read
one by one, after their shapes were compared with those of a model. Importing this module imports no torch.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from t3d.errors import CheckpointError, shortened
from t3d.io.files import atomic_path, refuse_unreadable, refuse_url
from t3d.models.hints import other_format

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 16 << 20
"""Maximum size of a header, in bytes. That of a model with 1,000 tensors has about 0.1 MB."""
MAX_TENSORS = 50_000
"""Maximum number of tensors in a file."""

PathLike = str | os.PathLike[str]


class Described(NamedTuple):
    """Description of a tensor in a file.

    Args:
        shape: Its shape.
        is_floating: Whether its values are floating-point numbers.
    """

    shape: tuple[int, ...]
    is_floating: bool


class TensorFile:
    """An open safetensors file.

    Args:
        path: Path of the file, for messages.
        file: The file, as safetensors opens it.

    Attributes:
        metadata: Texts of the header, by name.
        names: Names of all tensors.

    Raises:
        CheckpointError: It has more than `MAX_TENSORS` tensors.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self._path = path
        self._file = file
        self.metadata: dict[str, str] = file.metadata() or {}
        self.names: list[str] = list(file.keys())
        if len(self.names) > MAX_TENSORS:
            raise CheckpointError(
                f"{path}: has {len(self.names):,} tensors; at most {MAX_TENSORS:,} are read"
            )

    def describe(self, name: str) -> Described:
        """Return the shape and the kind of a tensor, without reading it."""
        with _reading(self._path, name):
            part = self._file.get_slice(name)
            return Described(tuple(part.get_shape()), part.get_dtype().startswith(("F", "BF")))

    def tensor(self, name: str) -> Tensor:
        """Read a tensor, to the CPU.

        Raises:
            CheckpointError: Its numbers are of a kind that torch does not support.
        """
        with _reading(self._path, name):
            tensor: Tensor = self._file.get_tensor(name)
        return tensor


@contextmanager
def open_tensors(path: PathLike, *, header_only: bool = False) -> Iterator[TensorFile]:
    """Open a safetensors file.

    Args:
        path: The file.
        header_only: Whether only its texts and the descriptions of tensors are read, which needs no torch.

    Raises:
        CheckpointError: The file does not exist or cannot be read, is not a complete safetensors file, or
            its header is too large.
    """
    refuse_url(path, error=CheckpointError)
    source = Path(path)
    refuse_unreadable(source, name="weights file", error=CheckpointError)
    with source.open("rb") as start:
        size = int.from_bytes(start.read(8), "little")
    if MAX_HEADER < size < os.path.getsize(source):  # noqa: PTH202 (a larger header is not one)
        raise CheckpointError(
            f"{source}: its header has {size / 1e6:,.1f} MB; at most {MAX_HEADER / 1e6:,.1f} MB are read. "
            "The file is damaged, or does not contain the weights of one model"
        )
    try:
        with safe_open(source, framework="numpy" if header_only else "pt") as file:
            yield TensorFile(source, file)
    except SafetensorError as error:
        if source.suffix.lower() == ".safetensors":
            reason = f"the file is damaged or incomplete ({shortened(str(error))}); copy it again"
        else:
            reason = other_format(source)
        raise CheckpointError(f"{source}: {reason}") from error


def write_tensors(state: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str]) -> None:
    """Write a safetensors file. It appears complete or not at all.

    Args:
        state: Tensors by name, contiguous, none sharing memory with another.
        path: File to write. An existing file is replaced.
        metadata: Strings for the header.

    Raises:
        WriteError: The file cannot be written, for example because the disk is full. An existing file is
            unchanged.
    """
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(dict(state), temporary, metadata=metadata)
        except SafetensorError as error:  # not an OSError, although it reports one of the system
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


@contextmanager
def _reading(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except SafetensorError:
        raise
    except Exception as error:  # of torch, for kinds of numbers that it does not know
        raise CheckpointError(f"{path}: the tensor {shortened(name)} cannot be read: {error}") from error
