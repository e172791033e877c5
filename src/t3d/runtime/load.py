"""Load any model that scores clips: weights files, run folders and exported files.

Only weights files and run folders need torch, which is imported when one of them is loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

from t3d.card import ModelCard
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError, one_of
from t3d.io.files import refuse_url
from t3d.runtime.exported import ExportedModel
from t3d.runtime.formats import Format, Runtime, exported_format
from t3d.runtime.onnx_file import ONNXModel, open_session
from t3d.runtime.openvino_file import OpenVINOModel, read_graph

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
        path: A weights file, the folder of a training run, or a file that `t3d export` wrote (.xml or .onnx).
        runtime: Program that computes the model: `torch` for weights files and run folders, `openvino` for
            .xml, `onnx` for .onnx. `auto` decides by the file.
        compute: Device, and for exported files also the precision. Default: `Compute()`.
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
    form = _form(path, runtime)
    if form == "openvino":
        model: ExportedModel = OpenVINOModel(Path(path), compute)
        return model, model.card
    if form == "onnx":
        model = ONNXModel(Path(path), compute)
        return model, model.card
    from t3d.models.weights import load_classifier

    return load_classifier(path, device=compute.pick_device(), allow_unfinished=allow_unfinished)


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
    form = _form(path, "auto")
    if form == "openvino":
        return read_graph(Path(path))[1]
    if form == "onnx":
        return open_session(Path(path))[1]
    from t3d.models.weights import read_card

    return read_card(path, allow_unfinished=allow_unfinished)


def model_file(path: PathLike, *, allow_unfinished: bool = False) -> Path:
    """Find the file of a model: an exported file itself, or the weights file of a run folder.

    Args:
        path: See `load`.
        allow_unfinished: See `load`.

    Raises:
        CheckpointError: There is no such file; see `t3d.models.weights.weights_file`.
    """
    if exported_format(path) is not None and Path(path).is_file():
        return Path(path)
    from t3d.models.weights import weights_file

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
    own: Format = form or "torch"
    if runtime not in ("auto", own):
        fix = f"export the run with format {runtime}" if form is None else "remove `runtime`"
        raise ConfigError(f"`runtime` is {runtime}, but {own} computes {name}; {fix}")
    return form
