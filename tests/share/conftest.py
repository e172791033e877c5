"""Fixtures of sharing: a Hub on loopback, and a finished run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.data.manifest.manifest import Manifest
from t3d.io import hub as hub_module
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.training.run_folder import RunFolder

from .hub_server import HubServer  # type: ignore[import-not-found, unused-ignore]

CLASSES = ("left | <b>", "right")
FIGURES: dict[str, Any] = {
    "videos": 40,
    "bad": 1,
    "clips": 80,
    "groups": 20,
    "correct": 30,
    "video_top1": 0.75,
    "interval": [0.6, 0.86],
    "clip_top1": 0.7,
    "clip_interval": [0.58, 0.8],
    "balanced_accuracy": 0.74,
    "chance": 0.5,
    "majority": {"name": CLASSES[0], "share": 0.55},
    "loss": 0.6,
    "per_class": {CLASSES[0]: 0.8, CLASSES[1]: 0.7},
    "confusion": [[18, 4], [6, 12]],
    "secret": "/home/me/private",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub without repositories. The process is logged in, and its cache is empty."""
    server = HubServer("hf_secretToken")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", server.token)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between tries
    hub_module.local_folder.cache_clear()
    yield server
    hub_module.local_folder.cache_clear()
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `t3d train`, with the result of a test in `test`."""
    root = tmp_path_factory.mktemp("private place")
    table = root / "train.csv"
    rows = [f"{root}/{name} {i}.mp4,{CLASSES[i % 2]},film {i // 2}\n" for i, name in enumerate("abcde")]
    table.write_text("path,label,source\n" + "".join(rows))
    train = Manifest.from_csv(table)
    folder = RunFolder(root / "run")
    torch.manual_seed(0)
    net = create_model("t3d_tiny", num_classes=2)
    card = ModelCard(
        "t3d_tiny",
        classes=CLASSES,
        clip=ClipSpec(num_frames=8, stride=1, size=32, resize=32),
        provenance={"trained_on": str(table), "videos": 5, "fused": [{"model": "/home/me/other"}]},
    )
    with folder.finished("t3d train", {"data": {"train": str(table)}}, train, []) as part:
        save_model(net, part.last, card=card)
    (root / "run" / "test").mkdir()
    (root / "run" / "test" / "metrics.json").write_text(json.dumps(FIGURES))
    return folder.path
