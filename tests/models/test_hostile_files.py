"""Weights files that are damaged or made to do harm: an error before anything large is built."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from t3d.card import CARD_KEY, ModelCard
from t3d.errors import CheckpointError, ConfigError, T3DError
from t3d.models.registry import create_model, list_models
from t3d.models.tensor_files import MAX_HEADER, write_tensors
from t3d.models.weights import load_model, save_model
from t3d.models.weights_header import read_card

SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
CARD = ModelCard("densenet3d_tiny", options=SMALL, classes=("run", "jump"), provenance={"videos": 7})
DEEP = "[" * 100_000 + "]" * 100_000


def _file(path: Path) -> Path:
    model = create_model(CARD.architecture, num_classes=2, options=SMALL)
    save_model(model, path, card=CARD)
    return path


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def _joined(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _with_card(content: bytes, card: str) -> bytes:
    header, data = _split(content)
    header["__metadata__"][CARD_KEY] = card
    return _joined(header, data)


def _changed(**values: object) -> str:
    return json.dumps(json.loads(CARD.to_json()) | values)


# --- one danger at a time --------------------------------------------------------------------------------

DANGERS: dict[str, tuple[str, str]] = {
    "frames": (
        _changed(clip={"num_frames": 10**9}),
        r"num_frames is 1,000,000,000; it must be at most 10,000",
    ),
    "side": (
        _changed(clip={"size": 10**9, "resize": 10**9}),
        "size is 1,000,000,000; it must be at most 8,192",
    ),
    "segments": (_changed(clip={"segments": 10**9}), "segments is 1,000,000,000; it must be at most 1,000"),
    "pixels": (
        _changed(clip={"num_frames": 9999, "size": 999, "resize": 999}),
        "clip has .* pixels .* at most",
    ),
    "std": (_changed(clip={"std": [1e999, 1, 1]}), "clip.std is .*inf"),
    "mean": (_changed(clip={"mean": [float("nan"), 1, 1]}), "clip.mean is .*nan"),
    "classes": (_changed(classes=["a"] * 100_001), "has 100,001 classes; at most 100,000"),
    "half of a character": (_changed(classes=["\ud800"]), "is not text"),
    "layers": (_changed(options={"block_config": [10**6, 10**6]}), "2 blocks with 2,000,000 layers; at most"),
    "blocks": (_changed(options={"block_config": [1] * 10**5}), "100,000 blocks .* at most 16 blocks"),
    "width": (
        _changed(options={"growth_rate": 10**9}),
        r"growth_rate is 1000000000; it must be between 1 and",
    ),
    "parameters": (
        _changed(options={"growth_rate": 8192, "block_config": [9, 9], "bottleneck": 8}),
        r"has [\d,]+ parameters with these options and classes; at most 2,000,000,000",
    ),
    "branches": (
        _changed(options={"block_config": [1, 1], "ttl_depths": [[1] * 10**5]}),
        "a layer of 100,000 branches; at most 16",
    ),
    "depth": (
        _changed(options={"block_config": [1, 1], "ttl_depths": [[10**9]]}),
        "ttl_depths has the depth 1000000000; at most 64",
    ),
    "factor": (
        _changed(architecture="c3d", options={"width": 1e300}),
        r"width is 1e\+300; it must be between",
    ),
    "no factor": (_changed(architecture="c3d", options={"width": float("nan")}), "width is nan; it must be"),
    "pool": (_changed(architecture="i3d", options={"pool_depths": [10**9, 3, 3, 2]}), "pool_depths is 1000"),
    "stages": (
        _changed(architecture="resnet3d18", options={"block_config": [10**9, 1, 1, 1]}),
        "4 blocks with",
    ),
    "brackets": (_changed(provenance=[])[:-3] + DEEP + "}", "the model card is not JSON"),
    "nested": (
        _changed(provenance=json.loads('{"a":' * 300 + "1" + "}" * 300)),
        "nested more than 20 levels",
    ),
    "digits": (
        _changed(clip={}).replace("{}", '{"stride": 1' + "0" * 9999 + "}"),
        "the model card is not JSON",
    ),
    "large number": (_changed(options={"drop_rate": 10**400}), "it must be a number"),
    "long name": (_changed(architecture="x" * 10**6), "unknown model 'x{99}…x{99}'"),
    "long option": (_changed(options={"x" * 10**6: 1}), "unknown name 'x{99}…x{99}'"),
    "long card": (_changed(provenance={"x": "x" * (5 << 20)}), "characters; at most 4,194,304 are read"),
}


@pytest.mark.situation(
    "Machines and disks",
    "A weights file that describes a huge model",
    "Refused before anything is built",
)
@pytest.mark.parametrize("name", DANGERS)
def test_a_card_is_bounded_before_a_model_is_built(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, message = DANGERS[name]
    path = _file(tmp_path / "a.safetensors")
    path.write_bytes(_with_card(path.read_bytes(), card))
    monkeypatch.setattr(torch.nn.Module, "to_empty", _refused)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 2000


def _refused(*_: object, **__: object) -> None:
    raise AssertionError("memory for the weights is allocated")


def test_a_card_of_a_larger_model_needs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that claims to be a large model is refused by its shapes."""
    path = _file(tmp_path / "a.safetensors")
    large = _changed(options={"growth_rate": 512, "block_config": [9, 9]})
    path.write_bytes(_with_card(path.read_bytes(), large))
    monkeypatch.setattr(torch.nn.Module, "to_empty", _refused)
    with pytest.raises(CheckpointError, match="the weights are not those of densenet3d_tiny with 2 classes"):
        load_model(path)


def test_headers_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(_joined(b" " * (MAX_HEADER + 1), b""))
    with pytest.raises(CheckpointError, match=r"its header has 16\.8 MB; at most"):
        read_card(path)
    path.write_bytes(_joined(DEEP.encode(), b""))
    with pytest.raises(CheckpointError, match="the file is damaged or incomplete"):
        read_card(path)
    path.write_bytes(
        _joined({f"{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(50_001)}, b"")
    )
    with pytest.raises(CheckpointError, match="has 50,001 tensors; at most 50,000"):
        read_card(path)


def test_kinds_of_numbers_are_compared(tmp_path: Path) -> None:
    state = create_model(CARD.architecture, num_classes=2, options=SMALL).state_dict()
    name = "classifier.weight"
    write_tensors(
        state | {name: state[name].int()}, tmp_path / "a.safetensors", metadata={CARD_KEY: CARD.to_json()}
    )
    with pytest.raises(CheckpointError, match=r"another kind of numbers: classifier\.weight"):
        load_model(tmp_path / "a.safetensors")


def test_models_of_python_are_bounded_too() -> None:
    with pytest.raises(ConfigError, match="num_classes is 100,001; at most 100,000"):
        create_model("t3d_tiny", num_classes=100_001)
    with pytest.raises(ConfigError, match=r"c3d has [\d,]+ parameters"):
        create_model("c3d", options={"width": 16})


# --- many at random --------------------------------------------------------------------------------------

VALUES: list[object] = [
    0, 1, -1, 2, 255, 4096, 10**6, 10**9, 2**31, 2**63, 10**30, 10**400, -(10**30),
    0.5, -0.5, 1e308, float("nan"), float("inf"), True, None, "", "x", "\x1b[2J", "\ud800", "x" * 99_999,
    [], {}, [[]], [1], [10**9], [1] * 99_999, ["a"] * 99_999, {"a": {"b": [1]}}, [None], [[10**9] * 3] * 3,
]  # fmt: skip


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of everything in nested lists and tables."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


def _mutate(table: dict[str, Any], rng: random.Random) -> None:
    container, key = rng.choice(list(_places(table)))
    action = rng.random()
    if action < 0.15:
        del container[key]
    elif action < 0.25 and isinstance(container, dict):
        container[rng.choice(["x", "", "width", "ttl_depths", "block_config", "stem"])] = deepcopy(
            rng.choice(VALUES)
        )
    else:
        container[key] = deepcopy(rng.choice(VALUES))


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return a weights file with changes in its card, its header or its bytes."""
    header, data = _split(content)
    kind = rng.random()
    if kind < 0.6:
        card = json.loads(header["__metadata__"][CARD_KEY])
        if rng.random() < 0.5:
            card["architecture"] = rng.choice(list_models())
        for _ in range(rng.randint(1, 3)):
            _mutate(card, rng)
        header["__metadata__"][CARD_KEY] = json.dumps(card)
        return _joined(header, data)
    if kind < 0.8:
        for _ in range(rng.randint(1, 3)):
            _mutate(header, rng)
        return _joined(header, data)
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(min(len(changed), 4000))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.2 else changed)


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """Return what reading a file gives: `read`, or the first words of the error."""
    try:
        read(path)
    except T3DError as error:
        return str(error)
    return "read"


@pytest.mark.situation(
    "Machines and disks",
    "A damaged weights file",
    "A clear error",
)
def test_mutated_files_raise_errors_of_this_project_only(tmp_path: Path) -> None:
    content = _file(tmp_path / "a.safetensors").read_bytes()
    path = tmp_path / "b.safetensors"
    outcomes = []
    for seed in range(200):
        path.write_bytes(mutated(content, random.Random(seed)))
        outcomes += [outcome(read_card, path), outcome(load_model, path)]
    assert {each for each in outcomes if each != "read" and str(path) not in each} == set()
    assert max(map(len, outcomes)) < 3000
