"""Load any model that scores clips: weights files, run folders and exported files.

Only weights files and run folders need torch, which is imported when one of them is loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

from t3d.card import ModelCard
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError, one_of, printable
from t3d.io.files import content_digest, refuse_url
from t3d.io.hub import located
from t3d.runtime.choice import RUNTIMES, Choice, choose, exported_file
from t3d.runtime.exported import ExportedModel
from t3d.runtime.formats import Format, Runtime, exported_format
from t3d.runtime.onnx_file import ONNXModel, open_session
from t3d.runtime.openvino_file import OpenVINOModel, read_graph
from t3d.runtime.stamp import Stamp

if TYPE_CHECKING:
    from t3d.models.net import VideoNet

PathLike = str | os.PathLike[str]
ScoringModel: TypeAlias = "VideoNet | ExportedModel"
"""A model that scores clips: normalized clips B C T H W → scores B K."""


def load(
    path: PathLike,
    *,
    runtime: Runtime = "auto",
    compute: Compute | None = None,
    allow_unfinished: bool = False,
) -> tuple[ScoringModel, ModelCard]:
    """Load a model that scores classes. It is called with normalized clips, and returns scores.

    Args:
        path: A weights file, the folder of a training run, a file that `t3d export` wrote (.xml or .onnx), a
            folder that `t3d push` wrote, or a model on the Hub: `hf-hub:org/name` or `hf-hub:org/name@v1`.
        runtime: Program that computes the model. For an exported file, it is that of the file. For weights,
            `torch`; `openvino` or `onnx` if `t3d export` wrote such a file next to them; or `auto`, the
            fastest of those on a CPU, which is measured once and reported on stderr. `auto` uses an exported
            file only if it is from exactly these weights, and never one of 8-bit integers.
        compute: Device and precision. Default: `Compute()`.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.

    Returns:
        The network, in evaluation mode, or the exported model; and the card.

    Raises:
        CheckpointError: The file is missing or damaged, has no classifier, or is of another program or
            version.
        ConfigError: The runtime does not compute such files or is not installed, or there is no such device.

    Example:
        >>> model, card = load("runs/mine/best.xml")  # doctest: +SKIP
        >>> model(clips).shape, len(card.classes)  # doctest: +SKIP
        (torch.Size([2, 11]), 11)
    """
    compute = compute or Compute()
    path = located(path)
    form = _form(path, runtime)
    if form is not None:
        return _load_exported(Path(path), compute)
    if runtime != "torch":
        weights = model_file(path, allow_unfinished=allow_unfinished)
        try:
            file = _chosen(weights, compute) if runtime == "auto" else _required(weights, runtime)
            if file is not None:
                return _load_exported(file, compute)
        except ConfigError as error:  # its runtime is installed, but does not work
            if runtime != "auto":
                raise
            print(f"t3d: {printable(str(error))}; PyTorch computes instead", file=sys.stderr)
    if find_spec("torch") is None:
        raise ConfigError(
            f"{os.fspath(path)}: PyTorch is not installed, and no exported file of these weights can be "
            "used. Install PyTorch, or export the model on another machine with `t3d export`"
        )
    from t3d.models.weights import load_classifier

    return load_classifier(path, device=compute.pick_device(), allow_unfinished=allow_unfinished)


def by_file(path: PathLike, runtime: Runtime) -> Runtime:
    """Return the runtime with `auto` decided by the file alone, so that figures can be repeated anywhere."""
    return "torch" if runtime == "auto" and exported_format(path) is None else runtime


def _load_exported(path: Path, compute: Compute) -> tuple[ExportedModel, ModelCard]:
    kind = OpenVINOModel if exported_format(path) == "openvino" else ONNXModel
    model = kind(path, compute)
    return model, model.card


def _required(weights: Path, runtime: Runtime) -> Path:
    """Return the file that the weights were exported to.

    Raises:
        ConfigError: The file is missing, or is from other weights.
    """
    assert runtime in ("openvino", "onnx")
    file = exported_file(weights, runtime)
    if not file.exists():
        raise ConfigError(
            f"`runtime` is {runtime}, but there is no {file}; export the run with `format` {runtime}"
        )
    if _stamp(file).source != content_digest(weights):
        raise ConfigError(
            f"`runtime` is {runtime}, but {file} was not exported from {weights}; export the run again with "
            f"`format` {runtime} and `overwrite`"
        )
    return file


def _chosen(weights: Path, compute: Compute) -> Path | None:
    """Return the exported file that computes the model faster than torch, or None."""

    def measure(files: Sequence[Path]) -> Choice:
        without_torch = find_spec("torch") is None
        if not without_torch and compute.pick_device().type != "cpu":
            return Choice("torch", "")
        source = content_digest(weights)
        fitting: list[ExportedModel] = []
        others: list[str] = []
        for file in files:
            try:
                model, _ = _load_exported(file, compute)
            except CheckpointError:  # damaged, or of another program
                others.append(file.name)
                continue
            if model.stamp.source != source:
                others.append(file.name)
            elif model.stamp.numbers == "fp32":
                fitting.append(model)
        if fitting and without_torch:
            name = RUNTIMES[fitting[0].runtime]
            return Choice(
                fitting[0].runtime, f"PyTorch is not installed; {name} computes {fitting[0].path.name}"
            )
        if fitting:
            from t3d.models.weights import load_classifier
            from t3d.runtime.measure import fastest

            net, card = load_classifier(weights, allow_unfinished=True)
            return fastest(net, fitting, card.clip, compute)
        if not others:
            return Choice("torch", "")
        names = " and ".join(others)
        note = f"{names} is not an export of the weights in {weights.name}; export again"
        return Choice("torch", note, repeated=True)

    return choose(weights, compute, measure)


def _stamp(file: Path) -> Stamp:
    return read_graph(file)[2] if exported_format(file) == "openvino" else open_session(file)[2]


def read_model_card(path: PathLike, *, allow_unfinished: bool = False) -> ModelCard | None:
    """Read the card of a weights file, a run folder or an exported file.

    Args:
        path: See `load`.
        allow_unfinished: See `load`.

    Returns:
        The card; None for a weights file of another program.

    Raises:
        CheckpointError: See `load`.
        ConfigError: The package that reads such a file is not installed.
    """
    path = located(path)
    form = _form(path, "auto")
    if form == "openvino":
        return read_graph(Path(path))[1]
    if form == "onnx":
        return open_session(Path(path))[1]
    from t3d.models.weights_header import read_card

    return read_card(path, allow_unfinished=allow_unfinished)


def model_file(path: PathLike, *, allow_unfinished: bool = False) -> Path:
    """Find the file of a model: an exported file itself, or the weights file of a run folder.

    Args:
        path: See `load`.
        allow_unfinished: See `load`.

    Raises:
        CheckpointError: There is no such file; see `t3d.models.weights_file.weights_file`.
    """
    path = located(path)
    if exported_format(path) is not None and Path(path).is_file():
        return Path(path)
    from t3d.models.weights_file import weights_file

    return weights_file(path, allow_unfinished=allow_unfinished)


def _form(path: PathLike, runtime: Runtime) -> Format | None:
    """Return the format of an exported file, after checking that it can be computed; None for weights."""
    one_of("runtime", runtime, get_args(Runtime))
    refuse_url(path, error=CheckpointError)
    form = exported_format(path)
    name = os.fspath(path)
    if form is not None:
        model_file(path)  # refuses a missing file
    if form == "torch":
        raise CheckpointError(
            f"{name}: T3D does not load .pt2 files, because reading one can run code that is in it. Give the "
            "run folder or its .safetensors file, which compute the same; other programs can use "
            "torch.export.load"
        )
    if form is not None and runtime not in ("auto", form):
        raise ConfigError(f"`runtime` is {runtime}, but {form} computes {name}; remove `runtime`")
    return form
