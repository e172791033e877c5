"""The contact sheet of similar videos."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from t3d.report import features_page
from t3d.report.features_page import write_sheet
from t3d.report.pictures import Camera
from t3d.transfer.feature_table import FeatureTable
from t3d.transfer.features_config import FeaturesConfig


def table() -> FeatureTable:
    """Nine videos in three directions; the first two are the same, and one name is odd."""
    features = np.repeat(np.eye(3, dtype=np.float32), 3, axis=0)
    features += np.arange(27, dtype=np.float32).reshape(9, 3) / 200
    features[1] = 2 * features[0]
    paths = np.array(["set/<b>.mp4", *(f"set/{number}.mp4" for number in range(1, 9))])
    labels = np.array(["a & b"] * 3 + [""] * 6)
    start = np.array([1.5] + [np.nan] * 8)
    return FeatureTable(
        features, paths, labels, paths, start, np.full(9, np.nan), np.full(9, -1), np.arange(9)
    )


def sheet(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(Camera, "still", lambda *_: "data:image/webp;base64,AAAA")
    config = FeaturesConfig("runs/mine", ("set",), out="f.npz", similar=0.9999, clusters=3)
    page = write_sheet(table(), config, path / "sheet.html", command="t3d features <x>")
    return page.read_text(encoding="utf-8")


def test_it_shows_near_duplicates_and_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = sheet(tmp_path, monkeypatch)
    words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    for expected in (
        "1 pair of videos has a cosine of at least 0.9999. They link 2 videos into 1 group.",
        "2 videos, cosine at least 1.000",
        "set/&lt;b&gt;.mp4 a &amp; b · from 1.5 s",
        "3 videos (3 a &amp; b)",
        "Cluster 3: 3 videos",
        "t3d features &lt;x&gt;",
    ):
        assert expected in words, expected
    assert text.count("<img") == 2 + 9


def test_a_full_page_counts_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_page, "_MOST_BYTES", 100)
    text = sheet(tmp_path, monkeypatch)
    assert 2 < text.count("<img") < 9
    assert "… and 3 more." in text
