from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from t3d.card import CARD_KEY, ModelCard
from t3d.clip import ClipSpec
from t3d.errors import CheckpointError
from t3d.runtime.formats import exported_format, files_of
from t3d.runtime.stamp import STAMP_KEY, Stamp, metadata, read_metadata

CARD = ModelCard("t3d_tiny", classes=('run, "fast" & <slow>', "坐"), clip=ClipSpec(num_frames=8, size=64))
STAMP = Stamp("fp32", "0123", "0.1.0", "4567")
PATH = Path("net.xml")


def test_card_and_stamp_come_back() -> None:
    assert read_metadata(metadata(CARD, STAMP), PATH) == (CARD, STAMP)


def altered(**values: object) -> dict[str, str]:
    return metadata(CARD, STAMP) | {STAMP_KEY: json.dumps({"version": 1, **asdict(STAMP), **values})}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, r"net\.xml: `t3d export` did not write this file.*Export the run"),
        ({CARD_KEY: CARD.to_json()}, "did not write this file"),
        (altered(version=2), r"version 2 of the format; this T3D reads version 1\. Export the run again"),
        (altered(numbers="int4"), "the file is damaged .*int4.*export the run again"),
        (altered(more=1), "the file is damaged"),
        (metadata(CARD, STAMP) | {STAMP_KEY: "{"}, "the file is damaged"),
        (metadata(CARD, STAMP) | {STAMP_KEY: "[1]"}, "the file is damaged"),
        (metadata(CARD, STAMP) | {CARD_KEY: "{"}, r"net\.xml: the model card is not JSON"),
        (metadata(ModelCard("t3d_tiny"), STAMP), "damaged .no classes"),
    ],
)
def test_other_texts_are_refused(texts: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_metadata(texts, PATH)


def test_the_ending_decides_the_format() -> None:
    names = ["a/b.xml", "b.XML", "c.onnx", "d.pt2", "e.safetensors", "runs/first", "x.bin"]
    assert [exported_format(name) for name in names] == [
        "openvino",
        "openvino",
        "onnx",
        "torch",
        None,
        None,
        None,
    ]
    assert files_of(Path("a/b.xml"), "openvino") == [Path("a/b.xml"), Path("a/b.bin")]
