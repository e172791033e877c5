"""Files of a model without the paths that the cards in weights and exported files contain."""

from __future__ import annotations

import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from t3d.card import CARD_KEY, ModelCard
from t3d.errors import CheckpointError, ConfigError
from t3d.io.files import content_digest, writing
from t3d.models.tensor_files import write_tensors
from t3d.models.weights_header import open_weights, parsed_card
from t3d.runtime.choice import exported_file
from t3d.runtime.formats import Format, files_of
from t3d.runtime.onnx_file import open_session
from t3d.runtime.openvino_file import read_graph
from t3d.runtime.stamp import STAMP_KEY, Stamp

_FORMATS: tuple[Format, ...] = ("openvino", "onnx")


def public_values(value: Any) -> Any:
    """Return plain values with every path and URL replaced by its last part.

    Example:
        >>> public_values({"trained_on": "/home/me/videos/train.csv", "epochs": 3})
        {'trained_on': 'train.csv', 'epochs': 3}
        >>> public_values(["https://me:secret@host/train.csv?token=1", "24/7 cameras"])
        ['train.csv', '24/7 cameras']
    """
    if isinstance(value, dict):
        return {public_values(name): public_values(each) for name, each in value.items()}
    if isinstance(value, list):
        return [public_values(each) for each in value]
    if not isinstance(value, str):
        return value
    if "://" in value:
        value = urlsplit(value).path or "URL"
    elif not re.search(r"[/\\]", value) or (" " in value and not re.match(r"[/\\~.]|[A-Za-z]:", value)):
        return value
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1]


def write_weights(source: Path, target: Path, *, allow_unfinished: bool) -> ModelCard:
    """Write the weights with their public card. A file whose card is public already is copied.

    Args:
        source: Weights file or checkpoint.
        target: File to write.
        allow_unfinished: Whether `source` may be a checkpoint.

    Returns:
        The public card.

    Raises:
        CheckpointError: The weights cannot be used, are of another program, or have no classifier.
    """
    with open_weights(source, allow_unfinished=allow_unfinished, header_only=True) as stored:
        text, plain = stored.card, not stored.prefix
    if text is None:
        raise CheckpointError(f"{source}: t3d did not write this file; convert it with `t3d convert` first")
    card = parsed_card(text, source)
    if not card.classes:
        raise CheckpointError(f"{source}: the model has no classifier, so it cannot classify videos")
    public = replace(card, provenance=public_values(card.provenance))
    with writing(target):
        if plain and public == card:
            shutil.copyfile(source, target)
            return public
        with open_weights(source, allow_unfinished=allow_unfinished) as weights:
            state = {name: tensor.contiguous() for name, tensor in weights.tensors().items()}
        write_tensors(state, target, metadata={CARD_KEY: public.to_json()})
    return public


def write_exports(source: Path, weights: Path, card: ModelCard) -> list[str]:
    """Write the exported files of a model, with the public card and the digest of the public weights.

    Args:
        source: The weights file, with exported files next to it.
        weights: The public weights file. The exported files are written next to it.
        card: The public card.

    Returns:
        A sentence for each exported file that is left out.
    """
    left_out: list[str] = []
    for form in _FORMATS:
        file, target = exported_file(source, form), exported_file(weights, form)
        if not file.is_file():
            continue
        try:
            with writing(target):
                _write_export(file, target, form, card, (content_digest(source), content_digest(weights)))
        except (CheckpointError, ConfigError) as error:
            for each in files_of(target, form):
                each.unlink(missing_ok=True)
            left_out.append(f"not included: {error}")
    return left_out


def _write_export(file: Path, target: Path, form: Format, card: ModelCard, digests: tuple[str, str]) -> None:
    """Write one exported file, if it is of the weights with the first digest, for those with the second."""
    _, stored, stamp = read_graph(file) if form == "openvino" else open_session(file)
    before, now = digests
    if stamp.source != before:
        raise CheckpointError(f"{file} is not an export of these weights; export the run again")
    if form == "openvino" and stored == card and before == now:
        for old, new in zip(files_of(file, form), files_of(target, form), strict=True):
            shutil.copyfile(old, new)
    elif form == "openvino":
        shutil.copyfile(file.with_suffix(".bin"), target.with_suffix(".bin"))
        _rewrite_openvino(file, target, card, replace(stamp, source=now))
    else:
        _rewrite_onnx(file, target, card, replace(stamp, source=now))


def _rewrite_openvino(file: Path, target: Path, card: ModelCard, stamp: Stamp) -> None:
    """Copy an .xml file with another card and stamp. Everything else stays as it is."""
    tree = ElementTree.parse(file)  # OpenVINO has read it
    texts = {CARD_KEY: card.to_json(), STAMP_KEY: stamp.to_json()}
    info = tree.getroot().find("rt_info")
    for key, text in texts.items():
        entry = info
        for part in key.split("."):
            entry = None if entry is None else entry.find(part)
        if entry is None:
            raise CheckpointError(f"{file}: its card was not found; export the run again")
        entry.set("value", text)
    tree.write(target, encoding="utf-8", xml_declaration=True)
    read_graph(target)


def _rewrite_onnx(file: Path, target: Path, card: ModelCard, stamp: Stamp) -> None:
    """Copy an .onnx file with another card and stamp, and without the source lines of its nodes."""
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(
            f"{file}: the package onnx is needed to remove paths of this machine from it: "
            'pip install "t3d[export]"'
        ) from error
    model = onnx.load(os.fspath(file))
    for entry in model.metadata_props:
        if entry.key == CARD_KEY:
            entry.value = card.to_json()
        elif entry.key == STAMP_KEY:
            entry.value = stamp.to_json()
    for graph in (model.graph, *model.functions):
        for part in (graph, *graph.node, *graph.value_info):
            part.doc_string = ""
            del part.metadata_props[:]  # of torch: the file and line of each operation on this machine
    onnx.save(model, os.fspath(target))
    open_session(target)
