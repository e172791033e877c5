"""Choose what computes a model: PyTorch, or a file that `t3d export` wrote next to the weights.

The choice is measured once per model and machine, and kept in the cache folder of T3D.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from t3d.device import Compute
from t3d.errors import WriteError, printable
from t3d.io.cache_folder import cache_folder
from t3d.io.files import atomic_path, content_digest
from t3d.runtime.formats import ENDINGS, Format, files_of

FOLDER = "T3D_RUNTIME_CACHE"
"""Environment variable with the folder of the choices. By default `runtimes` in the cache folder of T3D."""
RUNTIMES: dict[Format, str] = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}
"""Runtimes that compute exported files, with their names for messages."""
_PACKAGES: dict[Format, str] = {"openvino": "openvino", "onnx": "onnxruntime"}
_VERSION = 1  # raise it when earlier choices must not be used


@dataclass(frozen=True)
class Choice:
    """Runtime that computes a model.

    Args:
        runtime: The runtime.
        note: Why, in one sentence for the user. Empty if there was nothing to choose from.
        repeated: Whether the note is given each time, and not only with a new choice.
    """

    runtime: Format
    note: str
    repeated: bool = False


Measure = Callable[[Sequence[Path]], Choice]
"""From exported files that may be used to what computes the model."""


def exported_file(weights: Path, runtime: Format) -> Path:
    """Return where `t3d export` writes a model by default: next to its weights, with their name."""
    return weights.with_suffix(ENDINGS[runtime])


def candidates(weights: Path, compute: Compute) -> list[Path]:
    """Return the exported files next to the weights that `auto` may use, without looking into them.

    They can be read, their runtime is installed, and it computes on the device and in the precision that are
    asked for.
    """
    if compute.device not in ("auto", "cpu"):
        return []
    fitting: list[Path] = []
    for runtime, package in _PACKAGES.items():
        file = exported_file(weights, runtime)
        complete = all(path.is_file() and os.access(path, os.R_OK) for path in files_of(file, runtime))
        if complete and find_spec(package) and not (runtime == "onnx" and compute.precision == "bf16"):
            fitting.append(file)
    return fitting


def choose(weights: Path, compute: Compute, measure: Measure) -> Path | None:
    """Choose what computes the model of a weights file. A new choice is reported on stderr.

    Args:
        weights: The weights file.
        compute: Device and precision.
        measure: Measures those of the candidates that are from these weights. Called unless the choice is
            kept from an earlier call.

    Returns:
        The exported file to use; None for PyTorch.
    """
    files = candidates(weights, compute)
    if not files:
        return None
    kept = _folder() / f"{_key(weights, files, compute)}.json"
    choice, new = _read(kept), False
    if choice is None:
        choice = measure(files)
        with suppress(OSError, WriteError), atomic_path(kept) as temporary:  # else it is measured each time
            temporary.write_text(json.dumps(asdict(choice)))
        new = True
    if choice.note and (new or choice.repeated):
        print(f"t3d: {printable(choice.note)}", file=sys.stderr)
    return None if choice.runtime == "torch" else exported_file(weights, choice.runtime)


def _folder() -> Path:
    return cache_folder(FOLDER, "runtimes")


def _read(file: Path) -> Choice | None:
    """Return the choice in a file; None if there is none, or it is damaged."""
    try:
        choice = Choice(**json.loads(file.read_text()))
        known = choice.runtime in ("torch", *RUNTIMES) and isinstance(choice.note, str)
        return choice if known else None
    except (OSError, ValueError, TypeError):
        return None


def _key(weights: Path, files: Sequence[Path], compute: Compute) -> str:
    """Return a name for everything that a choice depends on."""
    parts = [
        str(_VERSION),
        content_digest(weights),
        *(f"{file.name} {content_digest(file)}" for file in files),
        compute.device,
        compute.precision,
        *(f"{name} {_version(name)}" for name in ("t3d", "torch", *_PACKAGES.values())),
        platform.node(),
        _processor(),
        _threads(),
        str(sorted(Path("/dev").glob("nvidia[0-9]*"))),  # `auto` takes a GPU if there is one
        os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    ]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """Return the model of the processor."""
    with suppress(OSError), Path("/proc/cpuinfo").open(errors="replace") as file:
        return next((line for line in file if line.startswith("model name")), platform.machine())
    return platform.processor() or platform.machine()


def _threads() -> str:
    """Return what the number of threads follows from."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} {os.environ.get('OMP_NUM_THREADS', '')}"
