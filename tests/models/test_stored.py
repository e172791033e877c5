"""Weights files that were written before: each family's loads, and computes what it computed then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from t3d.clip import ClipSpec
from t3d.models import load_model
from t3d.models.weights import load_backbone
from t3d.models.weights_header import read_card

FILES = sorted((Path(__file__).parent / "stored").glob("*.safetensors"))
CLIP = ClipSpec(
    num_frames=8,
    stride=4,
    size=64,
    resize=72,
    resize_mode="square",
    mean=(0.4, 0.5, 0.6),
    std=(0.3, 0.2, 0.1),
    short="repeat_last",
    tail="pad",
    modality="gray",
    segments=2,
)


def test_every_family_is_here() -> None:
    assert [file.stem for file in FILES] == [
        *("c3d", "densenet3d", "i3d", "r2plus1d", "resnet3d", "resnet3d_ttl", "t3d")
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_stored_file_loads_and_computes_the_same(file: Path) -> None:
    model, card = load_model(file)
    assert card == read_card(file)
    assert card.classes == ("läuft", "jump")
    assert card.clip == CLIP
    assert card.targets == ("multi" if file.stem == "t3d" else "single")
    x = (torch.arange(3 * 8 * 64 * 64) * 0.7).sin().reshape(1, 3, 8, 64, 64)
    with torch.no_grad():
        logits = model(x)[0]
    # Two of the files hold half-precision weights.
    torch.testing.assert_close(logits, torch.tensor(card.provenance["logits"]), atol=1e-4, rtol=1e-3)
    assert load_backbone(model, file).complete
