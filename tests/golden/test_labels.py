"""Few labels: which videos keep theirs when only a share is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from t3d.data.clips.frames import FrameStore
from t3d.device import Compute
from t3d.models.weights import write_tensors
from t3d.transfer.linear import fit_linear
from t3d.transfer.probe import run_probe
from t3d.transfer.probe_config import ProbeConfig
from t3d.transfer.teachers.base import TEACHER_KEY

Make = Callable[..., Any]


def kept(table: Any, fraction: float, seed: int) -> list[str]:
    subset = table.label_subset(fraction, seed=seed)
    assert all(subset.class_counts().values())
    assert set(subset.sources()) <= set(table.sources())
    return list(subset.sources())


def test_one_label_a_video(manifest: Make) -> None:
    rows = [(f"v{n:02d}", 0 if n < 14 else 1, f"s{n // 2 + n % 2 * (n > 20):02d}") for n in range(34)]
    table = manifest(rows, "a b")
    assert kept(table, 0.1, 0) == ["s02", "s10"]
    assert kept(table, 0.3, 0) == ["s02", "s03", "s07", "s10", "s12"]
    assert kept(table, 0.3, 1) == ["s01", "s03", "s11", "s12", "s15"]
    assert set(kept(table, 0.1, 0)) <= set(kept(table, 0.3, 0)) <= set(kept(table, 0.6, 0))
    reversed_rows = manifest(rows[::-1], "a b")
    assert kept(reversed_rows, 0.3, 1) == kept(table, 0.3, 1)


def test_several_labels_a_video(manifest: Make) -> None:
    rows = [(f"v{n:02d}", [n % 2] if n % 9 else [0, 2], f"s{n // 2:02d}") for n in range(28)]
    table = manifest(rows, "a b c")
    assert kept(table, 0.1, 0) == ["s00", "s03"]
    assert kept(table, 0.3, 0) == ["s00", "s02", "s03", "s05"]
    assert kept(table, 0.3, 4) == ["s00", "s01", "s10", "s12"]
    assert set(kept(table, 0.1, 0)) <= set(kept(table, 0.3, 0))


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("resnet10t", pretrained=False, num_classes=2)
    card = {"name": "timm:resnet10t", "size": 32}
    write_tensors(net.state_dict(), path, metadata={TEACHER_KEY: json.dumps(card)})
    return path


def test_a_probe_opens_the_same_subset(
    videos: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = videos / "probe_test.csv"
    test.write_text("path,label,source\na/00.mkv,a,s0\nb/02.mkv,b,s1\n")
    opened: list[str] = []
    original = FrameStore.open

    def recording(store: FrameStore, path: Path) -> Any:
        opened.append(path.stem)
        return original(store, path)

    monkeypatch.setattr(FrameStore, "open", recording)
    drawn = []
    for seed in range(3):
        opened.clear()
        run_probe(
            ProbeConfig(
                str(videos / "list.csv"),
                str(test),
                teacher=str(teacher_file),
                num_frames=2,
                label_fraction=0.3,
                label_seed=seed,
                compute=Compute(device="cpu", precision="fp32", workers=0),
            )
        )
        drawn.append(sorted(set(opened) - {"00", "02"}))
    assert drawn == [["04", "05", "06", "07"], ["03", "08", "09"], ["04", "05", "06", "07"]]


def test_the_folds_that_choose_a_penalty(manifest: Make) -> None:
    """The choice depends on which sources share a fold."""
    chosen = []
    for phase in range(8):
        rows = [(f"v{n:02d}", n // 2 % 2, f"s{n // 2:02d}") for n in range(40)]
        table = manifest(rows, "a b")
        clips = [
            (n, 0, np.array([np.sin(12.9 * n * k + phase) + 0.6 * (n // 2 % 2) for k in range(1, 7)]))
            for n in range(40)
        ]
        chosen.append(float(fit_linear(table, clips).strength))
    assert chosen == [0.1, 1.0, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0]
